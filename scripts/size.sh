#!/usr/bin/env bash
# Checks the built programs: both static, and meridian-dp, which runs beside every workload, at most 26 MB as a file and
# at most 18 MB of resident memory at `version` (the lowest of five runs, as the kernel reports it).
set -euo pipefail
cd "$(dirname "$0")/.."

max_file=$((26 * 1000 * 1000))
max_rss=$((18 * 1000)) # kB

failed=0
for program in bin/meridian bin/meridian-dp; do
  # A static program names no dynamic loader.
  if python3 - "$program" <<'PY'
import struct, sys
data = open(sys.argv[1], "rb").read()
offset, = struct.unpack_from("<Q", data, 32)
size, count = struct.unpack_from("<HH", data, 54)
PT_INTERP = 3
sys.exit(any(struct.unpack_from("<I", data, offset + i * size)[0] == PT_INTERP for i in range(count)))
PY
  then
    echo "$program: static"
  else
    echo "size.sh: $program is not static" >&2
    failed=1
  fi
done

file=$(stat -c %s bin/meridian-dp)
echo "bin/meridian-dp: $file bytes (at most $max_file)"
if [ "$file" -gt "$max_file" ]; then
  echo "size.sh: bin/meridian-dp is larger than $max_file bytes" >&2
  failed=1
fi

rss=$(python3 - <<'PY'
import os
lowest = None
for _ in range(5):
    pid = os.posix_spawn("bin/meridian-dp", ["meridian-dp", "version"], os.environ,
                         file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise SystemExit("meridian-dp version failed")
    lowest = min(lowest or usage.ru_maxrss, usage.ru_maxrss)
print(lowest)
PY
)
echo "bin/meridian-dp version: $rss kB resident (at most $max_rss)"
if [ "$rss" -gt "$max_rss" ]; then
  echo "size.sh: bin/meridian-dp version needs more than $max_rss kB" >&2
  failed=1
fi
exit $failed
