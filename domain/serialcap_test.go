package domain_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/capsuled/capsuled/domain"
)

func TestSerialCap(t *testing.T) {
	for _, row := range []struct {
		name, qemu, virtlogd string
		want                 int64
	}{
		{"nothing said", "", "", 2 << 20},
		{"said in comments alone", "#stdio_handler = \"file\"\n", "#max_size = 0\n", 2 << 20},
		{"virtlogd, another size", "stdio_handler = \"logd\"\n", "max_size = 4096 # bytes\n", 4096},
		{"QEMU writes it itself", "  stdio_handler=\"file\"\n", "max_size = 4096\n", 0},
		{"never rolled over", "", "max_size = 0\n", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{"qemu.conf": row.qemu, "virtlogd.conf": row.virtlogd} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := domain.SerialCap(dir); err != nil || got != row.want {
				t.Errorf("%d, %v; want %d", got, err, row.want)
			}
		})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "virtlogd.conf"), []byte("max_size = much\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := domain.SerialCap(dir); err == nil {
		t.Error("a size that is no number passes")
	}
}
