# make demo   the whole system on this machine, on loopback
# make test   every test there is; sets up what it needs
# make help   the rest
SHELL    = /bin/bash
LINT     = go tool -modfile=tools/lint/go.mod golangci-lint
TOOL     = go tool -modfile=tools/go.mod
FUZZTIME ?= 5s
TARGETS  = linux/amd64 linux/arm64 linux/arm/6 linux/mipsle
PROGRAMS = ecowatt ecowatt-agent ecowatt-boot
# Stripped and reproducible: the same source gives the same bytes.
RELEASE  = -trimpath -buildvcs=false -ldflags='-s -w -buildid='
# SQLite is C that became Go: each of its connections has its memory to itself, and
# under the race detector it would take most of the time of the tests.
UNWATCHED = -gcflags=github.com/ncruces/go-sqlite3-wasm/...=-race=false

.PHONY: help demo test setup check build cross lint race fuzz fix bench vuln tidy clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: build ## simulator, cloud and three gateways on loopback; Ctrl-C stops them
	@bin/ecowatt demo --data .demo $(DEMOFLAGS)

test: setup check fuzz ## every test there is, with all the set-up for it

setup: ## installs the Debian packages that the tests need (as root on Debian), else names what is missing
	@scripts/setup.sh

check: build cross lint race ## what every change must pass

build: ## the three programs, into bin/
	@mkdir -p bin
	CGO_ENABLED=0 go build $(RELEASE) -o bin/ $(PROGRAMS:%=./cmd/%)

cross: ## every package for every platform it is for
	@for t in $(TARGETS); do \
	  IFS=/ read -r os arch arm <<<"$$t"; echo "build $$t"; \
	  CGO_ENABLED=0 GOOS=$$os GOARCH=$$arch GOARM=$$arm GOMIPS=softfloat go build $(RELEASE) -o /dev/null ./... || exit 1; \
	done

lint: ## vet, the linters and the format
	go vet ./...
	$(LINT) run ./...
	$(LINT) fmt --diff

race: ## all tests, under the race detector
	go test -race -shuffle=on $(UNWATCHED) ./...

fuzz: ## each fuzz target for FUZZTIME
	@scripts/fuzz.sh $(FUZZTIME) ./...

fix: ## format, and what the tools can mend
	go fix ./...
	$(LINT) fmt

bench: ## every benchmark; the ratios count, not the times
	go test -run '^$$' -bench . -benchmem -timeout 1h ./...

vuln: ## known vulnerabilities; needs the Go vulnerability database (VULNDB=file:///… when offline)
	$(TOOL) govulncheck $(if $(VULNDB),-db $(VULNDB)) ./...

clean: ## what was built, and the demo's data
	rm -rf bin .demo
