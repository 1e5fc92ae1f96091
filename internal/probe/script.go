package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// attack is one line of a script, ready to run.
type attack struct {
	name  string
	waits bool // it may wait for an answer
	do    func(*nic) (string, error)
}

// verb makes an attack of its arguments; what it does not take from them is an error.
type verb struct {
	waits bool
	make  func(mark string, a *arguments) func(*nic) (string, error)
}

var verbs = map[string]verb{
	"neighbour": {false, setNeighbour},

	"frame": {false, frames(plainFrame)},
	"arp":   {false, frames(arpFrame)},
	"ip4":   {false, frames(ip4Frames)},
	"ip6":   {false, frames(ip6Frame)},
	"dhcp":  {false, frames(dhcpFrame)},

	"tcp":   {true, connectTCP},
	"udp":   {true, sendUDP},
	"ping":  {true, ping},
	"dns":   {true, askDNS},
	"flow":  {true, keepFlow},
	"flood": {true, floodUDP},
	"scan":  {true, scanPorts},

	"list":   {false, listDirectory},
	"read":   {false, readFile},
	"write":  {false, writeFile},
	"random": {false, readRandom},
	"hold":   {true, holdInMemory},
}

// readScript reads a whole script. All its faults are reported at once, by line.
func readScript(in io.Reader, around string) ([]attack, error) {
	var script []attack
	var faults []error
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		a, err := readLine(words, around)
		if err != nil {
			faults = append(faults, fmt.Errorf("probe: line %d: %w", n, err))
		}
		script = append(script, a)
	}
	return script, errors.Join(append(faults, lines.Err())...)
}

func readLine(words []string, around string) (attack, error) {
	if len(words) < 2 {
		return attack{}, fmt.Errorf("%q: an attack has a name and a verb", words[0])
	}
	name := words[0]
	// A marker is one label of a domain name (RFC 1035, 2.3.4), and none is part of another.
	mark := around + "-" + name + "-" + around
	if strings.Trim(mark, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(mark) > 63 {
		return attack{}, fmt.Errorf("marker %q: want at most 63 small letters, digits and hyphens", mark)
	}
	v, ok := verbs[words[1]]
	if !ok {
		return attack{}, fmt.Errorf("%s: no verb %q: want one of %s", name, words[1],
			strings.Join(slices.Sorted(maps.Keys(verbs)), ", "))
	}
	args := &arguments{given: map[string]string{}}
	for _, w := range words[2:] {
		key, value, ok := strings.Cut(w, "=")
		if _, twice := args.given[key]; !ok || twice {
			return attack{}, fmt.Errorf("%s: %q: want key=value, each key once", name, w)
		}
		args.given[key] = value
	}
	do := v.make(mark, args)
	if err := args.check(); err != nil {
		return attack{}, fmt.Errorf("%s: %w", name, err)
	}
	return attack{name, v.waits, do}, nil
}

// arguments are those of one line. The methods take one out and note what is wrong with it.
type arguments struct {
	given  map[string]string
	faults []error
}

// check says what was wrong, and what nobody took.
func (a *arguments) check() error {
	for _, key := range slices.Sorted(maps.Keys(a.given)) {
		a.faults = append(a.faults, fmt.Errorf("no argument %q of this verb", key))
	}
	return errors.Join(a.faults...)
}

// take parses an argument that may be absent; then it is the zero value.
func take[T any](a *arguments, key string, parse func(string) (T, error)) (value T) {
	text, ok := a.given[key]
	if !ok {
		return value
	}
	delete(a.given, key)
	value, err := parse(text)
	if err != nil {
		a.faults = append(a.faults, fmt.Errorf("%s=%s: %w", key, text, err))
	}
	return value
}

func (a *arguments) has(key string) bool { _, ok := a.given[key]; return ok }

// need notes that an argument must be there.
func (a *arguments) need(key string) {
	if _, ok := a.given[key]; !ok {
		a.faults = append(a.faults, fmt.Errorf("%s= is missing", key))
	}
}

func (a *arguments) text(key string) string {
	return take(a, key, func(s string) (string, error) { return s, nil })
}

func (a *arguments) number(key string, bits int) uint64 {
	return take(a, key, func(s string) (uint64, error) { return strconv.ParseUint(s, 0, bits) })
}

func (a *arguments) address(key string) netip.Addr { return take(a, key, netip.ParseAddr) }

func (a *arguments) socket(key string) netip.AddrPort { return take(a, key, netip.ParseAddrPort) }

func (a *arguments) mac(key string) net.HardwareAddr { return take(a, key, net.ParseMAC) }

func (a *arguments) bytes(key string) []byte { return take(a, key, hex.DecodeString) }

// choice is one of the words; the first when it is absent.
func (a *arguments) choice(key string, words ...string) string {
	s := a.text(key)
	if s == "" {
		return words[0]
	}
	if !slices.Contains(words, s) {
		a.faults = append(a.faults, fmt.Errorf("%s=%s: want one of %s", key, s, strings.Join(words, ", ")))
	}
	return s
}
