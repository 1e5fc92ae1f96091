package imagestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, at string
		want        bool
	}{
		{"/etc/machine-id", "etc/machine-id", true}, {"/etc/machine-id", "srv/etc/machine-id", false}, {"/etc/machine-id", "machine-id", false},
		{"/etc/machine-id", "etc/machine-id/x", false}, {".htrc", "home/u/.htrc", true}, {".htrc", ".htrc", true}, {".htrc", "home/u/x.htrc", false},
		{".htrc", "home/.htrc/u", false}, {".ssh/authorized_keys", "home/u/.ssh/authorized_keys", true}, {".ssh/authorized_keys", "authorized_keys", false},
		{".*_history", "root/.bash_history", true}, {".*_history", "root/bash_history", false}, {"/home/*/.x", "home/u/.x", true},
		{"/home/*/.x", "home/u/v/.x", false}, {"/home/*", "home", false}, {"/etc/ssh/ssh_host_[a-z]*_key", "etc/ssh/ssh_host_rsa_key", true},
	} {
		if got := matches([]string{"never", tt.pattern}, strings.Split(tt.at, "/")); got != tt.want {
			t.Errorf("%s means %s: %v", tt.pattern, tt.at, got)
		}
	}
}

// raw is a disk in memory.
func rawBytes(size int, pieces map[int][]byte) []byte {
	b := make([]byte, size)
	for at, piece := range pieces {
		copy(b[at:], piece)
	}
	return b
}

// bootSector has the given entries: kind, first sector, sectors.
func bootSector(entries ...[3]uint32) []byte {
	b := make([]byte, sector)
	copy(b[510:], mbrSignature)
	for i, e := range entries {
		at := b[mbrTable+16*i:]
		at[4] = byte(e[0])
		binary.LittleEndian.PutUint32(at[8:], e[1])
		binary.LittleEndian.PutUint32(at[12:], e[2])
	}
	return b
}

func TestPartitions(t *testing.T) {
	extended := [3]uint32{0x0f, 100, 900}
	for _, tt := range []struct {
		name   string
		pieces map[int][]byte
		want   []partition // nil for a refusal
	}{
		{"primary", map[int][]byte{0: bootSector([3]uint32{0x83, 8, 100}, [3]uint32{}, [3]uint32{0xEF, 200, 1}, [3]uint32{0x41, 300, 1})},
			[]partition{{8 * 512, 51200, kindOther}, {200 * 512, 512, kindESP}, {300 * 512, 512, kindBoot}}},
		{"logical", map[int][]byte{0: bootSector(extended), 100 * 512: bootSector([3]uint32{0x82, 2, 10}, [3]uint32{5, 50, 100}), 150 * 512: bootSector([3]uint32{0x83, 1, 9})},
			[]partition{{102 * 512, 5120, kindOther}, {151 * 512, 9 * 512, kindOther}}},
		{"logical in circles", map[int][]byte{0: bootSector(extended), 100 * 512: bootSector([3]uint32{0x83, 1, 9}, [3]uint32{5, 50, 9}), 150 * 512: bootSector([3]uint32{}, [3]uint32{5, 50, 9})}, nil},
		{"logical back to the first", map[int][]byte{0: bootSector(extended), 100 * 512: bootSector([3]uint32{0x83, 1, 9}, [3]uint32{5, 0, 9})}, nil},
		{"logical past the end", map[int][]byte{0: bootSector(extended), 100 * 512: bootSector([3]uint32{0x83, 1, 9}, [3]uint32{5, 1 << 31, 9})}, nil},
		{"logical without a table", map[int][]byte{0: bootSector(extended)}, nil},
		{"logical that is too long", map[int][]byte{0: bootSector(extended), 100 * 512: bootSector([3]uint32{0x83, 1, 5000})}, nil},
		{"primary at the boot sector", map[int][]byte{0: bootSector([3]uint32{0x83, 0, 100})}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := partitions(bytes.NewReader(rawBytes(1000*512, tt.pieces)), 1000*512)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(partition{})); diff != "" || (err == nil) != (tt.want != nil) {
				t.Error(err, diff)
			}
			if err != nil && !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
		})
	}
}

// Whatever a table says: the pieces lie within the disk, after its first sector, or the disk is refused.
func FuzzListPartitions(f *testing.F) {
	f.Add(rawBytes(1000*512, map[int][]byte{0: bootSector([3]uint32{0x83, 8, 100})})[:4096])
	f.Add(rawBytes(4096, map[int][]byte{0: bootSector([3]uint32{0x05, 1, 6}), 512: bootSector([3]uint32{0x83, 1, 1}, [3]uint32{5, 2, 2}), 1536: bootSector([3]uint32{0x83, 1, 1})}))
	f.Add(rawBytes(4096, map[int][]byte{0: bootSector([3]uint32{0xEE, 1, 7}), 512: []byte("EFI PART")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		size := int64(len(b))
		all, err := partitions(bytes.NewReader(b), size)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
			return
		}
		for _, p := range all {
			if p.start < sector || p.length <= 0 || p.start+p.length > size {
				t.Errorf("%+v of %d", p, size)
			}
		}
	})
}

// The listing has names of the guest's choice in it: they are names and nothing else.
func FuzzParseList(f *testing.F) {
	f.Add("debugfs: ls -p <2>\n/2/040755/0/0/.//\n/2/040755/0/0/..//\n/12/100644/0/0/name/9/\n")
	f.Add("debugfs: ls -p <99999999999>\n/1/2/3/4/5/6/7/8\n")
	f.Add("/12/100644/0/0/name/9/\n")
	f.Fuzz(func(t *testing.T, out string) {
		listed, err := parseList([]byte(out))
		for dir, entries := range listed {
			for _, e := range entries {
				if dir == 0 || strings.ContainsAny(e.name, "/\n") || !strings.Contains(out, fmt.Sprint(e.name)) {
					t.Errorf("%d: %+v %v", dir, e, err)
				}
			}
		}
	})
}
