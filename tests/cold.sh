#!/usr/bin/env bash
# `make test COLD=1`: test the committed files in a fresh clone with empty caches (programs, modules,
# Python packages, base image, layers). If a test fails, the folder stays.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! git rev-parse --verify --quiet HEAD >/dev/null; then
    echo "cold.sh: this folder must be a git clone: clone the repository and run the tests there" >&2
    exit 2
fi
[[ -z $(git status --porcelain) ]] || echo "cold.sh: uncommitted changes are not tested" >&2
# Outside this folder: a socket's path may have at most 108 bytes.
cold=$(mktemp -d "${TMPDIR:-/var/tmp}/fanfold.XXXXXX")
git clone --quiet . "$cold/clone"
# Set each cache: settings files of go and pip may name other folders.
export FANFOLD_CACHE=$cold/cache/fanfold PIP_CACHE_DIR=$cold/cache/pip XDG_CACHE_HOME=$cold/cache
export GOPATH=$cold/go GOCACHE=$cold/cache/go GOMODCACHE=$cold/go/mod
unset FANFOLD_BIN E2E_KUBECONFIG STORAGE COLD
echo "cold.sh: testing in $cold" >&2
make --no-print-directory -C "$cold/clone" test
STORAGE=$cold/clone/build/storage
# shellcheck source-path=SCRIPTDIR/..
source images/builder.sh
empty_storage
chmod -R u+w "$cold" # Go makes its modules read-only
rm -r "$cold"
