package rig

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Watched is what a sampler looks at.
type Watched struct {
	Domain  string     // which is also the name of its tap
	Address netip.Addr // IPv4
	Dir     string     // where its volumes are
	Volumes []string   // how the names of their files begin
}

// Beacon is the pattern that a guest fills its pings with for a sampler to hear: ping -p 5b.
const Beacon = "5b"

const (
	clock       = "15:04:05.000"
	sampleEvery = 20 * time.Millisecond
	bridgeName  = "capsbr0"
	// transit is how long a packet that left a tap may take to the outside world.
	transit = 50 * time.Millisecond
)

// Sampler looks beside a scenario, again and again, whether data is attached and which policies are in force, and
// listens in the outside world for the guest's beacons. It asks /proc, the kernel's rules and the wire, never capsuled.
//
// A look proves a fault, and needs no margin: it is one when the same process had a volume open before and after the
// rules were read in which the fault is.
type Sampler struct {
	watched Watched
	rules   *ruleset
	air     *beacons
	stop    context.CancelFunc
	done    chan struct{}

	mu       sync.Mutex
	known    uint32 // generation of the rules that fences were read from
	fences   Fences
	read     bool // there are fences
	last     string
	open     map[int]span // what a process has open now
	found    Findings
	attached []span
}

// span is a time in which one process had a volume open at every look.
type span struct{ from, to time.Time }

// Findings are what a sampler saw.
type Findings struct {
	Looks    int           // in all
	Attached int           // at a volume that was open
	Beacons  int           // that arrived in the outside world
	Longest  time.Duration // between two looks

	Open  []string // data was attached while a layer was open
	Bare  []string // data was attached while no layer was there at all, the link among them
	Loose []string // beacons that came out while data was attached
	Blind []string // why it could not look
	Told  []string // every change that it saw
}

// NewSampler begins at once.
func NewSampler(w Watched) (*Sampler, error) {
	rules, err := openRuleset()
	if err != nil {
		return nil, err
	}
	air, err := listen(bytes.Repeat([]byte{0x5b}, 16))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Sampler{watched: w, rules: rules, air: air, stop: stop, done: make(chan struct{}), open: map[int]span{}}
	go func() {
		defer close(s.done)
		s.run(ctx)
	}()
	return s, nil
}

func (s *Sampler) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	before := time.Now()
	for {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.mu.Lock()
			s.found.Blind = append(s.found.Blind, err.Error())
			s.mu.Unlock()
		}
		now := time.Now()
		s.mu.Lock()
		s.found.Longest = max(s.found.Longest, now.Sub(before))
		s.mu.Unlock()
		before = now
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look takes one sample: who has a volume open, the link, the rules, and again the link and who has.
func (s *Sampler) look(ctx context.Context) error {
	from := time.Now()
	before, err := holders(s.watched.Dir, s.watched.Volumes)
	if err != nil {
		return err
	}
	link, err := readLink(s.watched.Domain)
	if err != nil {
		return err
	}
	fences, err := s.current(ctx)
	if err != nil {
		return err
	}
	if fences.Link, err = readLink(s.watched.Domain); err != nil {
		return err
	}
	if link == Closed { // it may have been when the rules were as they were read
		fences.Link = link
	}
	after, err := holders(s.watched.Dir, s.watched.Volumes)
	if err != nil {
		return err
	}
	to := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found.Looks++
	what := "no volume is open"
	through := false
	for pid := range after {
		if _, ok := before[pid]; !ok {
			continue
		}
		through = true
		what = fmt.Sprintf("process %d has %s open", pid, strings.Join(after[pid], " and "))
		if was, ok := s.open[pid]; ok {
			s.open[pid] = span{was.from, to}
		} else {
			s.open[pid] = span{from, to}
		}
	}
	for pid, was := range s.open {
		if _, ok := after[pid]; !ok {
			s.attached = append(s.attached, was)
			delete(s.open, pid)
		}
	}
	now := fmt.Sprintf("%s; %s", what, fences)
	line := fmt.Sprintf("%s %s", from.UTC().Format(clock), now)
	if now != s.last {
		s.last = now
		s.found.Told = append(s.found.Told, line)
	}
	if !through {
		return nil
	}
	s.found.Attached++
	switch {
	case fences.bare():
		s.found.Bare = append(s.found.Bare, line)
	case fences.open():
		s.found.Open = append(s.found.Open, line)
	}
	return nil
}

// current reads the rules if they have changed, until they stay as they are for as long as it takes to read them.
func (s *Sampler) current(ctx context.Context) (Fences, error) {
	for {
		now, err := s.rules.generation()
		if err != nil {
			return Fences{}, err
		}
		if s.read && now == s.known {
			return s.fences, nil
		}
		fences, err := ReadFences(ctx, s.watched.Domain, s.watched.Address)
		if err == nil {
			s.known, s.read, s.fences = now, true, fences
			continue
		}
		if again, e := s.rules.generation(); e != nil || again == now { // else they changed under the reader
			return Fences{}, err
		}
	}
}

// Heard is how many beacons have come to the outside world.
func (s *Sampler) Heard() int { return len(s.air.soFar()) }

// Present is what the newest look saw.
func (s *Sampler) Present() (what string, looks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.found.Looks
}

// Stop ends the sampling and says what was seen.
func (s *Sampler) Stop() Findings {
	s.stop()
	<-s.done
	s.rules.close()
	heard, err := s.air.close()
	if err != nil {
		s.found.Blind = append(s.found.Blind, err.Error())
	}
	for _, was := range s.open {
		s.attached = append(s.attached, was)
	}
	s.found.Beacons = len(heard)
	for _, at := range heard {
		if slices.ContainsFunc(s.attached, func(a span) bool { return at.After(a.from.Add(transit)) && at.Before(a.to) }) {
			s.found.Loose = append(s.found.Loose, at.UTC().Format(clock))
		}
	}
	return s.found
}

// VolumesOf watches the volumes of the capsule whose directory is given.
func VolumesOf(stateDir, id string, address netip.Addr) Watched {
	return Watched{
		Domain: "cap-" + id[:8], Address: address, Dir: filepath.Join(stateDir, "capsules", id),
		Volumes: []string{"secure_volume", "release_spool"},
	}
}
