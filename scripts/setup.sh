#!/usr/bin/env bash
# Sets up what the tests need beyond Go: Debian packages, installed when this
# runs as root on Debian, otherwise named. Under CI=true a missing tool is an
# error; elsewhere the tests that need it say so and are skipped.
set -euo pipefail

# program:package
needs=(gcc:gcc mbpoll:mbpoll python3:python3 qemu-arm:qemu-user zstd:zstd)

missing=()
for need in "${needs[@]}"; do
  command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  exit 0
fi
echo "missing for the tests: ${missing[*]}" >&2
echo "on Debian: sudo apt-get install ${missing[*]}" >&2
[ "${CI:-}" != true ]
