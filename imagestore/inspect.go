package imagestore

import (
	"context"
	"os"
)

// inspect decides whether a file is an image to take in, and which. The file is our private copy, opened
// read-only. Our own reading comes first, so that the programs of others only ever see what passed it.
// A refusal is a *BadImage.
func inspect(ctx context.Context, f *os.File) (Format, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	size := info.Size()
	if size == 0 {
		return "", 0, refuse("copy it again", "it is empty")
	}
	isQcow2, err := hasAt(f, 0, qcow2Magic)
	if err != nil {
		return "", 0, err
	}
	if isQcow2 {
		h, err := parseQcow2(f, size)
		if err != nil {
			return "", 0, err
		}
		return Qcow2, int64(h.Size), checkQcow2(ctx, f, h)
	}
	if err := checkForeign(f, size); err != nil {
		return "", 0, err
	}
	if err := checkPartitions(f, size); err != nil {
		return "", 0, err
	}
	return Raw, size, describeRaw(ctx, f)
}
