package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// LoadDir reads the policies of a host: for each of [ShippedNames] NAME.toml or NAME.fw in dir, or the shipped one
// where there is neither, or no dir. Other files are let be, unless their names look like policies. Nobody but root
// and the user of this process may be able to write what is read. The error is of type [Faults] and covers all files.
func LoadDir(dir string) (map[string]Loaded, error) {
	d := directory{dir: dir, loaded: map[string]Loaded{}, source: map[string]string{}}
	d.read()
	if err := d.faults.err(); err != nil {
		return nil, err
	}
	for _, name := range shippedNames {
		if _, ok := d.source[name]; !ok {
			p, _ := Shipped(name)
			d.loaded[name] = Loaded{Policy: p}
		}
	}
	return d.loaded, nil
}

type directory struct {
	dir    string
	loaded map[string]Loaded
	source map[string]string // the file of each name that has one
	faults Faults
}

func (d *directory) fault(source, format string, args ...any) {
	d.faults = append(d.faults, Fault{Source: source, Text: fmt.Sprintf(format, args...)})
}

func (d *directory) read() {
	root, err := os.OpenRoot(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		d.fault(d.dir, "the directory of policies cannot be read: %v", reason(err))
		return
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err == nil {
		err = trusted(info)
	}
	if err != nil {
		d.fault(d.dir, "the directory of policies: %v", reason(err))
		return
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		d.fault(d.dir, "the directory of policies cannot be read: %v", reason(err))
		return
	}
	for _, e := range entries {
		d.file(root, e.Name())
	}
}

// file reads one file of the directory, if it is a policy.
func (d *directory) file(root *os.Root, base string) {
	source, ext := filepath.Join(d.dir, base), filepath.Ext(base)
	if ext != ".toml" && ext != ".fw" || base[0] == '.' {
		return
	}
	name := strings.TrimSuffix(base, ext)
	if !slices.Contains(shippedNames, name) {
		d.fault(source, "no policy is called %s: want %s", quote(name), strings.Join(shippedNames, ", "))
		return
	}
	if other, ok := d.source[name]; ok {
		d.fault(source, "%s is there too: want one of the two", filepath.Base(other))
		return
	}
	d.source[name] = source
	text, err := readTrusted(root, base)
	if err != nil {
		d.fault(source, "%v", reason(err))
		return
	}
	p, err := Parse(source, text)
	if fs, ok := errors.AsType[Faults](err); ok {
		d.faults = append(d.faults, fs...)
		return
	}
	if name != Maintenance && !p.Secure {
		d.fault(source, "a policy of this name is in force while protected data is attached: want secure = true (in a .fw file: no ACCEPT of everything, no forward of %s)", fwSSHPort)
	}
	d.loaded[name] = p
}

// readTrusted reads a regular file that only root and we may write. What was opened is what is asked.
func readTrusted(root *os.Root, base string) ([]byte, error) {
	if info, err := root.Lstat(base); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file: want the file itself, no link")
	}
	f, err := root.OpenFile(base, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file: want the file itself, no link")
	}
	if err := trusted(info); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1)) // one more, so that what is too long is seen to be
}

// trusted says who else may write a file or directory.
func trusted(info fs.FileInfo) error {
	const othersWrite = 0o022
	if info.Mode()&othersWrite != 0 {
		return fmt.Errorf("mode %04o lets others write it: want chmod go-w", info.Mode().Perm())
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("owned by user %d, who could write it: want chown root", s.Uid)
	}
	return nil
}

// reason is an error without the path, which was said already.
func reason(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
