#!/usr/bin/env bash
# Compiles the library for arm64 and has QEMU run tests that say whether it gets the same bits there. On Debian on x86-64;
# on arm64 itself ./test.sh is the check.
#   scripts/check_arm64.sh        the committed digests, the floating-point environment, threads, the C interface
#   scripts/check_arm64.sh --all  those, and all other tests that need neither a device nor a program of ours: half an hour
set -euo pipefail
cd "$(dirname "$0")/.."

programs=(adamant_digest_test adamant_isolation_tests adamant_threads_test adamant_c_interface_test)
case "${1:-}" in
  "") ;;
  --all)
    programs+=(adamant_tests adamant_storage_test adamant_safetensors_test adamant_allocation_test adamant_replacement_test
      adamant_no_device_test adamant_fuzz_safetensors_test adamant_fuzz_optimizer_test)
    ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

if [ "$(uname -m)" = aarch64 ]; then echo "This machine is arm64: ./test.sh is the check."; exit; fi
if ! grep -qs '^ID=debian' /etc/os-release; then
  # Ubuntu keeps packages of other architectures where its apt does not look.
  echo "skipped: the arm64 check needs Debian's cross compiler and packages"
  exit
fi
# Threads that wait in a loop take a long time under QEMU.
export OMP_WAIT_POLICY=passive
scripts/setup.sh g++-aarch64-linux-gnu qemu-user lib{gtest-dev,rapidcheck-dev,fmt-dev,gomp1}:arm64
cmake --preset arm64 > /dev/null
cmake --build --preset arm64 --target "${programs[@]}" > build/build-arm64.log 2>&1 || { tail -n 80 build/build-arm64.log; exit 1; }

run() {  # PROGRAM: what it says comes when it has ended, because several run beside each other
  local log=build/arm64/$1.log status=0 passed
  qemu-aarch64 "build/arm64/tests/$1" --gtest_brief=1 --gtest_filter='-*Full_*:*Full.*' > "$log" 2>&1 || status=$?
  if [ "$status" = 0 ] && passed=$(grep '  PASSED  . [1-9]' "$log"); then echo "$1: $passed"; else status=1; echo "$1:"; cat "$log"; fi
  return "$status"
}
export -f run
printf '%s\0' "${programs[@]}" | xargs -0 -P "$(nproc)" -I PROGRAM bash -c 'run PROGRAM'
