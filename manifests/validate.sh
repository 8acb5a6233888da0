#!/usr/bin/env bash
# Validate your overlay: manifests/validate.sh OVERLAY
# Builds the overlay with kustomize, lints it with argo and sends it to the API server as a dry run, if
# these are available, and runs the checks that the tests run on the bundle's overlays. Prints a line
# per problem and a line of counts. Exit code 2 if there is a problem.
set -euo pipefail

root=$(realpath "$(dirname "$0")/..")
make --silent --no-print-directory -C "$root" .venv/test >&2
exec "$root/.venv/bin/python" -B "$root/tests/manifests/validate.py" "$@"
