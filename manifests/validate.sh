#!/usr/bin/env bash
# Validate an overlay of your own: manifests/validate.sh OVERLAY
# It is built with kustomize, linted by argo and shown to the API server where these can be had, which
# changes nothing there, and checked as the tests of the bundle check its overlays. Exit code 2 and a
# line for each problem if there is any; a line of counts in any case.
set -euo pipefail

root=$(realpath "$(dirname "$0")/..")
make --silent --no-print-directory -C "$root" .venv/test >&2
exec "$root/.venv/bin/python" -B "$root/tests/manifests/validate.py" "$@"
