#!/usr/bin/env bash
# Makes sure that PostgreSQL server binaries are installed, for tests and the demo, which start clusters of their own.
# It starts nothing and creates no cluster. With MERIDIAN_TEST_POSTGRES_URL set there is nothing to do.
set -euo pipefail

found() {
  local dir
  for dir in /usr/lib/postgresql/*/bin /usr/local/bin /usr/local/pgsql/bin; do
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
      return 0
    fi
  done
  command -v initdb >/dev/null && command -v postgres >/dev/null
}

if [ -n "${MERIDIAN_TEST_POSTGRES_URL:-}" ] || found; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "postgres.sh: no PostgreSQL server binaries found; install them, or set MERIDIAN_TEST_POSTGRES_URL" >&2
  exit 1
fi
echo "postgres.sh: installing postgresql" >&2
# Only the binaries are needed, not a cluster.
mkdir -p /etc/postgresql-common/createcluster.d
echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.d/meridian.conf
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null
