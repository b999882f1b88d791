#!/usr/bin/env bash
# Says of JUnit files of ctest's why each skipped test was skipped, and how many passed, failed and were skipped.
#   usage: scripts/test_summary.sh RESULTS.xml...
set -euo pipefail

awk '
  function attribute(name,   m) {
    if (match($0, " " name "=\"[^\"]*\"")) { m = substr($0, RSTART, RLENGTH); sub(/^[^"]*"/, "", m); sub(/"$/, "", m); return m }
    return ""
  }
  /<testcase /  { name = attribute("name"); status = attribute("status"); skipped = 0; reason = ""; wanted = 0
                  if (status == "run") passed++; else if (status == "fail") failed++; else skipped_tests++
                  skipped = status != "run" && status != "fail" }
  # GoogleTest prints FILE:LINE: Skipped, and the reason on the next line; our own scripts print skipped: REASON.
  wanted && reason == "" { reason = $0; wanted = 0 }
  /: Skipped$/  { wanted = 1 }
  reason == "" && match($0, /(^|[ >])skipped: /) { reason = substr($0, RSTART + RLENGTH) }
  /<skipped / && reason == "" && attribute("message") !~ /REGULAR_EXPRESSION/ { reason = attribute("message") }
  /<\/testcase>/ { if (skipped) { sub(/^[ \t]+/, "", reason); print "skipped: " name ": " (reason == "" ? "no reason given" : reason) } }
  END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped_tests }
' "$@"
