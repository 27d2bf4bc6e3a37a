#!/usr/bin/env bash
# Runs each fuzz target of the packages for a time: scripts/fuzz.sh TIME PACKAGE…
set -euo pipefail
time=$1
shift

# When the time is up while a worker is busy, go test reports it as a failure
# (go.dev/issue/48591). A failure that was found names its input.
time_is_up() { grep -q 'context deadline exceeded' <<<"$1" && ! grep -q 'Failing input' <<<"$1"; }

go list "$@" | while read -r package; do
  go test -list '^Fuzz' "$package" | { grep '^Fuzz' || true; } | while read -r target; do
    echo "fuzz $package $target"
    out=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x "$package" 2>&1) ||
      time_is_up "$out" || { echo "$out"; exit 1; }
  done
done
