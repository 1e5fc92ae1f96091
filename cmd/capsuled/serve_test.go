package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPolicyTooLong: a policy without a fault that the firewall refuses is the configuration's fault all the same, so that
// the service manager does not try again.
func TestPolicyTooLong(t *testing.T) {
	dir := t.TempDir()
	var text strings.Builder
	text.WriteString("secure = true\n")
	for i := range 80 {
		fmt.Fprintf(&text, "[[rule]]\nprotocol = \"tcp\"\nports = [\"%d\"]\npeers = [", 1000+i)
		for j := range 60 {
			fmt.Fprintf(&text, "\"203.0.113.%d\", ", 2*j+1) // no two make a prefix
		}
		text.WriteString("]\n")
	}
	if err := os.Mkdir(filepath.Join(dir, "policies"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "policies", "secure.toml"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, "c.toml", fmt.Sprintf(`[host]
state_dir = "%[1]s/state"
run_dir = "%[1]s/run"
[api]
socket = "%[1]s/run/socket"
listen = []
[policy]
dir = "%[1]s/policies"
`, dir), 0o644)
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"-config", config}, &stderr, &stderr); code != exitConfig ||
		!strings.Contains(stderr.String(), `capsuled: wrong configuration: firewall: options: `) || !strings.Contains(stderr.String(), `policy "secure": `) {
		t.Errorf("code %d: %s", code, stderr.String())
	}
}
