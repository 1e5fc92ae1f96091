package domain

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// defaultLogSize is virtlogd's max_size where its configuration says nothing (virtlogd.conf).
const defaultLogSize = 2 << 20

// SerialCap says how many bytes of one file the serial log of a domain may grow to before virtlogd rolls it over, by
// libvirt's configuration in dir (/etc/libvirt). 0 means that nothing bounds it: QEMU writes the file itself
// (stdio_handler in qemu.conf), or virtlogd was told not to roll over. It reads files and asks nobody: what a daemon
// that runs was told at its start may be older.
func SerialCap(dir string) (bytes int64, err error) {
	handler, err := setting(filepath.Join(dir, "qemu.conf"), "stdio_handler")
	if err != nil {
		return 0, fmt.Errorf("domain: serial cap: %w", err)
	}
	if strings.Trim(handler, `"`) == "file" {
		return 0, nil
	}
	size, err := setting(filepath.Join(dir, "virtlogd.conf"), "max_size")
	if err != nil {
		return 0, fmt.Errorf("domain: serial cap: %w", err)
	}
	if size == "" {
		return defaultLogSize, nil
	}
	if bytes, err = strconv.ParseInt(strings.Trim(size, `"`), 10, 64); err != nil {
		return 0, fmt.Errorf("domain: serial cap: max_size in virtlogd.conf: %w", err)
	}
	return bytes, nil
}

// setting reads one "name = value" of a configuration file of libvirt's; "" when the file, or the name in it, is not there.
func setting(path, name string) (value string, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, v, ok := strings.Cut(lines.Text(), "=")
		if ok && strings.TrimSpace(key) == name {
			v, _, _ = strings.Cut(v, "#")
			value = strings.TrimSpace(v) // the last one counts, as in libvirt
		}
	}
	return value, lines.Err()
}
