#!/usr/bin/env bash
# Every C, C++ and CUDA file is as clang-format would have it.   usage: scripts/check_format.sh [--fix]
set -euo pipefail
cd "$(dirname "$0")/.."

files=('*.c' '*.h' '*.cpp' '*.hpp' '*.inl' '*.cu' '*.cuh')
mode=(--dry-run --Werror)
[ "${1:-}" != --fix ] || mode=(-i)
git ls-files -co --exclude-standard "${files[@]}" | xargs clang-format "${mode[@]}"
echo "clang-format: $(git ls-files -co --exclude-standard "${files[@]}" | wc -l) files"
