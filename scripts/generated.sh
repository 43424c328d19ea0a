#!/usr/bin/env bash
# Checks that the committed generated code is what `make generate` writes: generates into another folder and compares.
set -euo pipefail
cd "$(dirname "$0")/.."

make --no-print-directory -s proto-deps
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
# buf joins -o with each plugin's out, so the tree below $tmp/proto mirrors ours.
go tool -modfile=tools/go.mod buf generate -o "$tmp"
go run ./internal/kindgen -o "$tmp"
status=0
while IFS= read -r file; do
  if ! cmp -s "$file" "$tmp/$file"; then
    echo "generated.sh: $file is not current; run 'make generate' and commit" >&2
    status=1
  fi
done < <( { git ls-files 'proto/*.pb.go' '*/zz_kinds.go'; (cd "$tmp" && find . -name '*.go' -printf '%P\n'); } | sort -u)
exit $status
