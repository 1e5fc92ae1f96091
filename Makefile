# As root on Debian 12: `make demo` shows the main job, `make test` runs every test. See README.md.

export GOFLAGS := -mod=readonly
GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)

# FUZZTIME is how long each fuzz target runs in `make fuzz`; STATICCHECK is pinned so that lint says the same tomorrow.
FUZZTIME    ?= 10s
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

.PHONY: build install test demo run bench lint fmt fuzz guest packages clean demo-program
.NOTPARALLEL:

build:
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/capsuled ./cmd/capsuled
	CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o bin/capsulectl ./cmd/capsulectl

# The unit file names /usr/bin, so PREFIX is there for packagers alone.
PREFIX ?= /usr
install: build
	install -D -m755 bin/capsuled $(DESTDIR)$(PREFIX)/bin/capsuled
	install -D -m755 bin/capsulectl $(DESTDIR)$(PREFIX)/bin/capsulectl
	install -D -m644 systemd/capsuled.service $(DESTDIR)/usr/lib/systemd/system/capsuled.service
	install -D -m644 systemd/capsuled-fence.service $(DESTDIR)/usr/lib/systemd/system/capsuled-fence.service
	install -D -m644 systemd/capsuled.sysusers $(DESTDIR)/usr/lib/sysusers.d/capsuled.conf
	install -D -m644 -t $(DESTDIR)$(PREFIX)/share/doc/capsuled docs/*.md docs/capsuled.example.toml
	install -D -m644 -t $(DESTDIR)$(PREFIX)/share/doc/capsuled/decisions docs/decisions/*.md

# Two packages at a time: the longest one, which waits for guests much of the time, and in turn all others beside it.
test: packages guest
	$(GO) run ./internal/testhost/cmd/testsummary -race -count=1 -p 2 -timeout 60m ./internal/e2e ./...

# The demonstration makes its own host (internal/testhost): nothing of the machine is touched.
demo: demo-program
	bin/demo

run: demo-program
	bin/demo -stay

demo-program: packages build guest
	$(GO) build -o bin/demo ./internal/demo

bench: packages guest
	$(GO) run ./internal/bench

lint:
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

fmt:
	gofmt -w .

# `go test -fuzz` takes one target of one package at a time.
fuzz: packages
	@grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | while read -r file; do \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$$file"); do \
			echo "$$target in $$(dirname "$$file")"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s "$$(dirname "$$file")" || exit 1; \
		done; \
	done

guest: packages
	@$(GO) run ./internal/testhost/cmd/buildguest

packages:
	@internal/testhost/install-packages

clean:
	rm -rf bin build
