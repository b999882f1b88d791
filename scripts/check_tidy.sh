#!/usr/bin/env bash
# clang-tidy finds nothing in the library, the program and the examples.   usage: scripts/check_tidy.sh BUILD_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files 'host/*.cpp' 'kernels/*.cpp' 'tools/*.cpp' 'bench/*.cpp' 'examples/*.cpp' \
  | grep -v -e simd_generic.cpp -e no_bench.cpp \
  | xargs -P "$(nproc)" -n 2 clang-tidy -p "$1" --quiet --warnings-as-errors='*' 2> /dev/null
echo "clang-tidy: nothing found"
