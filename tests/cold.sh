#!/usr/bin/env bash
# `make test COLD=1`: the tests of what is committed, in a fresh clone and with empty caches: programs,
# modules, packages of Python, base image, layers. The folder stays where a test fails.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! git rev-parse --verify --quiet HEAD >/dev/null; then
    echo "cold.sh: this folder is no git clone: make one and run the tests there" >&2
    exit 2
fi
[[ -z $(git status --porcelain) ]] || echo "cold.sh: what is not committed is not tested" >&2
# Not below this folder: a socket's path may have 108 bytes.
cold=$(mktemp -d "${TMPDIR:-/var/tmp}/fanfold.XXXXXX")
git clone --quiet . "$cold/clone"
# Each one by name: settings files of go and pip may name other folders.
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
