# `make help` lists the targets.
PROTOVALIDATE := github.com/bufbuild/protovalidate@v1.1.0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# The programs are static and carry neither symbols nor paths of the machine that built them.
LDFLAGS := -s -w -X main.version=$(VERSION)
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'
GOTEST := go test -timeout 15m

# Generators and linters have a module of their own, so that go.mod lists what the programs are made of.
TOOL := go tool -modfile=tools/go.mod

# Packages whose concurrency is worth the race detector's price on two cores; of internal all but repolint, which only
# reads files and takes two minutes there.
RACE := ./store/... ./kds/... ./xds/... ./identity/... ./controller/... ./zone/... ./global/... ./api/...

.PHONY: help build size generate proto-deps tools lint generated test test-race demo bench clean baseline

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

build: ## build bin/meridian and bin/meridian-dp
	$(GOBUILD) -o bin/ ./cmd/meridian ./cmd/meridian-dp

size: build ## check that the programs are static, and that bin/meridian-dp is small in file and memory
	@scripts/size.sh

# buf/validate/validate.proto comes from its Go module; it is an input of generation and not committed.
proto-deps:
	@dir=$$(go mod download -json $(PROTOVALIDATE) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p'); \
	test -n "$$dir" && mkdir -p proto/buf/validate && \
	install -m 0644 "$$dir/proto/protovalidate/buf/validate/validate.proto" proto/buf/validate/validate.proto

generate: proto-deps ## generate the .pb.go files and the tables of kinds
	$(TOOL) buf generate
	go run ./internal/kindgen

baseline: proto-deps ## accept the present protos as what buf breaking compares with; for releases
	$(TOOL) buf build --exclude-source-info --as-file-descriptor-set --path proto/meridian -o proto/baseline.binpb

tools: ## fetch Envoy, and PostgreSQL if it is not installed
	@scripts/envoy.sh
	@scripts/postgres.sh

lint: proto-deps ## gofmt, go mod tidy, go vet, staticcheck, buf lint and buf breaking
	@bad=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); test -z "$$bad" || { echo "not formatted by gofmt: $$bad"; exit 1; }
	go mod tidy -diff
	cd tools && go mod tidy -diff
	go vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) buf lint
	$(TOOL) buf breaking --against proto/baseline.binpb

generated: ## check that the generated code is current
	@scripts/generated.sh

test: tools build ## run every test, with a real Envoy and a real PostgreSQL
	$(GOTEST) ./...

test-race: tools ## run the race detector where it is affordable
	$(GOTEST) -race -short $(RACE) $$(go list ./internal/... | grep -v /repolint)

demo: tools build ## run the demo; ONCE=1 ends it after the last step, STORE=postgres, STORY=resilience
	@bin/meridian demo $(if $(ONCE),--once) --store $(or $(STORE),embedded) --story $(or $(STORY),operations)

bench: build ## measure every table of docs/benchmarks.md, in about ten minutes; PLOT=FILE.svg names the plot
	@bin/meridian bench xds --suite --plot $(or $(PLOT),bin/benchmarks.svg)

clean: ## remove what was built
	rm -rf bin .demo
