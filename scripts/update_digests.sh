#!/bin/sh
# Rewrites tests/digests.txt with what this tree computes and prints the lines that changed: scripts/update_digests.sh
# [BUILD_FOLDER]. Say in the commit message why the bits changed.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/digests}
if [ ! -f "$build/CMakeCache.txt" ]; then
  cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DADAMANT_TESTS=ON \
    -DADAMANT_BENCH=OFF -DADAMANT_TOOLS=OFF -DADAMANT_EXAMPLES=OFF -DADAMANT_CUDA=OFF >/dev/null
fi
cmake --build "$build" --target adamant_digest_test >/dev/null
new=$(mktemp)
trap 'rm -f "$new"' EXIT
"$build/tests/adamant_digest_test" --write >"$new"
if [ -f tests/digests.txt ] && cmp -s "$new" tests/digests.txt; then
  echo "digests: all $(wc -l <"$new") as they were"
else
  diff tests/digests.txt "$new" 2>/dev/null || true
  cp "$new" tests/digests.txt
  chmod 644 tests/digests.txt
  echo "digests: wrote $(wc -l <"$new") to tests/digests.txt"
fi
