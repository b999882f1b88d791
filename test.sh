#!/usr/bin/env bash
# Builds the library and runs its tests; the last line says how many passed, failed and were skipped.
#   ./test.sh          the tests, in Release
#   ./test.sh --full   also: clang, the sanitizers, formatting, clang-tidy, ten minutes of fuzzing, the mutation check and
#                      the long tests
# With ADAMANT_EMULATOR set to a command prefix, the device tests run under it; with ADAMANT_REQUIRE_CUDA=1 a device test
# that cannot run is a failure.
set -euo pipefail
cd "$(dirname "$0")"

build() {  # PRESET: quietly, but a failure shows what failed
  cmake --build --preset "$1" > "build/build-$1.log" 2>&1 || { tail -n 80 "build/build-$1.log"; exit 1; }
}

full=false
case "${1:-}" in
  "") ;;
  --full) full=true ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

if $full; then scripts/setup.sh clang clang-format clang-tidy libomp-dev; else scripts/setup.sh; fi

if [ -n "${ADAMANT_EMULATOR:-}" ] && { command -v nvcc > /dev/null || [ -n "${CUDACXX:-}" ]; }; then
  preset=emulated
else
  preset=release
  architectures=$(scripts/cuda_architectures.sh)
fi
echo "== Building ($preset): about four minutes on two cores"
mkdir -p build
cmake --preset "$preset" ${architectures:+"$architectures"} > build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
grep -o 'adamant: .*CUDA backend.*' build/configure.log || true
build "$preset"

if $full; then
  scripts/check_format.sh
  scripts/check_tidy.sh "build/$preset"
  for other in clang sanitize thread-sanitize; do
    echo "== $other"
    cmake --preset "$other" > "build/configure-$other.log"
    build "$other"
    ctest --preset "$other" -j "$(nproc)" -LE full | tail -n 5
  done
  scripts/fuzz.sh 600
  scripts/mutation_check.sh
fi

echo "== Testing"
results=build/tests.xml
labels=(-LE full)
if $full; then labels=(); fi
status=0
ctest --test-dir "build/$preset" -j "$(nproc)" "${labels[@]}" --output-on-failure --output-junit "$PWD/$results" \
  > build/tests.log 2>&1 || status=$?
if [ "$status" != 0 ]; then sed -n '/^The following tests FAILED/,$p;/^test [0-9]*$/,/^$/!{/\[  FAILED  \]\|Failure\|\*\*\*/p}' build/tests.log; fi
[ -s "$results" ] || { cat build/tests.log; exit 1; }
scripts/test_summary.sh "$results"
exit "$status"
