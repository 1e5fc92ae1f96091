package guest

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writeCPIO writes the tree as the "newc" archive that the kernel unpacks as its first root, all of it owned by
// root, in order of names.
func writeCPIO(w io.Writer, tree string) error {
	out := bufio.NewWriter(w)
	inode := 0
	entry := func(name string, mode, links uint32, data []byte) error {
		inode++
		_, err := fmt.Fprintf(out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		const header = 110
		return errorOf(err, pad(out, header+len(name)+1), write(out, data), pad(out, len(data)))
	}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		const directory, regular = 0o040755, 0o100755
		if d.IsDir() {
			return entry(name, directory, 2, nil)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return entry(name, regular, 1, b)
	})
	return errorOf(err, entry("TRAILER!!!", 0, 1, nil), out.Flush())
}

// pad writes what brings n bytes to a multiple of four.
func pad(w io.Writer, n int) error { return write(w, make([]byte, (4-n%4)%4)) }

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// errorOf returns the first error; a bufio.Writer repeats its own.
func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
