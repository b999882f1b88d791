#!/usr/bin/env bash
# The main job: builds the library, measures every method, holds it against the reference, replays a real trace and trains
# on handwritten digits; on the GPU where there is one. Leaves it all, with pictures and JSON, in report/: open report/index.html.
#   ./run.sh           everything (under five minutes on two cores after the build)
#   ./run.sh --quick   fewer sizes and repetitions
set -euo pipefail
cd "$(dirname "$0")"

bench=()
case "${1:-}" in
  "") ;;
  --quick) bench=(--quick) ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
if [ $# -gt 1 ]; then sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; fi

scripts/setup.sh
echo "== Building (build/build-release.log): two to six minutes on two cores"
mkdir -p build report
architectures=$(scripts/cuda_architectures.sh)
cmake --preset release ${architectures:+"$architectures"} > build/configure.log 2>&1 || { cat build/configure.log; exit 1; }
cmake --build --preset release --target adamant_program digits > build/build-release.log 2>&1 || { tail -n 80 build/build-release.log; exit 1; }
adamant=build/release/bin/adamant

if $adamant info | grep -q '^default  *cuda:'; then
  where="Sections 2 to 5 ran on the GPU, what they are compared with and the digits of section 6 on the CPU."
else
  where="There is no GPU that this build can use (section 1 says why): everything below ran on the CPU."
fi

# Shows a command's output and keeps it as report/NAME.txt. What fails is said, and the page is made all the same.
failed=report/failed
show() {
  local name=$1
  shift
  "$@" | tee "report/$name.txt" || { echo "FAILED: $name"; echo "$name" >> "$failed"; }
}

machine() {
  echo "adamant $($adamant --version), $(date -u +%Y-%m-%d), $(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)"
  echo "$where"
}

# A part that fails leaves no older one to be taken for it.
rm -f "$failed" report/{machine,info,descend,bench,compare,replay,digits,report}.{txt,svg,csv,json,html,safetensors} report/index.html
{
  echo
  show machine machine
  echo
  echo "== 1. This program and this machine"
  show info "$adamant" info --json-file report/info.json
  echo
  echo "== 2. Six ways down a valley"
  show descend "$adamant" descend --out report --json-file report/descend.json
  echo
  echo "== 3. Throughput"
  show bench "$adamant" bench "${bench[@]}" --json-file report/bench.json --html report/bench.html
  echo
  echo "== 4. The same bits on every device and instruction set, and each step against the textbook reference"
  show compare "$adamant" compare --json-file report/compare.json
  echo
  echo "== 5. A real trace: 80 gradients of a network, recorded with PyTorch, whose own float32 run is the yardstick"
  show replay "$adamant" replay tests/golden/digits.trace.safetensors --method adamw --option weight_decay=0.1 \
    --expect tests/golden/digits.adamw.safetensors --out report/replay.safetensors --json-file report/replay.json
  echo
  echo "== 6. Training on 1,797 handwritten digits, on the CPU"
  show digits build/release/examples/digits/digits --out report
} | tee report/report.txt

if command -v gnuplot > /dev/null && [ -e report/digits.csv ]; then
  gnuplot -c examples/digits/curves.gp report || { echo "FAILED: curves"; echo curves >> "$failed"; }
fi
scripts/report.sh report
echo
echo "Everything is in report/index.html, one page that needs no network. Beside it: report.txt (the text above), descend.csv,"
echo "digits.csv, bench.html (all of the throughput), replay.safetensors (where the replayed run ended), and the pictures and JSON."
if [ -e "$failed" ]; then
  echo "These parts failed: $(tr '\n' ' ' < "$failed")"
  exit 1
fi
