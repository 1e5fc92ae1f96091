package synnefo_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/capsuled/capsuled/api/synnefo"
	"github.com/capsuled/capsuled/daemon"
)

// prepared lists the same images at once, so that what is measured is the dialect.
type prepared struct {
	*fake
	page daemon.ImagePage
}

func (p prepared) FindImages(context.Context, daemon.Caller, daemon.ImageQuery) (daemon.ImagePage, error) {
	return p.page, nil
}

// BenchmarkList encodes ten thousand images, each with ten items of metadata.
func BenchmarkList(b *testing.B) {
	images := make([]*daemon.Image, 10_000)
	for i := range images {
		items := map[string]string{}
		for k := range 10 {
			items["key-"+strconv.Itoa(k)] = "a value of some length"
		}
		m := image(fmt.Sprintf("00000000-0000-4000-8000-%012d", i), "image "+strconv.Itoa(i), with(items))
		images[i] = &m
	}
	h := &host{t: b, families: synnefo.New(synnefo.Options{Daemon: prepared{newFake(), daemon.ImagePage{Images: images}}}), caller: owner}
	for _, e := range editions {
		for _, path := range []string{".json", ".xml", "/detail.json", "/detail.xml"} {
			b.Run(e.name+path, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					b.SetBytes(int64(len(h.ask("GET", e.path(path), "").Body)))
				}
			})
		}
	}
}
