#!/usr/bin/env bash
# clang-tidy finds nothing in the library, the program and the examples.
#   scripts/check_tidy.sh BUILD_FOLDER [--without-analyzer]
# Clang's static analyzer is two thirds of the time. The largest files come first, so that no core waits for one of them
# at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?usage: scripts/check_tidy.sh BUILD_FOLDER [--without-analyzer]}
checks=()
case "${2:-}" in
  "") ;;
  --without-analyzer) checks=(--checks=-clang-analyzer-*) ;;
  *) echo "usage: scripts/check_tidy.sh BUILD_FOLDER [--without-analyzer]" >&2; exit 2 ;;
esac

# The compilation database is clang's, which has no CUDA: where there is a toolkit, its headers are named here, and where
# there is none, what needs them is left out.
cuda=()
# The CPU's update is looked at once, and not again for each of its instruction sets.
without=(-e simd_generic.cpp -e no_bench.cpp -e cpu_update_avx)
if nvcc=$(command -v "${CUDACXX:-nvcc}"); then
  cuda=(--extra-arg=-isystem"$(dirname "$(dirname "$(realpath "$nvcc")")")/include")
else
  without+=(-e kernels/cuda_)
fi
git ls-files 'host/*.cpp' 'kernels/*.cpp' 'tools/*.cpp' 'bench/*.cpp' 'examples/*.cpp' \
  | grep -v "${without[@]}" | xargs ls -S \
  | xargs -P "$(nproc)" -n 1 clang-tidy -p "$folder" --quiet "${checks[@]}" "${cuda[@]}" --warnings-as-errors='*' 2> /dev/null
echo "clang-tidy: nothing found"
