#!/usr/bin/env bash
# Validate your overlay: manifests/validate.sh OVERLAY
#
# Builds the overlay with kustomize, and checks the bundle's containers, retries, rights, deadlines,
# labels, claims and mount options, and that no example value is left. If these are available, argo
# lints the overlay, and the API server of your kubectl checks it in a dry run. Prints a line per
# problem and a line of counts. Exit code 2 if there is a problem. Installs its tools into .venv: this
# needs Python 3.11 or newer and a package index.
set -euo pipefail

case ${1-} in -h | --help)
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  exit
  ;;
esac
root=$(realpath "$(dirname "$0")/..")
make --silent --no-print-directory -C "$root" .venv/test >&2
exec "$root/.venv/bin/python" -B "$root/tests/manifests/validate.py" "$@"
