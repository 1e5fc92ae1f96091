package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// askDNS asks a name server at server= for addresses of name=, or of MARKER.example.org when it is absent, over= udp
// or tcp.
func askDNS(mark string, a *arguments) func(*nic) (string, error) {
	a.need("server")
	server, name, over := a.socket("server"), a.text("name"), a.choice("over", "udp", "tcp")
	if name == "" {
		name = mark + ".example.org"
	}
	kinds := map[string]dnsmessage.Type{"a": dnsmessage.TypeA, "aaaa": dnsmessage.TypeAAAA, "txt": dnsmessage.TypeTXT}
	kind := kinds[a.choice("type", "a", "aaaa", "txt")]
	return func(*nic) (string, error) {
		n, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
		if err != nil {
			return "", err
		}
		q := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 0x7072, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: n, Type: kind, Class: dnsmessage.ClassINET}},
		}
		packed, err := q.Pack()
		if err != nil {
			return "", err
		}
		answer, err := exchange(over, server.String(), packed)
		if err != nil {
			return "", err
		}
		return describe(answer)
	}
}

// exchange asks and waits; over TCP a message has its length before it (RFC 1035, 4.2.2).
func exchange(over, server string, question []byte) ([]byte, error) {
	conn, err := dial(over+"4", server)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	answer := make([]byte, 4096)
	if over == "udp" {
		if _, err := conn.Write(question); err != nil {
			return nil, err
		}
		n, err := conn.Read(answer)
		return answer[:n], err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(question))), question...)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, answer[:2]); err != nil {
		return nil, err
	}
	n := min(int(binary.BigEndian.Uint16(answer)), len(answer))
	_, err = io.ReadFull(conn, answer[:n])
	return answer[:n], err
}

// describe is "rcode N" and the addresses of an answer.
func describe(answer []byte) (string, error) {
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil {
		return "", err
	}
	text := fmt.Sprintf("rcode %d", m.RCode)
	for _, r := range m.Answers {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			text += fmt.Sprintf(" %d.%d.%d.%d", a.A[0], a.A[1], a.A[2], a.A[3])
		}
	}
	return text, nil
}
