package daemon_test

import (
	"context"
	"sync"
	"testing"

	"github.com/capsuled/capsuled/daemon"
	"github.com/capsuled/capsuled/domain"
	"github.com/capsuled/capsuled/imagestore"
)

// porter is a machine on which something happens between the arrival of an image's bytes and the caller's knowing of it.
type porter struct {
	imagesOf
	arrived func() // called once, after the first import
	once    sync.Once
}

func (p *porter) Import(ctx context.Context, path string, progress imagestore.Progress) (imagestore.Image, error) {
	i, err := p.imagesOf.Import(ctx, path, progress)
	p.once.Do(p.arrived)
	return i, err
}

func arriving(t *testing.T) (*bench, *porter) {
	p := &porter{}
	return newBench(t, func(o *daemon.Options) { p.imagesOf = o.Images.(imagesOf); o.Images = p }), p
}

// TestSweepDuringImport: bytes that have arrived and have no record yet are no litter.
func TestSweepDuringImport(t *testing.T) {
	b, p := arriving(t)
	m := b.machine
	p.arrived = func() {
		m.mu.Lock()
		sweeps := m.count("Sweep")
		m.mu.Unlock()
		for range 2 { // the second one begins when the first is through
			m.mu.Lock()
			before := m.count("Leases")
			m.mu.Unlock()
			m.events <- domain.Event{}
			b.until(func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.count("Leases") > before })
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.count("Sweep") != sweeps {
			t.Error("it was swept while an image arrived")
		}
	}
	b.create(alice, b.image())
	b.settled()
}

// TestSameBytesGone: the bytes were there already, and their other image is deleted before they are named again.
func TestSameBytesGone(t *testing.T) {
	b, p := arriving(t)
	p.arrived = func() {
		b.machine.mu.Lock()
		defer b.machine.mu.Unlock()
		clear(b.machine.images)
	}
	b.create(alice, b.image())
	b.settled()
}

// TestSameBytesArriving: deleting an image does not take the bytes from another that is about to be recorded.
func TestSameBytesArriving(t *testing.T) {
	b := newBench(t, nil)
	first := b.image()
	reached, release := b.machine.hold("Stat")
	second, op, err := b.AddImage(t.Context(), root, daemon.NewImage{Name: "again", Path: sourcePath, Visibility: daemon.Public})
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	b.succeed(b.DeleteImage(t.Context(), root, first))
	release()
	b.succeed(op, nil)
	b.create(alice, second.ID)
	b.settled()
}

// hold stops the next call of that name before its effect; reached is closed when it is there, and release lets it go.
func (m *machine) hold(call string) (reached <-chan struct{}, release func()) {
	there, let := make(chan struct{}), make(chan struct{})
	var once sync.Once
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = func(_ int, name string) fault {
		if name == call {
			m.mu.Unlock() // call holds it
			once.Do(func() { close(there); <-let })
			m.mu.Lock()
		}
		return none
	}
	return there, func() { close(let) }
}
