#!/usr/bin/env bash
# The scripts: that bash can read them all, that the commands refuse what they do not know before they do anything, and
# that the summary of a test run counts right.   usage: tests/scripts_test.sh
set -euo pipefail
cd "$(dirname "$0")/.."

failures=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

expect_equal() {  # WHAT GOT WANTED
  [ "$2" = "$3" ] || fail "$1: got"$'\n'"$2"$'\n'"wanted"$'\n'"$3"
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# --- All can be read and run
scripts=0
for script in run.sh test.sh .ci/run scripts/*.sh tests/*.sh; do
  scripts=$((scripts + 1))
  bash -n "$script" || fail "$script: bash cannot read it"
  [ -x "$script" ] || fail "$script: may not be executed"
done
[ "$scripts" -ge 8 ] || fail "only $scripts scripts found"

# --- Every mutation changes something, and none is there twice
mutations=0
while IFS='|' read -r file label expression; do
  case $file in '' | '#'*) continue ;; esac
  mutations=$((mutations + 1))
  sed "$expression" "$file" > "$folder/mutant" 2> "$folder/err" || fail "mutation $file, $label: $(cat "$folder/err")"
  ! cmp -s "$folder/mutant" "$file" || fail "mutation $file, $label: does not apply"
done < <(cat scripts/mutations.txt scripts/device_mutations.txt)
[ "$mutations" -ge 300 ] || fail "only $mutations mutations found"
expect_equal "mutations that are there twice" \
  "$(cat scripts/mutations.txt scripts/device_mutations.txt | grep -v '^#' | cut -d'|' -f1,3- | sort | uniq -d)" ""

# --- Unknown flags
for command in run.sh test.sh; do
  for flag in --nonsense nonsense --quik; do
    status=0
    (cd / && timeout 20 "$OLDPWD/$command" "$flag") > "$folder/out" 2> "$folder/err" || status=$?
    expect_equal "$command $flag: exit code" "$status" 2
    expect_equal "$command $flag: standard output" "$(cat "$folder/out")" ""
    grep -q "$command" "$folder/err" || fail "$command $flag: does not say how it is used: $(cat "$folder/err")"
  done
done

# --- gpu_check.sh, with programs that only say what they are called with
mkdir -p "$folder/build/bin" "$folder/build/tests" "$folder/path"
touch "$folder/build/libadamant.so"
stub() {  # PATH: a program that does what is on standard input, with its words in $*
  { echo '#!/bin/sh'; cat; } > "$1"
  chmod +x "$1"
}
stub "$folder/build/bin/adamant" << 'SH'
echo "adamant $*"
case "$*" in
  info) echo "default   ${STUB_DEVICE:-cuda:0}, where --device says nothing else" ;;
  *"${STUB_FAILS:-nothing}"*) exit 1 ;;
  *"${STUB_HANGS:-nothing}"*) exec sleep 30 ;;
esac
while [ $# -gt 1 ]; do
  if [ "$1" = --json-file ]; then echo '{"of": "a stub"}' > "$2"; fi
  shift
done
SH
# Like a program of GoogleTest's, of which the parts that are not the first have nothing to do.
stub "$folder/build/tests/adamant_first_test" << 'SH'
echo "first: require $ADAMANT_REQUIRE_CUDA"
echo "$GTEST_SHARD_INDEX of $GTEST_TOTAL_SHARDS $*" >> "$(dirname "$0")/parts"
[ "$GTEST_SHARD_INDEX" = 0 ] || exit 0
if [ "${STUB_TEST:-0}" = 0 ]; then
  printf '%s\n' "x_test.cpp:1: Skipped" "no sensitive clock" "[  PASSED  ] 5 tests." "[  SKIPPED ] 2 tests, listed below:"
elif [ "$STUB_TEST" = 139 ]; then
  printf '%s\n' "and then it crashed"
else
  printf '%s\n' "what went wrong" "[  FAILED  ] First.fails/sm_90, where GetParam() = sm_90 (3 ms)" "[  PASSED  ] 4 tests."
fi
exit "${STUB_TEST:-0}"
SH
stub "$folder/path/compute-sanitizer" <<< 'echo "========= sanitizer $*"; case "$*" in *"${STUB_FINDS:-nothing}"*) exit 9 ;; esac'
stub "$folder/path/python3" << 'SH'
echo "python3 $*"
while [ $# -gt 1 ]; do
  if [ "$1" = --json-file ] && [ "${STUB_PYTHON:-0}" = 0 ]; then echo '{}' > "$2"; fi
  shift
done
exit "${STUB_PYTHON:-0}"
SH
stub "$folder/path/nvidia-smi" <<< 'echo "NVIDIA \"Stub\", 580.65"'
check() {  # WORDS...: what it prints last, and its exit code
  local status=0
  rm -rf "$folder/gpu"
  PATH=$folder/path:$PATH ADAMANT_BUILD=$folder/build ADAMANT_EMULATOR='' scripts/gpu_check.sh "$@" > "$folder/out" 2>&1 || status=$?
  echo "$(sed -n '/^phase /,$s/ *[0-9]* s  */ /p' "$folder/out" | sed 's/ *$//' | tr -s ' ')
$status"
}
expect_equal "gpu_check.sh" "$(check "$folder/gpu")" "test passed
sanitize passed
compare passed
bench passed
0"
expect_equal "gpu_check.sh: its files" "$(cd "$folder/gpu" && echo ./*)" \
  "./bench.json ./bench.log ./compare.json ./compare.log ./machine.json ./machine.txt ./mixed.json ./peers.json ./sanitize.log ./test.log"
for word in 'NVIDIA "Stub", 580.65' "^commit  *[0-9a-f]\{40\}\|^commit  *unknown" "^date  *20"; do
  grep -q "$word" "$folder/gpu/machine.txt" || fail "gpu_check.sh: machine.txt has no $word"
done
grep -q '"nvidia_smi": "NVIDIA \\"Stub\\", 580.65"' "$folder/gpu/machine.json" || fail "gpu_check.sh: $(cat "$folder/gpu/machine.json")"
expect_equal "gpu_check.sh: the tests" "$(tail -n 2 "$folder/gpu/test.log" | tr -s ' ')" "skipped: 1 no sensitive clock
5 passed, 0 failed, 2 skipped"
expect_equal "gpu_check.sh: the parts of the tests" "$(sort -n "$folder/build/tests/parts")" \
  "$(for ((part = 0; part < $(nproc); part++)); do echo "$part of $(nproc) --gtest_brief=1 --gtest_filter=-*Full_*:Full*"; done)"
for tool in memcheck racecheck initcheck synccheck; do
  for words in compare descend; do
    grep -q "sanitizer --tool $tool --error-exitcode.* $words" "$folder/gpu/sanitize.log" || fail "gpu_check.sh: no $tool of $words"
  done
done
for words in "--count 20011 --steps 7 --storage all --clip-norm 1" "--count 268435456 --steps" "--count 4294967301 --steps 2 --method gradient_descent"; do
  grep -q "adamant compare --device cuda $words" "$folder/gpu/compare.log" || fail "gpu_check.sh: no compare $words"
done
expect_equal "gpu_check.sh: compare.json" "$(tr -d '\n' < "$folder/gpu/compare.json" | tr -s ' ')" \
  "[$(printf '{"of": "a stub"},%.0s' {1..7}){\"of\": \"a stub\"}]"
for words in "--json-file" "--method adam --storage all --pipeline update,clip --sizes 268435456"; do
  grep -q "adamant bench --device cuda $words" "$folder/gpu/bench.log" || fail "gpu_check.sh: no bench $words"
done
grep -q "python3 bench/peers.py --library $folder/build/libadamant.so --device cuda" "$folder/gpu/bench.log" \
  || fail "gpu_check.sh: the peers were not asked"
expect_equal "gpu_check.sh: a measurement fails" "$(STUB_FAILS="--storage all --pipeline" check "$folder/gpu" bench)" \
  "bench failed see $folder/gpu/bench.log
1"
grep -q "python3 bench/peers.py" "$folder/gpu/bench.log" || fail "gpu_check.sh: a measurement that fails ends the others"
expect_equal "gpu_check.sh: no peers" "$(STUB_PYTHON=77 check "$folder/gpu" bench)" "bench passed
0"
grep -q "Peers were not measured" "$folder/gpu/bench.log" || fail "gpu_check.sh: does not say that no peer was there"
expect_equal "gpu_check.sh: the peers fail" "$(STUB_PYTHON=1 check "$folder/gpu" bench)" "bench failed see $folder/gpu/bench.log
1"
expect_equal "gpu_check.sh: one comparison fails" "$(STUB_FAILS="compare --device cuda --count 268435456" check "$folder/gpu" compare bench)" \
  "compare failed see $folder/gpu/compare.log
bench passed
1"
grep -q 4294967301 "$folder/gpu/compare.log" || fail "gpu_check.sh: a comparison that fails ends the others"
expect_equal "gpu_check.sh: a phase takes too long" \
  "$(ADAMANT_PHASE_SECONDS=1 STUB_HANGS="--dtype f64" check "$folder/gpu" compare)" "compare failed stopped after 1 s
1"
expect_equal "gpu_check.sh: compare.json of a phase that was stopped" "$(tr -d '\n' < "$folder/gpu/compare.json" | tr -s ' ')" \
  '[{"of": "a stub"},{"of": "a stub"}]'
expect_equal "gpu_check.sh: a test fails" "$(STUB_TEST=1 check "$folder/gpu" test)" "test failed see $folder/gpu/test.log
1"
for words in "first: require 1" "what went wrong" "4 passed, 1 failed, 0 skipped" "failed: adamant_first_test.0\$"; do
  grep -q "$words" "$folder/gpu/test.log" || fail "gpu_check.sh: the log of tests that fail has no $words"
done
expect_equal "gpu_check.sh: a program of tests crashes" "$(STUB_TEST=139 check "$folder/gpu" test)" "test failed see $folder/gpu/test.log
1"
grep -q "0 passed, 1 failed, 0 skipped" "$folder/gpu/test.log" || fail "gpu_check.sh: a crash is not counted: $(tail -n 3 "$folder/gpu/test.log")"
for words in synccheck "--dtype f64" "--storage all" descend; do
  expect_equal "gpu_check.sh: the sanitizer finds something in $words" "$(STUB_FINDS=$words check "$folder/gpu" sanitize)" \
    "sanitize failed see $folder/gpu/sanitize.log
1"
done
rm "$folder/path/compute-sanitizer"
if ! PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer > /dev/null; then
  expect_equal "gpu_check.sh: no sanitizer" "$(check "$folder/gpu" sanitize)" \
    "sanitize skipped compute-sanitizer is not installed
0"
fi
expect_equal "gpu_check.sh: no GPU" "$(STUB_DEVICE=cpu check "$folder/gpu" bench)" "
1"
grep -q "finds no GPU" "$folder/out" || fail "gpu_check.sh: does not say that there is no GPU: $(cat "$folder/out")"
for words in "" "--nonsense" "$folder/gpu nonsense" "--small"; do
  status=0
  # shellcheck disable=SC2086  # none, one or two words
  ADAMANT_BUILD=$folder/build scripts/gpu_check.sh $words > "$folder/out" 2> "$folder/err" || status=$?
  expect_equal "gpu_check.sh $words: exit code" "$status" 2
  grep -q "usage: scripts/gpu_check.sh" "$folder/err" || fail "gpu_check.sh $words: does not say how it is used"
done
status=0
ADAMANT_BUILD=$folder/path scripts/gpu_check.sh "$folder/gpu" > "$folder/out" 2>&1 || status=$?
expect_equal "gpu_check.sh: no build where one is named: exit code" "$status" 2
rm -r "$folder/build"

# --- The summary of a test run
cat > "$folder/results.xml" << 'XML'
<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="Linux-c++" tests="5" failures="1" disabled="0" skipped="3" hostname="" time="1" timestamp="2024-01-01">
	<testcase name="Method.Passes" classname="Method.Passes" time="0.01" status="run">
		<system-out>Note: 1 thing: Skipped
is not a skip
</system-out>
	</testcase>
	<testcase name="Method.Fails" classname="Method.Fails" time="0.02" status="fail">
		<failure message=""/>
		<system-out>x_test.cpp:1: Failure
</system-out>
	</testcase>
	<testcase name="Device.Steps" classname="Device.Steps" time="0.03" status="notrun">
		<skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/>
		<system-out>[ RUN      ] Device.Steps
/src/device_test.cpp:12: Skipped
  there is no GPU: nvidia-smi is missing

[  SKIPPED ] Device.Steps (0 ms)
</system-out>
	</testcase>
	<testcase name="Device.Disabled" classname="Device.Disabled" time="0" status="disabled">
		<skipped message="Disabled"/>
		<system-out></system-out>
	</testcase>
	<testcase name="Device.Silent" classname="Device.Silent" time="0" status="notrun">
		<system-out></system-out>
	</testcase>
	<testcase name="Method.PassesToo" classname="Method.PassesToo" time="0.01" status="run">
		<system-out></system-out>
	</testcase>
</testsuite>
XML
expect_equal "test_summary.sh" "$(scripts/test_summary.sh "$folder/results.xml")" \
  "skipped: Device.Steps: there is no GPU: nvidia-smi is missing
skipped: Device.Disabled: Disabled
skipped: Device.Silent: no reason given
2 passed, 1 failed, 3 skipped"

printf '<?xml version="1.0" encoding="UTF-8"?>\n<testsuite tests="0">\n</testsuite>\n' > "$folder/empty.xml"
expect_equal "test_summary.sh of no tests" "$(scripts/test_summary.sh "$folder/empty.xml")" "0 passed, 0 failed, 0 skipped"

status=0
scripts/test_summary.sh "$folder/missing.xml" > "$folder/out" 2> /dev/null || status=$?
[ "$status" != 0 ] || fail "test_summary.sh takes a missing file for a test run"

# --- The summary agrees with what ctest writes
mkdir "$folder/project"
cat > "$folder/project/CMakeLists.txt" << 'CMAKE'
cmake_minimum_required(VERSION 3.25)
project(summary LANGUAGES NONE)
enable_testing()
add_test(NAME passes COMMAND true)
add_test(NAME fails COMMAND false)
add_test(NAME skips COMMAND printf "x.cpp:3: Skipped\\nno device\\n[  SKIPPED ] x\\n")
set_tests_properties(skips PROPERTIES SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
CMAKE
cmake -S "$folder/project" -B "$folder/build" > "$folder/out" 2>&1 || fail "cmake: $(cat "$folder/out")"
ctest --test-dir "$folder/build" --output-junit "$folder/real.xml" > "$folder/out" 2>&1 || true
expect_equal "test_summary.sh of a real run" "$(scripts/test_summary.sh "$folder/real.xml")" \
  "skipped: skips: no device
1 passed, 1 failed, 1 skipped"

# --- The page of a report
mkdir "$folder/report"
expect_page() {  # WHAT PATTERN COUNT: lines of the page that have it
  expect_equal "report.sh: $1" "$(grep -c -- "$2" "$folder/report/index.html" || true)" "$3"
}
printf 'a <b> & "c"\n' > "$folder/report/machine.txt"
echo 'method <x>' > "$folder/report/bench.txt"
echo '{}' > "$folder/report/bench.json"
cat > "$folder/report/bench.html" << 'HTML'
<html><body><p>not taken over</p>
<figure class="bench"><svg xmlns="http://www.w3.org/2000/svg" aria-labelledby="bench-rate-1-title">
<title id="bench-rate-1-title">Bandwidth</title></svg></figure>
<p>nor this</p></body></html>
HTML
for name in digits descend; do
  echo 'something' > "$folder/report/$name.txt"
  cat > "$folder/report/$name.svg" << 'SVG'
<?xml version="1.0" encoding="utf-8"  standalone="no"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" aria-labelledby="title">
<title id="title">Picture</title><g id='dot'/>
<use xlink:href='#dot' id = "dots" clip-path="url(#frame)"/>
</svg>
SVG
done
scripts/report.sh "$folder/report" || fail "report.sh: exit code $?"
expect_page "escaped text" '<pre>a &lt;b&gt; &amp; &quot;c&quot;</pre>' 1
expect_page "pictures" '<svg ' 3
expect_page "the picture of the program's page" 'bench-rate-1-title">Bandwidth</title></svg></figure>' 1
expect_page "nothing else of that page" 'not taken over\|nor this' 0
expect_page "a link to that page" '<a href="bench.html">' 1
expect_page "no declaration within the page" '<?xml' 0
expect_page "a link to what is there" '<a href="bench.json">' 1
expect_page "no link to what is not" 'digits.csv' 0
for name in digits descend; do
  expect_page "references of $name.svg" "href='#$name-dot' id = \"$name-dots\" clip-path=\"url(#$name-frame)\"" 1
  expect_page "label of $name.svg" "aria-labelledby=\"$name-title\"" 1
done
expect_equal "report.sh: names given twice" \
  "$(grep -oE "[ <]id *= *['\"][^'\"]*" "$folder/report/index.html" | tr -d " \"'" | sort | uniq -d)" ""
expect_equal "report.sh: what comes from elsewhere" \
  "$(grep -E "(src|href|@import|url\()[^ ]*(https?:)?//" "$folder/report/index.html" | grep -v xmlns || true)" ""
if command -v python3 > /dev/null; then
  python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$folder/report/index.html" 2> "$folder/err" \
    || fail "report.sh: not well-formed: $(tail -n 1 "$folder/err")"
fi
rm "$folder/report/digits.svg"
scripts/report.sh "$folder/report"
expect_page "says that a picture is not there" 'no picture digits.svg: gnuplot was not found' 1
for words in "" "$folder/missing" "$folder/report $folder/report"; do
  # shellcheck disable=SC2086  # none, one or two words
  if scripts/report.sh $words > "$folder/out" 2>&1; then fail "report.sh takes '$words'"; fi
done

# --- run.sh makes its page of what there is: with programs that only say what they are called with
mkdir -p "$folder/run/scripts" "$folder/run/examples/digits" "$folder/run/build/release/bin" "$folder/run/build/release/examples/digits"
cp run.sh "$folder/run"
cp scripts/report.sh "$folder/run/scripts"
for name in scripts/setup.sh scripts/cuda_architectures.sh; do stub "$folder/run/$name" <<< ''; done
stub "$folder/run/build/release/bin/adamant" <<< 'echo "adamant $*"'
stub "$folder/run/build/release/examples/digits/digits" <<< 'echo "no digits"; [ -z "${STUB_CSV:-}" ] || echo > report/digits.csv; exit "${STUB_DIGITS:-0}"'
stub "$folder/path/cmake" <<< ''
stub "$folder/path/gnuplot" <<< 'echo "gnuplot $*"; exit 1'
made() {  # what failed, by the last line, and the exit code
  local status=0
  rm -rf "$folder/run/report"
  PATH=$folder/path:$PATH "$folder/run/run.sh" > "$folder/out" 2>&1 || status=$?
  [ -s "$folder/run/report/index.html" ] || fail "run.sh: no page: $(tail -n 3 "$folder/out")"
  echo "$(tail -n 1 "$folder/out") $status"
}
expect_equal "run.sh: no digits" "$(STUB_DIGITS=1 made)" "These parts failed: digits  1"
grep -q "^gnuplot" "$folder/out" && fail "run.sh: curves of nothing"
expect_equal "run.sh: no curves" "$(STUB_CSV=1 made)" "These parts failed: curves  1"

# --- bench/peers.py, without PyTorch and without the library
if command -v python3 > /dev/null; then
  cat > "$folder/peers.py" << PYTHON
import os, sys, tempfile, types
from pathlib import Path
sys.path.insert(0, "$PWD/bench")
import peers

# Every cache once, and only those of data behind the first level.
with tempfile.TemporaryDirectory() as folder:
    for cpu in range(4):
        for index, (kind, level, size) in enumerate(
                [("Data", "1", "32K"), ("Instruction", "1", "32K"), ("Unified", "2", "512K"), ("Unified", "3", "16M")]):
            cache = Path(folder) / f"cpu{cpu}" / "cache" / f"index{index}"
            cache.mkdir(parents=True)
            shared = str(cpu) if index < 3 else "0-1" if cpu < 2 else "2-3"
            for name, text in ("type", kind), ("level", level), ("size", size), ("shared_cpu_list", shared):
                (cache / name).write_text(text + "\n")
    assert peers.cpu_cache_bytes(folder) == 4 * (512 << 10) + 2 * (16 << 20), peers.cpu_cache_bytes(folder)
    assert peers.cpu_cache_bytes(folder + "/none") == 64 << 20

# Every run takes the set of tensors that was touched longest ago, whoever touched it.
class Step:
    def __init__(self, parameters):
        self.step = lambda: ran.append(parameters)

ran, turn = [], [0]
two = [peers.Contender(name, Step, list("abc"), turn) for name in ("ours", "theirs")]
for repetition in range(3):
    for contender in two:
        for run in range(2):
            contender.run()
assert "".join(ran) == "bca" * 4, ran

# A JSON that cannot be written is said in a line; nothing is measured, for want of memory.
sys.modules["torch"] = types.SimpleNamespace(
    __version__="9.9", cuda=types.SimpleNamespace(is_available=lambda: False), optim=None,
    device=lambda name: types.SimpleNamespace(type=name, index=None), set_num_threads=lambda threads: None)
peers.PEERS, peers.load_library, peers.adamant.version = [], lambda path: "none", lambda: "9.9"
sys.argv = ["peers.py", "--methods", "adam", "--sizes", "1" + 15 * "0", "--json-file", "/dev/full"]
peers.main()
PYTHON
  status=0
  python3 -B "$folder/peers.py" > "$folder/out" 2> "$folder/err" || status=$?
  expect_equal "peers.py" "$(cat "$folder/err") $status" \
    "peers.py: --json-file /dev/full cannot be written: No space left on device 2"
  for seconds in inf nan 0 -1; do
    status=0
    python3 -B bench/peers.py "--seconds=$seconds" > "$folder/out" 2> "$folder/err" || status=$?
    expect_equal "peers.py --seconds=$seconds: exit code" "$status" 2
    grep -q "more than 0, and finite" "$folder/err" || fail "peers.py --seconds=$seconds: $(cat "$folder/err")"
  done
fi

# --- A text of CMake as a literal of C
mkdir "$folder/literal"
cat > "$folder/literal/CMakeLists.txt" << CMAKE
cmake_minimum_required(VERSION 3.25)
project(literal LANGUAGES C)
include($PWD/cmake/literal.cmake)
adamant_literal(literal "\${CMAKE_C_FLAGS}")
file(WRITE "\${CMAKE_CURRENT_BINARY_DIR}/main.c" "#include <stdio.h>\nint main(void) { return puts(TEXT) < 0; }\n")
add_executable(literal "\${CMAKE_CURRENT_BINARY_DIR}/main.c")
target_compile_definitions(literal PRIVATE "TEXT=\${literal}")
CMAKE
flags='-DA="a b" -DB=\"c\" -DC='"'d'"
if cmake -S "$folder/literal" -B "$folder/literal/build" -DCMAKE_C_FLAGS="$flags" > "$folder/out" 2>&1 \
  && cmake --build "$folder/literal/build" >> "$folder/out" 2>&1; then
  expect_equal "adamant_literal" "$("$folder/literal/build/literal")" "$flags"
else
  fail "adamant_literal: $(tail -n 20 "$folder/out")"
fi

[ "$failures" = 0 ] || exit 1
echo "scripts: $scripts read, everything as it should be"
