#!/usr/bin/env bash
# Prints what the presets are told where there is a GPU: to compile for it. Without one they have an architecture whose
# code runs on every GPU (CMakePresets.json).
set -euo pipefail

if command -v nvidia-smi > /dev/null && nvidia-smi -L 2> /dev/null | grep -q GPU; then
  echo "-DADAMANT_CUDA_ARCHITECTURES=native"
fi
