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
echo 'method <x>' | tee "$folder/report/bench.txt" > "$folder/report/digits.txt"
echo '{}' > "$folder/report/bench.json"
for name in bench digits; do
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
expect_page "pictures" '<svg ' 2
expect_page "no declaration within the page" '<?xml' 0
expect_page "a link to what is there" '<a href="bench.json">' 1
expect_page "no link to what is not" 'digits.csv' 0
for name in bench digits; do
  expect_page "references of $name.svg" "href='#$name-dot' id = \"$name-dots\" clip-path=\"url(#$name-frame)\"" 1
  expect_page "label of $name.svg" "aria-labelledby=\"$name-title\"" 1
done
expect_equal "report.sh: names given twice" \
  "$(grep -oE "[ <]id *= *['\"][^'\"]*" "$folder/report/index.html" | tr -d " \"'" | sort | uniq -d)" ""
expect_equal "report.sh: what comes from elsewhere" \
  "$(grep -E "(src|href|@import|url\()[^ ]*(https?:)?//" "$folder/report/index.html" | grep -v xmlns || true)" ""
if command -v xmllint > /dev/null; then
  xmllint --noout "$folder/report/index.html" 2> "$folder/err" || fail "report.sh: not well-formed: $(cat "$folder/err")"
fi
rm "$folder/report/digits.svg"
scripts/report.sh "$folder/report"
expect_page "says that a picture is not there" 'no picture digits.svg: gnuplot was not found' 1
for words in "" "$folder/missing" "$folder/report $folder/report"; do
  # shellcheck disable=SC2086  # none, one or two words
  if scripts/report.sh $words > "$folder/out" 2>&1; then fail "report.sh takes '$words'"; fi
done

[ "$failures" = 0 ] || exit 1
echo "scripts: $scripts read, everything as it should be"
