package imagestore

import (
	"bytes"
	"encoding/binary"
	"os"
)

// An overlay is written here rather than by a qemu-img process: that costs several milliseconds for what are
// three small writes. Layout in clusters of 64 KiB: header, refcount table, one refcount block, L1 table.
const (
	overlayClusterBits = 16
	overlayCluster     = 1 << overlayClusterBits
	overlayL1Cluster   = 3
)

// writeOverlay makes f an empty qcow2 overlay of the given virtual size over the file base, which is named
// relative to the overlay's own directory. The format of the base is written down, so that nobody probes it.
func writeOverlay(f *os.File, virtualBytes int64, base string, format Format) error {
	const coveredByL2 = 1 << (2*overlayClusterBits - 3) // 512 MiB
	l1Entries := (virtualBytes + coveredByL2 - 1) / coveredByL2
	l1Clusters := (l1Entries*8 + overlayCluster - 1) / overlayCluster
	clusters := overlayL1Cluster + l1Clusters

	refcounts := make([]byte, 2*clusters) // 16 bits each, every cluster used once
	for i := range clusters {
		binary.BigEndian.PutUint16(refcounts[2*i:], 1)
	}
	for _, w := range []struct {
		cluster int64
		data    []byte
	}{
		{0, overlayHeader(virtualBytes, l1Entries, base, format)},
		{1, binary.BigEndian.AppendUint64(nil, 2*overlayCluster)},
		{2, refcounts},
	} {
		if _, err := f.WriteAt(w.data, w.cluster*overlayCluster); err != nil {
			return err
		}
	}
	return f.Truncate(clusters * overlayCluster) // the L1 table is a hole: nothing allocated yet
}

// overlayHeader is the first cluster: fixed header, backing format extension, end mark, backing file name.
func overlayHeader(virtualBytes, l1Entries int64, base string, format Format) []byte {
	var extensions bytes.Buffer
	extension := func(kind uint32, data string) {
		binary.Write(&extensions, binary.BigEndian, [2]uint32{kind, uint32(len(data))})
		extensions.WriteString(data)
		extensions.Write(make([]byte, -len(data)&7))
	}
	extension(extBackingFormat, string(format))
	extension(extEnd, "")

	h := qcow2Header{
		Version:        3,
		BackingOffset:  uint64(qcow2V3Length + extensions.Len()),
		BackingLength:  uint32(len(base)),
		ClusterBits:    overlayClusterBits,
		Size:           uint64(virtualBytes),
		L1Entries:      uint32(l1Entries),
		L1Offset:       overlayL1Cluster * overlayCluster,
		RefcountOffset: overlayCluster,
		RefcountChunks: 1,
		RefcountOrder:  4,
		HeaderLength:   qcow2V3Length,
	}
	copy(h.Magic[:], qcow2Magic)
	var out bytes.Buffer
	binary.Write(&out, binary.BigEndian, h) // a bytes.Buffer takes every write
	out.Write(extensions.Bytes())
	out.WriteString(base)
	return out.Bytes()
}
