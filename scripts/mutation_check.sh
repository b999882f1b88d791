#!/bin/sh
# A test that cannot fail is a defect: breaks one operation at a time in a copy of the tree and expects the tests to go
# red. Prints a table of mutation and first red test; exits 1 when a mutation survives, 2 when one does not apply or
# does not build (which does not count as red). scripts/mutation_check.sh [PATTERN]: only mutations that match PATTERN.
#
# Only the library is built again for a mutation; the tests, which hold no arithmetic of it, are linked again. One SIMD
# level is enough: that all levels agree is tests/bits_test.cpp's job.
set -eu
cd "$(dirname "$0")/.."
source=$PWD
pattern=${1:-.}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tree"
tar -cf - --exclude='./build*' --exclude=./.git --exclude=./report . | tar -xf - -C "$work/tree"
build=$work/build
programs="adamant_tests adamant_digest_test adamant_replacement_test adamant_storage_test"
cmake -G Ninja -S "$work/tree" -B "$build" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=generic \
  -DADAMANT_CUDA=OFF -DADAMANT_TESTS=ON -DADAMANT_BENCH=OFF -DADAMANT_TOOLS=OFF -DADAMANT_EXAMPLES=OFF >/dev/null
cmake --build "$build" --target $programs >"$work/log" 2>&1 || { tail -20 "$work/log"; exit 2; }
for program in $programs; do
  ninja -C "$build" -t commands "$program" | tail -n 1 | sed 's/ && cd .*//' >"$work/link.$program"
done

# red_in PROGRAM FILTER: the name of the first red test.
red_in() {
  "$build/tests/$1" --gtest_filter="$2" --gtest_brief=1 --gtest_fail_fast >"$work/out" 2>&1 || true
  sed -n 's/^\[  FAILED  \] \([^ ,]*\).*(\([0-9]*\) ms).*/\1/p' "$work/out"
  # A crash is red, too, and names no test.
  grep -q '^\[==========\] [0-9]* test.* ran' "$work/out" || echo "$1.crashed"
}

# The first red test of each program, of which one is enough; the slow ones are asked only where the quick are green.
slow='*BitsOf*:*ErrorBound*:AnyRun*:*EveryStorage*:*all_2_to_the_32_patterns'
red_tests() {
  red=$(red_in adamant_digest_test '*')
  [ -n "$red" ] || red=$(red_in adamant_replacement_test '*')
  [ -n "$red" ] || red=$(red_in adamant_tests "-*Full*:SimdLevels*:$slow")  # SimdLevels: this build has one
  [ -n "$red" ] || red=$(red_in adamant_storage_test "-*Full*:$slow")
  [ -z "$red" ] || printf '%s\n' "$red"
}
slow_red_tests() {
  red=$(red_in adamant_tests "$slow-*Full*")
  [ -n "$red" ] || red=$(red_in adamant_storage_test "$slow-*Full*")
  [ -z "$red" ] || printf '%s\n' "$red"
}

red=$(red_tests; slow_red_tests)
if [ -n "$red" ]; then
  printf 'mutation check: red without a mutation:\n%s\n' "$red" >&2
  exit 2
fi
survived=0
broken=0
total=0
while IFS='|' read -r file label expression; do
  case $file in '' | '#'*) continue ;; esac
  printf '%s %s\n' "$file" "$label" | grep -q -- "$pattern" || continue
  total=$((total + 1))
  sed "$expression" "$source/$file" >"$work/mutant"
  if cmp -s "$work/mutant" "$source/$file"; then
    echo "DOES NOT APPLY | $file | $label"
    broken=$((broken + 1))
    continue
  fi
  cp "$work/mutant" "$work/tree/$file"
  if cmake --build "$build" --target adamant >"$work/log" 2>&1 &&
    (cd "$build" && for program in $programs; do sh "$work/link.$program"; done) >>"$work/log" 2>&1; then
    red=$(red_tests)
    [ -n "$red" ] || red=$(slow_red_tests)
    if [ -z "$red" ]; then
      echo "SURVIVED | $file | $label"
      survived=$((survived + 1))
    else
      echo "red | $file | $label | $red"
    fi
  else
    echo "DOES NOT BUILD | $file | $label"
    tail -5 "$work/log"
    broken=$((broken + 1))
  fi
  cp -p "$source/$file" "$work/tree/$file"
  touch "$work/tree/$file"
done <"$source/scripts/mutations.txt"
echo "mutation check: $total mutations, $survived survived, $broken did not apply or build"
[ "$broken" -eq 0 ] || exit 2
[ "$survived" -eq 0 ]
