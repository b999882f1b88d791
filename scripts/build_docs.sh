#!/usr/bin/env bash
# Builds the API reference with Doxygen and fails on any warning.   usage: scripts/build_docs.sh [FOLDER]   (build/docs)
# The reference is in FOLDER/html. Where there is no Doxygen it says so and succeeds.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

if ! command -v doxygen > /dev/null; then
  echo "skipped: doxygen is not installed"
  exit 0
fi
ADAMANT_DOCS=$(realpath -m "${1:-$root/build/docs}")
ADAMANT_VERSION=$(sed -n 's/^project(adamant VERSION \([0-9.]*\).*/\1/p' "$root/CMakeLists.txt")
export ADAMANT_DOCS ADAMANT_VERSION
rm -rf "$ADAMANT_DOCS/html"
mkdir -p "$ADAMANT_DOCS"
cd "$root"
status=0
doxygen docs/Doxyfile > "$ADAMANT_DOCS/log.txt" 2>&1 || status=$?
if [ "$status" != 0 ] || [ -s "$ADAMANT_DOCS/log.txt" ]; then
  cat "$ADAMANT_DOCS/log.txt" >&2
  exit 1
fi
if grep -o 'href="[^"]*\.md[^"]*"' "$ADAMANT_DOCS"/html/*.html >&2; then
  echo "these links lead to no page of the reference" >&2
  exit 1
fi
echo "$ADAMANT_DOCS/html/index.html: $(find "$ADAMANT_DOCS/html" -name '*.html' | wc -l) pages, no warning"
