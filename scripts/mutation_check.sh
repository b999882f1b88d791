#!/bin/sh
# A test that cannot fail is a defect: breaks one operation at a time in a copy of the tree and expects the tests to go
# red. Prints a table of mutation and first red test as they come; exits 1 when a mutation survives, 2 when one does not
# apply or does not build (which does not count as red). scripts/mutation_check.sh [--device] [PATTERN [WORKERS]]: only
# mutations that match PATTERN (all), so many at a time (as there are cores); on two cores all take some two hours. With
# --device it breaks the CUDA backend instead and runs its tests under ADAMANT_EMULATOR, minutes for each: emulators
# translate what changed. What is said of another device is red only where the emulator shows two.
#
# Only the library is built again for a mutation, and the tests are linked again. Those that include a private header
# may have copies of its functions, and be what tests them: where a mutation of one survives, they are built again too.
# One SIMD level is enough: that all levels agree is tests/bits_test.cpp's job.
set -eu
cd "$(dirname "$0")/.."
source=$PWD
device=
list=scripts/mutations.txt
programs="adamant_tests adamant_digest_test adamant_isolation_tests adamant_replacement_test adamant_storage_test"
if [ "${1:-}" = --device ]; then
  shift
  [ -n "${ADAMANT_EMULATOR:-}" ] || { echo "mutation check: --device needs ADAMANT_EMULATOR" >&2; exit 2; }
  device=yes
  list=scripts/device_mutations.txt
  programs="adamant_cuda_kernels_test adamant_cuda_failure_test adamant_cuda_test"
fi
pattern=${1:-.}
workers=${2:-$(nproc)}
case $workers in '' | *[!0-9]* | 0) echo "mutation check: WORKERS is \"$workers\"; allowed: 1 or more" >&2; exit 2 ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Workers, which a shell starts deaf to Ctrl-C, stop after the mutation they are at.
trap ': >"$work/stop"; wait; exit 130' INT TERM
# Threads that wait in a loop for each other would take the other workers' cores.
export OMP_WAIT_POLICY=passive

grep -v '^\(#\|$\)' "$list" | while IFS='|' read -r file label expression; do
  if printf '%s %s\n' "$file" "$label" | grep -q -- "$pattern"; then
    printf '%s|%s|%s\n' "$file" "$label" "$expression"
  fi
done >"$work/mutations"
total=$(wc -l <"$work/mutations")
[ "$total" -gt 0 ] || { echo "mutation check: no line of $list matches \"$pattern\"" >&2; exit 2; }
[ "$workers" -le "$total" ] || workers=$total

# A tree, a build and the link commands of the worker in $own.
make_build() {
  build=$own/build
  mkdir -p "$own/tree"
  tar -cf - --exclude='./build*' --exclude=./.git --exclude=./report . | tar -xf - -C "$own/tree"
  # shellcheck disable=SC2086  # several arguments
  {
    if [ -n "$device" ]; then
      set -- --preset emulated -DADAMANT_WERROR=OFF
    else
      set -- -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 -DADAMANT_CUDA=OFF \
        -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=generic
    fi
    (cd "$own/tree" && cmake "$@" -B "$build" -DADAMANT_TESTS=ON -DADAMANT_BENCH=OFF -DADAMANT_TOOLS=OFF \
      -DADAMANT_EXAMPLES=OFF) &&
      cmake --build "$build" --target $programs
  } >"$own/log" 2>&1 || { tail -20 "$own/log"; return 1; }
  for program in $programs; do
    ninja -C "$build" -t commands "$program" | tail -n 1 | sed 's/ && cd .*//' >"$own/link.$program"
  done
}

# red_in PROGRAM FILTER: the name of the first red test.
red_in() {
  # shellcheck disable=SC2086  # a command prefix
  ${device:+$ADAMANT_EMULATOR} "$build/tests/$1" --gtest_filter="$2" --gtest_brief=1 --gtest_fail_fast >"$own/out" 2>&1 || true
  sed -n 's/^\[  FAILED  \] \([^ ,]*\).*(\([0-9]*\) ms).*/\1/p' "$own/out"
  # A crash is red, too, and names no test.
  grep -q '^\[==========\] [0-9]* test.* ran' "$own/out" || echo "$1.crashed"
}

# The first red test of each program, of which one is enough; the slow ones are asked only where the quick are green.
slow='*BitsOf*:*ErrorBound*:AnyRun*:*EveryStorage*:*all_2_to_the_32_patterns'
red_tests() {
  if [ -n "$device" ]; then
    red=$(red_in adamant_cuda_kernels_test '-*Full*')
    [ -n "$red" ] || red=$(red_in adamant_cuda_test '*ParityOfEveryRule*:*Trap*-*Full*')
    [ -n "$red" ] || red=$(red_in adamant_cuda_failure_test '-*Full*:*EveryCudaCall*')
    [ -z "$red" ] || printf '%s\n' "$red"
    return
  fi
  red=$(red_in adamant_digest_test '*')
  [ -n "$red" ] || red=$(red_in adamant_replacement_test '*')
  [ -n "$red" ] || red=$(red_in adamant_tests "-*Full*:SimdLevels*:$slow")  # SimdLevels: this build has one
  [ -n "$red" ] || red=$(red_in adamant_storage_test "-*Full*:$slow")
  # Not those that read sources and objects.
  [ -n "$red" ] || red=$(red_in adamant_isolation_tests '*HostEnvironment*:Decay*:StepCount*:StepScalars*')
  [ -z "$red" ] || printf '%s\n' "$red"
}
slow_red_tests() {
  if [ -n "$device" ]; then
    red=$(red_in adamant_cuda_test '*ParityOfEveryStorage*:CudaStorage*-*Full*')
    [ -n "$red" ] || red=$(red_in adamant_cuda_failure_test '*EveryCudaCall*')
    [ -z "$red" ] || printf '%s\n' "$red"
    return
  fi
  red=$(red_in adamant_tests "$slow-*Full*")
  [ -n "$red" ] || red=$(red_in adamant_storage_test "$slow-*Full*")
  [ -z "$red" ] || printf '%s\n' "$red"
}

# verdict FILE LABEL EXPRESSION: a line of the table.
verdict() {
  if ! sed "$3" "$source/$1" >"$own/mutant" || cmp -s "$own/mutant" "$source/$1"; then
    echo "DOES NOT APPLY | $1 | $2"
    return
  fi
  cp "$own/mutant" "$own/tree/$1"
  if cmake --build "$build" --target adamant >"$own/log" 2>&1 &&
    (cd "$build" && for program in $programs; do sh "$own/link.$program"; done) >>"$own/log" 2>&1; then
    red=$(red_tests)
    rebuilt=
    if [ -z "$red" ]; then
      case $1 in host/*.hpp | kernels/*.hpp)
        rebuilt=yes
        # shellcheck disable=SC2086  # several targets
        if cmake --build "$build" --target $programs >"$own/log" 2>&1; then red=$(red_tests); fi
        ;;
      esac
    fi
    [ -n "$red" ] || red=$(slow_red_tests)
    if [ -z "$red" ]; then echo "SURVIVED | $1 | $2"; else echo "red | $1 | $2 | $red"; fi
  else
    echo "DOES NOT BUILD | $1 | $2 | $(tail -5 "$own/log" | tr '\n' ' ')"
  fi
  cp -p "$source/$1" "$own/tree/$1"
  touch "$own/tree/$1"
  # shellcheck disable=SC2086
  [ -z "${rebuilt:-}" ] || cmake --build "$build" --target $programs >"$own/log" 2>&1
}

# Every so many-th mutation, beginning with this worker's number.
worker() {
  own=$work/$1
  build=$own/build
  [ -d "$build" ] || make_build || return
  awk -v own="$1" -v workers="$workers" 'NR % workers == own' "$work/mutations" |
    while IFS='|' read -r file label expression; do
      [ ! -e "$work/stop" ] || break
      verdict "$file" "$label" "$expression" | tee -a "$own/table"
    done
}

own=$work/0  # which the first worker goes on with
make_build || exit 2
red=$(red_tests; slow_red_tests)
if [ -n "$red" ]; then
  printf 'mutation check: red without a mutation:\n%s\n' "$red" >&2
  exit 2
fi
number=0
while [ "$number" -lt "$workers" ]; do
  worker "$number" &
  number=$((number + 1))
done
wait
cat "$work"/*/table >"$work/table" 2>/dev/null || :
count() { grep -c "^$1" "$work/table" || true; }
red=$(count 'red ')
survived=$(count SURVIVED)
echo "mutation check: $total mutations, $survived survived, $((total - red - survived)) did not apply or build"
[ "$((red + survived))" -eq "$total" ] || exit 2
[ "$survived" -eq 0 ]
