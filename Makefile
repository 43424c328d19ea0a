# The one menu. `make help` lists it.
PROTOVALIDATE := github.com/bufbuild/protovalidate@v1.1.0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION)
# Packages whose concurrency is worth the race detector's price on two cores.
RACE := ./store/replica/... ./store/embedded/... ./kds/... ./xds/delta/... ./xds/... ./zone/... ./global/... ./internal/...
GOTEST := go test -timeout 15m

.PHONY: help build generate proto-deps tools lint generated test test-race demo bench clean baseline

help: ## list what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

build: ## build bin/meridian and bin/meridian-dp
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/meridian ./cmd/meridian-dp

# buf/validate/validate.proto comes from its Go module; it is an input of generation, not ours to keep.
proto-deps:
	@dir=$$(go mod download -json $(PROTOVALIDATE) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p'); \
	test -n "$$dir" && mkdir -p proto/buf/validate && \
	install -m 0644 "$$dir/proto/protovalidate/buf/validate/validate.proto" proto/buf/validate/validate.proto

generate: proto-deps ## write the .pb.go files anew
	go tool buf generate

baseline: proto-deps ## accept the present protos as what buf breaking compares with; do this at a release
	go tool buf build --exclude-source-info --as-file-descriptor-set --path proto/meridian -o proto/baseline.binpb

tools: ## fetch Envoy and make sure of the PostgreSQL binaries
	@scripts/envoy.sh
	@scripts/postgres.sh

lint: proto-deps ## vet, staticcheck, buf lint and breaking, tidy go.mod, gofmt
	@bad=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); test -z "$$bad" || { echo "gofmt -w these: $$bad"; exit 1; }
	go mod tidy -diff
	go vet ./...
	go tool staticcheck ./...
	go tool buf lint
	go tool buf breaking --against proto/baseline.binpb

generated: ## prove that the generated code is current
	@scripts/generated.sh

test: tools build ## every test, with a real Envoy and a real PostgreSQL
	$(GOTEST) ./...

test-race: tools ## the race detector where it is affordable
	$(GOTEST) -race -short $(RACE)

demo: tools build ## the story, step by step; STORY=resilience tells the other, ONCE=1 ends after the last, STORE=postgres
	@bin/meridian demo $(if $(ONCE),--once) --store $(or $(STORE),embedded) --story $(or $(STORY),operations)

bench: build ## every table of docs/benchmarks.md, in about ten minutes; PLOT=FILE.svg draws the plot there
	@bin/meridian bench xds --suite --plot $(or $(PLOT),bin/benchmarks.svg)

clean: ## remove what was built
	rm -rf bin .demo
