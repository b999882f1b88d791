#!/usr/bin/env bash
# Installs what building and testing needs, where it is missing: with apt on Debian and Ubuntu, as root or with sudo.
# Elsewhere it names what is missing and stops.   usage: scripts/setup.sh [PACKAGE...]   (more packages than the usual)
set -euo pipefail

packages=(g++ cmake ninja-build make pkgconf libgtest-dev librapidcheck-dev libcli11-dev libfmt-dev nlohmann-json3-dev
  libxxhash-dev libbenchmark-dev gnuplot-nox python3 python3-numpy "$@")

if ! command -v dpkg-query > /dev/null; then
  missing=()
  for tool in g++ cmake ninja make pkg-config gnuplot; do command -v "$tool" > /dev/null || missing+=("$tool"); done
  if [ ${#missing[@]} -gt 0 ]; then
    echo "This is neither Debian nor Ubuntu: please install ${missing[*]}." >&2
    echo "In Debian's names, everything needed is: ${packages[*]}" >&2
    exit 1
  fi
  exit 0
fi

is_installed() {  # PACKAGE or PACKAGE:ARCHITECTURE: a package of this machine's may be there for another one too
  local architecture
  architecture=$(dpkg --print-architecture)
  [[ $1 != *:* ]] || architecture=${1#*:}
  dpkg-query -W -f='${Architecture} ${db:Status-Status}\n' "$1" 2> /dev/null | grep -xE "(all|$architecture) installed" > /dev/null
}
missing=()
for package in "${packages[@]}"; do is_installed "$package" || missing+=("$package"); done
if [ ${#missing[@]} -gt 0 ]; then
  echo "Installing ${missing[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo > /dev/null; then
      echo "Please install these as root: apt-get install ${missing[*]}" >&2
      [[ ${missing[*]} != *:* ]] || echo "those that end in :NAME after dpkg --add-architecture NAME and apt-get update" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  for package in "${missing[@]}"; do  # NAME:ARCHITECTURE is of another machine
    [[ $package != *:* ]] || "${as_root[@]}" dpkg --add-architecture "${package#*:}"
  done
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null
fi

# cmake --version prints "cmake version 3.25.1"
version=$(cmake --version | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
if [ "$(printf '%s\n3.25\n' "$version" | sort -V | head -n 1)" != 3.25 ]; then
  echo "CMake $version is too old, 3.25 is needed: 'pip install cmake' has a newer one." >&2
  exit 1
fi
