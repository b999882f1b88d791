#!/usr/bin/env bash
# What only a machine with a GPU can tell, in one command; needs no network and installs nothing.
#   usage: scripts/gpu_check.sh [--small] OUT [PHASE...]
# Phases; all of them when none is named. One that takes longer than ADAMANT_PHASE_SECONDS (239) is stopped and failed:
#   test      the tests, where one that needs a device and finds none fails; not the long ones nor those that build anew
#   sanitize  compute-sanitizer's memcheck, racecheck, initcheck and synccheck, where it is installed
#   compare   every method on the GPU against the CPU, bit by bit, up to 2^28 parameters; every storage, with clipping, a
#             loss scale and skipped steps; then a tensor beyond 2^32
#   bench     throughput, beside the same-mix ceiling and what one would write without the library; Adam in every storage;
#             PyTorch's optimizers and what else is installed of bench/peers.py, where python3 has a PyTorch
# Into the folder OUT go machine.txt and machine.json (GPU, driver, toolkit, date, commit), a log of each phase, and
# compare.json, bench.json, mixed.json and peers.json. The last lines say how each phase went; the exit code is 0 when none failed.
# It builds what it needs for the GPU of this machine in build/gpu, or takes the build folder that ADAMANT_BUILD names (and
# of a build that travelled without its repository, the commit that ADAMANT_COMMIT names).
# --small takes sizes for a dry run: with ADAMANT_EMULATOR set to a command prefix it needs no GPU.
set -euo pipefail
called_from=$PWD
cd "$(dirname "$0")/.."

usage() { sed -n '3,16s/^# \{0,1\}//p' scripts/gpu_check.sh >&2; exit 2; }

small=false
if [ "${1:-}" = --small ]; then small=true; shift; fi
if [ $# = 0 ] || [ -z "$1" ] || [ "${1#-}" != "$1" ]; then usage; fi
out=$1
shift
[ "${out#/}" != "$out" ] || out=$called_from/$out
for phase in "$@"; do
  case $phase in
    test | sanitize | compare | bench) ;;
    *) echo "gpu_check.sh: there is no phase \"$phase\"" >&2; usage ;;
  esac
done
phases=("$@")
if [ $# = 0 ]; then phases=(test sanitize compare bench); fi
mkdir -p "$out"
rm -f "$out"/{machine,compare,bench,mixed,peers}.json "$out"/machine.txt "$out"/{build,test,sanitize,compare,bench}.log

# --- The program and its tests

if [ -n "${ADAMANT_BUILD:-}" ]; then
  build=$ADAMANT_BUILD
  if [ ! -x "$build/bin/adamant" ]; then
    echo "gpu_check.sh: ADAMANT_BUILD=$build: there is no bin/adamant in it" >&2
    exit 2
  fi
else
  build=build/gpu
  echo "== Building in $build, for the GPU of this machine"
  generator=()
  if [ ! -e "$build/CMakeCache.txt" ] && command -v ninja > /dev/null; then generator=(-G Ninja); fi
  targets=(--target adamant_program adamant)
  case " ${phases[*]} " in *" test "*) targets=() ;; esac
  if ! { cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DADAMANT_CUDA=ON \
           -DADAMANT_CUDA_ARCHITECTURES=native -DBUILD_SHARED_LIBS=ON &&
         cmake --build "$build" --parallel "$(nproc)" "${targets[@]}"; } > "$out/build.log" 2>&1; then
    tail -n 40 "$out/build.log" >&2
    echo "gpu_check.sh: cannot build; all of it is in $out/build.log" >&2
    exit 1
  fi
  rm "$out/build.log"
fi
build=$(cd "$build" && pwd)
export build out small
# shellcheck disable=SC2086  # the variable may hold a command with arguments
adamant() { ${ADAMANT_EMULATOR:-} "$build/bin/adamant" "$@"; }

# --- This machine

commit=${ADAMANT_COMMIT:-}
if [ -z "$commit" ]; then
  commit=unknown
  if [ "$(git rev-parse --show-toplevel 2> /dev/null)" = "$PWD" ]; then
    commit=$(git rev-parse HEAD)
    [ -z "$(git status --porcelain 2> /dev/null)" ] || commit="$commit, with changes"
  fi
fi
if command -v nvidia-smi > /dev/null; then
  gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit --format=csv,noheader 2>&1) \
    || gpu="nvidia-smi fails: $gpu"
else
  gpu="nvidia-smi is not installed"
fi
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
adamant info > "$out/info.txt"
{
  echo "date      $now"
  echo "commit    $commit"
  echo "GPU       $gpu"
  cat "$out/info.txt"
} | tee "$out/machine.txt"
quoted() { printf '"%s"' "$(sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' <<< "$1" | tr '\n\t' '; ' | sed 's/;$//')"; }
{
  printf '{"date": %s,\n "commit": %s,\n "nvidia_smi": %s,\n "info": ' "$(quoted "$now")" "$(quoted "$commit")" "$(quoted "$gpu")"
  adamant info --json
  echo '}'
} > "$out/machine.json"
# A kernel that the driver compiles from what was meant for an older GPU lacks what the newer one can do.
capability=$(sed -n 's/.*cuda:0: .*compute capability \([0-9]*\)\.\([0-9]*\).*/\1\2/p' "$out/info.txt")
if [ -n "$capability" ] && ! grep -q "for architectures.*$capability" "$out/info.txt"; then
  echo "WARNING   no code for compute capability $capability in this build: the driver compiles what was meant for another; not" \
    "the figures of this GPU" | tee -a "$out/machine.txt"
fi
has_device=true
grep -q '^default  *cuda:' "$out/info.txt" || has_device=false
rm "$out/info.txt"
if ! $has_device; then
  echo "gpu_check.sh: adamant finds no GPU that it can use; why not is in the lines above" >&2
  exit 1
fi

# --- The phases: exit code 77 says that there was nothing to do, and the last line why

phase_test() {
  set -euo pipefail
  export ADAMANT_REQUIRE_CUDA=1
  # What builds the library once more to link it in other ways, and the API reference, need no GPU.
  local left_out='^(Consumers|GettingStarted|Documentation)'
  local only=()
  if $small; then only=(-R '^(CommandLineOnADevice|DescendCommand)\.'); fi
  if command -v ctest > /dev/null && grep -qsx "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" "$build/CMakeCache.txt"; then
    local status=0
    ctest --test-dir "$build" -j "$(nproc)" -LE full -E "$left_out" "${only[@]}" --no-tests=error --output-on-failure \
      --output-junit "$build/gpu_check.xml" || status=$?
    scripts/test_summary.sh "$build/gpu_check.xml"
    return "$status"
  fi
  echo "No ctest here, or the build was made elsewhere: the test programs are run side by side, in parts."
  filter='-*Full_*:Full*'
  if $small; then filter='CommandLineOnADevice*:DescendCommand*'; fi
  parts=$(nproc)
  logs=$(mktemp -d)
  # shellcheck disable=SC2064  # now
  trap "rm -rf '$logs'" EXIT
  # Threads that wait for others would take the time of those that work.
  export filter parts logs OMP_WAIT_POLICY=passive
  local program part
  for program in "$build"/tests/adamant_program_test "$build"/tests/adamant_*test "$build"/tests/adamant_*tests; do
    [ -x "$program" ] || continue
    for ((part = 0; part < parts; part++)); do printf '%s\n' "$program $part"; done
  done | awk '!seen[$0]++' | xargs -P "$parts" -d '\n' -n 1 bash -c 'run_part "${1% *}" "${1##* }"' run_part
  local failed=""
  for program in "$logs"/*.failed; do
    [ -e "$program" ] || continue
    failed="$failed $(basename "$program" .failed)"
    echo "== $(basename "$program" .failed)"
    cat "${program%.failed}.log"
    # A crash fails no test by name.
    grep -q '^\[  FAILED  \]' "${program%.failed}.log" || echo '[  FAILED  ] crashed (0 ms)' >> "${program%.failed}.log"
  done
  grep -hs -A 1 ': Skipped$' "$logs"/*.log | grep -v -e ': Skipped$' -e '^--$' | sort | uniq -c | sed 's/^/skipped: /' || true
  cat "$logs"/*.log | awk '
    /^\[  PASSED  \]/ { passed += $4 } /^\[  SKIPPED \] [0-9]/ { skipped += $4 }
    /^\[  FAILED  \] .* \([0-9]+ ms\)$/ { ++failed }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }'
  [ -z "$failed" ] || { echo "failed:$failed"; return 1; }
}

# One of $parts parts of a test program.
run_part() {  # PROGRAM PART
  local name
  name=$(basename "$1").$2
  # shellcheck disable=SC2086  # the variable may hold a command with arguments
  GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$2 ${ADAMANT_EMULATOR:-} "$1" --gtest_brief=1 --gtest_filter="$filter" \
    > "$logs/$name.log" 2>&1 || touch "$logs/$name.failed"
}

phase_sanitize() {
  set -euo pipefail
  local sanitizer
  sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || {
    echo "compute-sanitizer is not installed"
    return 77
  }
  local tool words failed=""
  for tool in memcheck racecheck initcheck synccheck; do
    # Sizes that end within a tile and within a vector.
    for words in "--dtype f32" "--dtype f64" "--method adam --storage all --clip-norm 1 --loss-scale"; do
      echo "== $tool, compare $words"
      # shellcheck disable=SC2086  # several words
      "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/bin/adamant" compare --device cuda --count 9001 --steps 2 \
        $words || failed="$failed $tool"
    done
    echo "== $tool, ten steps of a small tensor"
    # Of a table of every point only what the sanitizer says.
    "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/bin/adamant" descend --device cuda --steps 10 \
      | sed -n '/^=====/p' || failed="$failed $tool"
  done
  [ -z "$failed" ] || { echo "failed:$failed"; return 1; }
}

phase_compare() {
  set -euo pipefail
  local status=0 first=true words runs
  # Beyond 2^32 the pieces end where no power of two does.
  runs=("--count 1 --steps 3" "--count 1048583 --steps 5" "--count 1048583 --steps 5 --dtype f64"
    "--count 20011 --steps 7 --storage all" "--count 20011 --steps 7 --storage all --clip-norm 1 --clip-value 0.01"
    "--count 20011 --steps 7 --storage all --clip-norm 1 --loss-scale --skip-non-finite"
    "--count 268435456 --steps 2" "--count 4294967301 --steps 2 --method gradient_descent")
  if $small; then
    runs=("--count 1 --steps 3" "--count 5001 --steps 3 --dtype f64"
      "--count 4099 --steps 3 --storage all --method adam --clip-norm 1 --loss-scale" "--count 4194309 --steps 2 --method gradient_descent")
  fi
  echo "[" > "$out/compare.json"
  trap 'echo "]" >> "$out/compare.json"' EXIT  # also where the phase is stopped
  for words in "${runs[@]}"; do
    echo "== compare $words"
    # shellcheck disable=SC2086  # words
    adamant compare --device cuda $words --json-file "$out/compare.part" || status=1
    if [ -s "$out/compare.part" ]; then
      $first || echo "," >> "$out/compare.json"
      first=false
      cat "$out/compare.part" >> "$out/compare.json"
      rm "$out/compare.part"
    fi
    echo
  done
  return "$status"
}

phase_bench() {
  set -euo pipefail
  local sizes=() mixed=(--sizes 268435456 --repetitions 9) peers=() status=0 found=0
  if $small; then
    sizes=(--sizes 65536 --repetitions 1 --method adam)
    mixed=(--sizes 4096 --repetitions 1)
    peers=(--quick)
  fi
  adamant bench --device cuda "${sizes[@]}" --json-file "$out/bench.json" || status=1
  echo
  adamant bench --device cuda --method adam --storage all --pipeline update,clip "${mixed[@]}" \
    --json-file "$out/mixed.json" || status=1
  echo
  if [ ! -e "$build/libadamant.so" ]; then
    echo "Peers: $build has no shared library (-DBUILD_SHARED_LIBS=ON)"
    found=77
  elif ! command -v python3 > /dev/null; then
    echo "Peers: there is no python3"
    found=77
  else
    # shellcheck disable=SC2086  # the variable may hold a command with arguments
    ${ADAMANT_EMULATOR:-} python3 bench/peers.py --library "$build/libadamant.so" --device cuda --seconds 100 "${peers[@]}" \
      --json-file "$out/peers.json" || found=$?
  fi
  case $found in
    0) ;;
    77) echo "Peers were not measured, for the reason above" ;;
    *) echo "bench/peers.py failed with exit code $found"; status=1 ;;
  esac
  return "$status"
}

export -f adamant run_part phase_test phase_sanitize phase_compare phase_bench
table=""
code=0
phase_seconds=${ADAMANT_PHASE_SECONDS:-239}
for phase in "${phases[@]}"; do
  echo
  echo "== Phase $phase"
  start=$SECONDS
  status=0
  timeout --kill-after=10 "$phase_seconds" bash -c "phase_$phase" 2>&1 | tee "$out/$phase.log" || status=${PIPESTATUS[0]}
  took=$((SECONDS - start))
  remark=""
  case $status in
    0) result=passed ;;
    77) result=skipped; remark=$(tail -n 1 "$out/$phase.log") ;;
    124 | 137) result=failed; remark="stopped after $phase_seconds s" ;;
    *) result=failed; remark="see $out/$phase.log" ;;
  esac
  [ "$result" != failed ] || code=1
  table+=$(printf '%-9s %-8s %4d s  %s' "$phase" "$result" "$took" "$remark")$'\n'
done
echo
printf 'phase     result     time\n%s' "$table"
exit "$code"
