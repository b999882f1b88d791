#!/usr/bin/env bash
# Every C++ and CUDA file is as clang-format would have it.   usage: scripts/check_format.sh [--fix]
set -euo pipefail
cd "$(dirname "$0")/.."

mode=(--dry-run --Werror)
[ "${1:-}" != --fix ] || mode=(-i)
git ls-files -co --exclude-standard '*.cpp' '*.hpp' '*.inl' '*.cu' '*.cuh' | xargs clang-format "${mode[@]}"
echo "clang-format: $(git ls-files -co --exclude-standard '*.cpp' '*.hpp' '*.inl' '*.cu' '*.cuh' | wc -l) files"
