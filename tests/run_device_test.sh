#!/bin/sh
# Runs a test of device code, under the command that ADAMANT_EMULATOR names where a machine has no GPU.
# shellcheck disable=SC2086  # the variable may hold a command with arguments
exec ${ADAMANT_EMULATOR:-} "$@"
