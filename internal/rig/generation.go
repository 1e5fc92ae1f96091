package rig

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ruleset asks the kernel for the generation number of its nf_tables rules, among them those of iptables, which are
// kept there: as long as it stays the same, nobody has changed a rule or an element (nft(8), nf_tables_api.c).
type ruleset struct{ fd int }

func openRuleset() (*ruleset, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("rig: netlink: %w", err)
	}
	limit := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return nil, fmt.Errorf("rig: netlink: %w", err)
	}
	return &ruleset{fd}, nil
}

func (r *ruleset) close() { _ = unix.Close(r.fd) }

// generation is the present number.
func (r *ruleset) generation() (uint32, error) {
	const header, family = 16, 4 // struct nlmsghdr, struct nfgenmsg
	ask := make([]byte, header+family)
	order := binary.NativeEndian
	order.PutUint32(ask[0:], uint32(len(ask)))
	order.PutUint16(ask[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	order.PutUint16(ask[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(r.fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("rig: generation of the rules: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(r.fd, answer, 0)
	if err != nil {
		return 0, fmt.Errorf("rig: generation of the rules: %w", err)
	}
	if n < header+family || order.Uint16(answer[4:]) != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		return 0, fmt.Errorf("rig: generation of the rules: unexpected answer %x", answer[:n])
	}
	for at := header + family; at+8 <= n; {
		size, kind := int(order.Uint16(answer[at:])), order.Uint16(answer[at+2:])
		if kind == unix.NFTA_GEN_ID {
			return binary.BigEndian.Uint32(answer[at+4:]), nil
		}
		at += (max(size, 4) + 3) &^ 3
	}
	return 0, fmt.Errorf("rig: generation of the rules: not in the answer %x", answer[:n])
}
