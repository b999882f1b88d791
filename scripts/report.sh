#!/usr/bin/env bash
# Gathers what run.sh left in a folder into one page, FOLDER/index.html, that needs no network and nothing beside it:
# every table as text, every picture within the page.   usage: scripts/report.sh FOLDER
set -euo pipefail
[ $# = 1 ] || { sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$1"

escaped() { sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' -e 's/"/\&quot;/g' "$@"; }

# A picture's elements have names, and gnuplot gives those of every picture the same: each gets the picture's before it.
picture() {  # NAME
  [ -s "$1.svg" ] || { echo "<p>There is no picture $1.svg: gnuplot was not found.</p>"; return; }
  echo "<figure>"
  sed -E -e "/<\?xml/d" -e "/<!DOCTYPE/d" -e "s/([ \t<]id[ ]*=[ ]*['\"])/\1$1-/g" -e "s/(href[ ]*=[ ]*['\"])#/\1#$1-/g" \
    -e "s/url\(#/url(#$1-/g" -e "s/(aria-labelledby[ ]*=[ ]*['\"])/\1$1-/g" "$1.svg"
  echo "</figure>"
}

# The pictures of a page that the program wrote, which take their colours from the text around them.
pictures_of() {  # NAME
  [ ! -s "$1.html" ] || sed -n '/<figure/,/<\/figure>/p' "$1.html"
}

section() {  # HEADING NAME [PICTURE]: nothing where there is no NAME.txt
  [ -s "$2.txt" ] || return 0
  echo "<section id=\"$2\"><h2>$1</h2>"
  [ -z "${3:-}" ] || picture "$3"
  pictures_of "$2"
  echo "<pre>$(escaped "$2.txt")</pre>"
  links "$2".{html,csv,json,safetensors}
  echo "</section>"
}

links() {  # FILE...: those that there are
  local file list=""
  for file in "$@"; do
    [ ! -s "$file" ] || list="$list <a href=\"$file\">$file</a>"
  done
  [ -z "$list" ] || echo "<p>Beside this page:$list</p>"
}

{
  cat << 'HTML'
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<title>adamant: report</title>
<style>
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1c1c1c; --faint: #f2f2f0; --edge: #d0d0cc; --link: #0b5394; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181a; --ink: #e4e4e0; --faint: #202326; --edge: #3a3e42; --link: #8ab8e8; }
}
body { background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 80rem;
  margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
pre { background: var(--faint); border: 1px solid var(--edge); border-radius: 6px; padding: 1rem; overflow-x: auto;
  font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
figure { margin: 0 0 1rem; padding: .5rem; background: #ffffff; border: 1px solid var(--edge); border-radius: 6px;
  overflow-x: auto; }
figure.bench { background: var(--ground); }
figure svg { display: block; margin: 0 auto; max-width: 100%; height: auto; }
a { color: var(--link); margin-left: .5em; }
</style>
</head>
<body>
<h1>adamant: report</h1>
HTML
  [ ! -s machine.txt ] || echo "<pre>$(escaped machine.txt)</pre>"
  section "This program and this machine" info
  section "Six ways down a valley" descend descend
  section "Throughput" bench
  section "The same bits on every device and instruction set, and each step against the textbook reference" compare
  section "A real trace, recorded with PyTorch, whose own float32 run is the yardstick" replay
  section "Training on 1,797 handwritten digits, on the CPU" digits digits
  links report.txt
  echo "</body>"
  echo "</html>"
} > index.html.tmp
mv index.html.tmp index.html
