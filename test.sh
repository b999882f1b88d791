#!/usr/bin/env bash
# Builds the library and runs its tests; the last line says how many passed, failed and were skipped.
#   ./test.sh          the tests, in Release
#   ./test.sh --full   also: clang, the sanitizers, arm64 under QEMU, formatting, clang-tidy, ten minutes of fuzzing, the
#                      mutation check and the long tests
# With ADAMANT_EMULATOR set to a command prefix, the device tests run under it; with ADAMANT_EMULATOR_SHUFFLED, a prefix
# that runs a device's threads in random order, most do so a second time. With ADAMANT_REQUIRE_CUDA=1 a device test that
# cannot run is a failure.
set -euo pipefail
cd "$(dirname "$0")"

# Tests run beside each other, and threads that wait in a loop would take the others' cores.
export OMP_WAIT_POLICY=passive

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
echo "== Building ($preset, build/build-$preset.log): four to fifteen minutes on two cores"
mkdir -p build
cmake --preset "$preset" ${architectures:+"$architectures"} > build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
grep -o 'adamant: .*CUDA backend.*' build/configure.log || true
build "$preset"

if $full; then
  scripts/check_format.sh
  scripts/check_tidy.sh "build/$preset"
  for other in clang sanitize thread-sanitize; do
    echo "== $other"
    cmake --fresh --preset "$other" > "build/configure-$other.log"
    build "$other"
    ctest --preset "$other" -j "$(nproc)" -LE full | tail -n 5
  done
  scripts/fuzz.sh 600
  scripts/check_arm64.sh --all
  scripts/mutation_check.sh
fi

echo "== Testing"
if [ "$preset" = emulated ]; then export ADAMANT_REQUIRE_CUDA=1; fi  # an emulator that does not start is a failure too
labels=(-LE full)
if $full; then labels=(); fi
status=0
run_tests() {  # RESULTS LOG SELECTION...
  local results=$1 log=$2
  shift 2
  ctest --test-dir "build/$preset" -j "$(nproc)" "$@" --no-tests=error --output-on-failure --output-junit "$PWD/$results" > "$log" 2>&1 || {
    status=1
    sed -n '/^The following tests FAILED/,$p;/^test [0-9]*$/,/^$/!{/\[  FAILED  \]\|Failure\|\*\*\*/p}' "$log"
  }
  [ -s "$results" ] || { cat "$log"; exit 1; }
}
run_tests build/tests.xml build/tests.log "${labels[@]}"
all=(build/tests.xml)
if [ -n "${ADAMANT_EMULATOR_SHUFFLED:-}" ] && [ "$preset" = emulated ]; then
  echo "== Testing the device code again, with its threads in random order"
  # Without what runs no device code, or only what other tests here run: benchmarks, most tests of the command line,
  # digests of tensors of one type (those of every type run the same kernels).
  without='at_every_simd_level|Digest.*(_float32|_float64)|^GpuBench\.the_program|^DescendCommand\.[^W]'
  without+='|^(CommandLine|Trap19Prepared|Bench|GoogleBenchmark|Sampling|Moved|Ceilings|Shapes|Machine)\.'
  ADAMANT_EMULATOR=$ADAMANT_EMULATOR_SHUFFLED \
    run_tests build/tests_shuffled.xml build/tests_shuffled.log -L '^device$' -E "$without"
  all+=(build/tests_shuffled.xml)
fi
scripts/test_summary.sh "${all[@]}"
exit "$status"
