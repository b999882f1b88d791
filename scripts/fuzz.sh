#!/usr/bin/env bash
# Runs the fuzz targets under libFuzzer, side by side, and says how many inputs each has tried. What breaks a promise is
# left in build/fuzz/found; a copy of it in tests/fuzz/corpus/TARGET is a test from then on.
#   usage: scripts/fuzz.sh SECONDS
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?usage: scripts/fuzz.sh SECONDS}
cmake --preset sanitize > /dev/null
cmake --build --preset sanitize --target fuzz_safetensors fuzz_optimizer > build/build-fuzz.log 2>&1 \
  || { tail -n 80 build/build-fuzz.log; exit 1; }

in_memory=/dev/shm
[ -d "$in_memory" ] || in_memory=${TMPDIR:-/tmp}
ADAMANT_FUZZ_FOLDER=$(mktemp -d "$in_memory/adamant-fuzz-XXXXXX")
export ADAMANT_FUZZ_FOLDER
trap 'rm -rf "$ADAMANT_FUZZ_FOLDER"' EXIT

run() {  # TARGET ARGUMENT...
  local target=$1
  shift
  mkdir -p "build/fuzz/corpus/$target" build/fuzz/found
  "build/sanitize/bin/fuzz_$target" -seed=1 -max_total_time="$seconds" -timeout=60 -rss_limit_mb=4096 \
    -artifact_prefix="build/fuzz/found/$target-" -print_final_stats=1 "$@" \
    "build/fuzz/corpus/$target" "tests/fuzz/corpus/$target" > "build/fuzz/$target.log" 2>&1
}

run safetensors -max_len=4096 -dict=tests/fuzz/safetensors.dict &
safetensors=$!
run optimizer -max_len=1024 &
optimizer=$!

status=0
for target in safetensors optimizer; do
  if wait "${!target}"; then
    echo "fuzz_$target: $(sed -n 's/^Done \(.*\)/\1/p' "build/fuzz/$target.log"), nothing found"
  else
    status=1
    echo "fuzz_$target has found something:"
    grep -a -e '^violated' -e 'runtime error' -e 'ERROR:' -e 'what()' -e '^SUMMARY' -e 'Test unit written' "build/fuzz/$target.log" || tail -n 40 "build/fuzz/$target.log"
  fi
done
exit "$status"
