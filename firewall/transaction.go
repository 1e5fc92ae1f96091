package firewall

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// nfTables speaks to the kernel's nf_tables without a program in between, where a program is slow: nft reads
// all chains of the host before it adds one element, and at the end of a program that deleted something the
// kernel waits for an RCU grace period (it closes the program's socket), several milliseconds. This socket
// stays open as long as its owner lives.
type nfTables struct {
	mu  sync.Mutex // guards the socket and the sequence number
	fd  int
	seq uint32
}

func openNFTables() (*nfTables, error) {
	fd, err := openNetlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	n := &nfTables{fd: fd}
	runtime.AddCleanup(n, func(fd int) { _ = unix.Close(fd) }, fd)
	return n, nil
}

// generation is the number that the kernel raises with every change of nf_tables in this network namespace,
// whoever makes it and in whatever table.
func (n *nfTables) generation() (uint32, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seq++
	if err := n.send(message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0, n.seq, unix.AF_UNSPEC, 0, nil)); err != nil {
		return 0, err
	}
	var generation uint32
	found := false
	err := receive(n.fd, func(m unix.NlMsghdr, body []byte) (done bool, err error) {
		if m.Seq != n.seq || m.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN || len(body) < 4 {
			return false, nil
		}
		for attrs := body[4:]; len(attrs) >= 8; { // the first four bytes are nfgenmsg
			size := int(binary.NativeEndian.Uint16(attrs))
			if binary.NativeEndian.Uint16(attrs[2:]) == unix.NFTA_GEN_ID {
				generation, found = binary.BigEndian.Uint32(attrs[4:]), true
				break
			}
			attrs = attrs[min(max((size+3)&^3, 4), len(attrs)):]
		}
		return true, nil
	})
	if err == nil && !found {
		err = fmt.Errorf("nf_tables: %w: the kernel tells no generation", ErrUnavailable)
	}
	return generation, err
}

// change deletes and adds elements of the bridge table in one transaction. Deleting what is not there is an
// error, and so is a table or set that is gone; adding what is there already changes nothing.
//
// A system call does not see ctx end. It waits for other transactions at most, and for an answer no longer than
// a command may take.
func (n *nfTables) change(ctx context.Context, gone, come []pin) error {
	if len(gone)+len(come) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("nf_tables: %w: %w", ErrUnavailable, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	first := n.seq + 1
	batch := n.next(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	const set = unix.NFNL_SUBSYS_NFTABLES << 8
	for _, p := range gone {
		batch = append(batch, n.next(set|unix.NFT_MSG_DELSETELEM, unix.NLM_F_ACK, unix.NFPROTO_BRIDGE, 0, p.attributes())...)
	}
	for _, p := range come {
		batch = append(batch, n.next(set|unix.NFT_MSG_NEWSETELEM, unix.NLM_F_ACK|unix.NLM_F_CREATE, unix.NFPROTO_BRIDGE, 0, p.attributes())...)
	}
	batch = append(batch, n.next(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)...)
	if err := n.send(batch); err != nil {
		return err
	}
	waiting := len(gone) + len(come) // each is answered, whether the transaction came about or not
	return receive(n.fd, func(m unix.NlMsghdr, body []byte) (done bool, err error) {
		if m.Type != unix.NLMSG_ERROR || int32(m.Seq-first) < 0 || len(body) < 4 {
			return false, nil // of a transaction before this one, which ended with its first error
		}
		if code := -int32(binary.NativeEndian.Uint32(body)); code != 0 {
			what := "the transaction"
			if i := int(m.Seq - first - 1); i >= 0 && i < len(gone)+len(come) {
				p := append(append([]pin{}, gone...), come...)[i]
				what = p.set + " " + p.text
			}
			return true, fmt.Errorf("nf_tables: %s: %w: %w", what, ErrUnavailable, unix.Errno(code))
		}
		waiting--
		return waiting == 0, nil
	})
}

// next is a message with the next sequence number.
func (n *nfTables) next(kind, flags uint16, family uint8, resource uint16, attributes []byte) []byte {
	n.seq++
	return message(kind, flags, n.seq, family, resource, attributes)
}

func (n *nfTables) send(b []byte) error {
	if err := unix.Sendto(n.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("nf_tables: send: %w: %w", ErrUnavailable, err)
	}
	return nil
}

// message is one netlink message of netfilter: the header, nfgenmsg, attributes.
func message(kind, flags uint16, seq uint32, family uint8, resource uint16, attributes []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+4+len(attributes)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // port: the kernel knows
	b = append(b, family, unix.NFNETLINK_V0)
	b = binary.BigEndian.AppendUint16(b, resource)
	return append(b, attributes...)
}

// attributes say which element of which set is meant.
func (p pin) attributes() []byte {
	const nested = unix.NLA_F_NESTED
	_, table, _ := strings.Cut(bridgeTable, " ")
	elem := attribute(unix.NFTA_SET_ELEM_KEY|nested, attribute(unix.NFTA_DATA_VALUE, p.key()))
	if p.verdict != "" {
		code, chain := uint32(0), []byte(nil) // NF_DROP
		if to, ok := strings.CutPrefix(p.verdict, "goto "); ok {
			goTo := int32(unix.NFT_GOTO)
			code, chain = uint32(goTo), attribute(unix.NFTA_VERDICT_CHAIN, []byte(to), []byte{0})
		}
		verdict := attribute(unix.NFTA_DATA_VERDICT|nested,
			attribute(unix.NFTA_VERDICT_CODE, binary.BigEndian.AppendUint32(nil, code)), chain)
		elem = append(elem, attribute(unix.NFTA_SET_ELEM_DATA|nested, verdict)...)
	}
	return append(append(
		attribute(unix.NFTA_SET_ELEM_LIST_TABLE, []byte(table), []byte{0}),
		attribute(unix.NFTA_SET_ELEM_LIST_SET, []byte(p.set), []byte{0})...),
		attribute(unix.NFTA_SET_ELEM_LIST_ELEMENTS|nested, attribute(unix.NFTA_LIST_ELEM|nested, elem))...)
}
