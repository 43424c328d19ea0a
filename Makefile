# The one menu. `make demo`, `make test`, `make lint`, `make generate`, `make build`.
PROTOVALIDATE := github.com/bufbuild/protovalidate@v1.1.0

.PHONY: build generate proto-deps
build:
	go build -o bin/ ./cmd/meridian ./cmd/meridian-dp

# buf/validate/validate.proto comes from its Go module; it is an input of generation, not ours to keep.
proto-deps:
	@dir=$$(go mod download -json $(PROTOVALIDATE) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p'); \
	test -n "$$dir" && mkdir -p proto/buf/validate && \
	install -m 0644 "$$dir/proto/protovalidate/buf/validate/validate.proto" proto/buf/validate/validate.proto

generate: proto-deps
	go tool buf generate
