package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/capsuled/capsuled/daemon/store"
)

// imagePlan says how much is measured of images.
type imagePlan struct {
	images  int // in the records
	rounds  int // of each way, in turn
	batch   int // requests in a round
	clients int // at once
	each    int // requests of each of them, in a round
	crowds  int // rounds of them
	writes  int // of metadata
	fileMB  int // of the image that is taken in
	imports int // of it, each way
}

// page is how many images a page has.
const page = 100

// images measures what is asked about images, and how fast they come in. Clones of them are a part of their own.
func images(ctx context.Context, b *bench) error {
	if err := lists(ctx, b); err != nil {
		return err
	}
	return intakes(ctx, b)
}

// lists measures the API's replies about many images against a bare handler that writes the same bytes.
func lists(ctx context.Context, b *bench) (err error) {
	p := b.plan.image
	b.say("replies about %d images", p.images)
	s, err := newShelf(ctx, p.images, p.clients)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	middle := s.images[p.images/8*4] // public, and of the type that is asked for
	query := fmt.Sprintf("limit=%d&marker=%s", page, middle)
	all := []asked{
		{name: "Nova, list", path: "/v2.1/images?property-image_type=base&" + query},
		{name: "Nova, detail", path: "/v2.1/images/detail?property-image_type=base&" + query},
		{name: "Glance", path: "/image/v2/images?image_type=base&" + query},
		{name: "Horizon, its page of 20", path: "/api/glance/images/?paginate=true&image_type=base&marker=" + middle, header: http.Header{"X-Requested-With": {"XMLHttpRequest"}}},
		{name: "native, no filter", path: "/v1/images?" + query},
		{name: "Nova, one image", path: "/v2.1/images/" + middle},
		{name: "Synnefo 2.0, all in detail", path: "/compute/v2.0/images/detail"},
	}
	for _, a := range all {
		if err := s.mirror(ctx, a); err != nil {
			return err
		}
	}
	for _, part := range []func(context.Context, *bench, []asked) error{s.alone, s.together, s.writes} {
		if err := part(ctx, b, all); err != nil {
			return err
		}
	}
	return nil
}

// mirror has the bare server answer a request with the bytes that the API answers it with.
func (s *shelf) mirror(ctx context.Context, a asked) error {
	var body bytes.Buffer
	resp, err := s.do(ctx, s.api, a, &body)
	if err != nil {
		return err
	}
	media, length := resp.Header.Get("Content-Type"), strconv.Itoa(body.Len())
	s.mux.HandleFunc(resp.Request.URL.Path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		w.Header().Set("Content-Length", length)
		_, _ = w.Write(body.Bytes())
	})
	return nil
}

// alone has one client ask, one request after the other. In a round each request has its turn, and the bare handler's comes
// right after: what slows a round down is in both.
func (s *shelf) alone(ctx context.Context, b *bench, all []asked) error {
	p := b.plan.image
	sizes := map[string]*counter{}
	var ways []way
	for _, a := range all {
		for _, base := range []string{s.api, s.bare} {
			name, size := base+a.path, new(counter)
			sizes[name] = size
			ways = append(ways, way{name, func() (time.Duration, error) {
				runtime.GC() // what the way before left: the longest reply is megabytes
				took, err := clock(func() error {
					for range p.batch {
						if _, err := s.do(ctx, base, a, size); err != nil {
							return err
						}
					}
					return nil
				})
				return took / time.Duration(p.batch), err
			}})
		}
	}
	took, err := inTurn(ways, p.rounds)
	if err != nil {
		return err
	}
	t := table{title: fmt.Sprintf("A page of %d of %d images, filtered, after a marker in the middle, over loopback; means of %d requests, medians of %d rounds", page, p.images, p.batch, p.rounds),
		head: []string{"", "bytes", "API", "bare handler", "ratio in a round", "API, p10", "bare, p10", "ratio"}}
	for _, a := range all {
		if *sizes[s.api+a.path] != *sizes[s.bare+a.path] {
			return fmt.Errorf("%s: the API answered with %d bytes, and the bare handler with %d", a.name, *sizes[s.api+a.path], *sizes[s.bare+a.path])
		}
		ours, bare := took[s.api+a.path], took[s.bare+a.path]
		t.add(a.name, fmt.Sprint(int(*sizes[s.api+a.path])/p.batch/p.rounds), us(ours.median()), us(bare.median()), ratioOfRounds(ours, bare),
			us(ours.at(0.1)), us(bare.at(0.1)), ratio(ours.at(0.1), bare.at(0.1)))
	}
	t.print(b.out)
	return nil
}

// ratioOfRounds is the median of the ratios of each round.
func ratioOfRounds(a, b sample) string {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = float64(a[i]) / float64(b[i])
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.2f", ratios[len(ratios)/2])
}

// counter counts what is written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// together has many clients ask at once, each on a connection of its own.
func (s *shelf) together(ctx context.Context, b *bench, all []asked) error {
	p := b.plan.image
	b.say("%d clients at once", p.clients)
	t := table{title: fmt.Sprintf("%d clients at once, each on a connection of its own, %d requests of each; median of %d rounds, and what single requests took in all of them", p.clients, p.each, p.crowds),
		head: []string{"", "API, a second", "median", "p99", "bare, a second", "median", "p99", "ratio"}}
	for _, a := range all[:2] {
		single := map[string]sample{}
		ways := []way{{name: s.api}, {name: s.bare}}
		for i := range ways {
			base := ways[i].name
			ways[i].run = func() (time.Duration, error) {
				return clock(func() error {
					took, err := s.crowd(ctx, base, a, p)
					single[base] = append(single[base], took...)
					return err
				})
			}
		}
		took, err := inTurn(ways, p.crowds)
		if err != nil {
			return err
		}
		row := []string{a.name}
		for _, w := range ways {
			rate := float64(p.clients*p.each) / took[w.name].median().Seconds()
			row = append(row, fmt.Sprintf("%.0f", rate), ms(single[w.name].median()), ms(single[w.name].at(0.99)))
		}
		t.add(append(row, ratio(took[s.api].median(), took[s.bare].median()))...)
	}
	t.print(b.out)
	return nil
}

func (s *shelf) crowd(ctx context.Context, base string, a asked, p imagePlan) (sample, error) {
	var all sync.WaitGroup
	took, errs := make([]sample, p.clients), make([]error, p.clients)
	for i := range p.clients {
		all.Go(func() {
			for range p.each {
				one, err := clock(func() error { _, err := s.do(ctx, base, a, io.Discard); return err })
				if err != nil {
					errs[i] = err
					return
				}
				took[i] = append(took[i], one)
			}
		})
	}
	all.Wait()
	return slices.Concat(took...), errors.Join(errs...)
}

// writes measures a merge of one item of metadata against the least that it could do: one durable transaction. A page is
// read after each, since what the daemon knew of the records is out of date then.
func (s *shelf) writes(ctx context.Context, b *bench, all []asked) error {
	p := b.plan.image
	b.say("%d changes of metadata", p.writes)
	s.mux.HandleFunc("POST /transaction", func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		if err == nil {
			err = s.records.Update(r.Context(), func(tx *store.Tx) error { return tx.Audit(store.Act{At: time.Now(), Action: "bench"}) })
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	n := 0
	write := func(base, path string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			n++
			a := asked{method: http.MethodPost, path: path, body: fmt.Sprintf(`{"metadata":{"counted":"%d"}}`, n), header: http.Header{"Content-Type": {"application/json"}}}
			return clock(func() error { _, err := s.do(ctx, base, a, io.Discard); return err })
		}
	}
	read := func() (time.Duration, error) {
		return clock(func() error { _, err := s.do(ctx, s.api, all[1], io.Discard); return err })
	}
	const merge, least, first, second = "Nova, merge of one item", "bare handler with one transaction", "Nova, detail, right after it", "Nova, detail, once more"
	took := map[string]sample{}
	// Always in this order: a page is what it is by what came before it.
	for range p.writes {
		for _, w := range []way{{merge, write(s.api, "/v2.1/images/"+s.images[0]+"/metadata")}, {first, read}, {second, read}, {least, write(s.bare, "/transaction")}} {
			one, err := w.run()
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			took[w.name] = append(took[w.name], one)
		}
	}
	t := table{title: fmt.Sprintf("A change of metadata among %d images, and the page after it; %d times", p.images, p.writes),
		head: []string{"", "median", "p10", "p90", "to the transaction"}}
	for _, name := range []string{merge, least, first, second} {
		d := took[name]
		t.add(name, ms(d.median()), ms(d.at(0.1)), ms(d.at(0.9)), ratio(d.median(), took[least].median()))
	}
	t.print(b.out)
	return nil
}
