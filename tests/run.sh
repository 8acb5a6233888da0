#!/usr/bin/env bash
# What `make test` runs, the cheapest first:
#   tests/run.sh                  everything
#   tests/run.sh tests/e2e -k X   pytest with these arguments, on the cluster
# Where a cluster can be had (root, Debian, Go) this installs what it takes, builds it once, and
# stops it in the end; with E2E_KUBECONFIG that cluster is used instead. With neither, the tests
# that need one are skipped, or fail where CI=true.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

cluster() { python3 tests/cluster/cluster.py "$@"; }

# What the Debian packages named beside the tests lack here.
install_packages() {
    local name missing=()
    while read -r name; do
        [[ $(dpkg-query -W -f '${Status}' "$name" 2>/dev/null) == *' installed' ]] || missing+=("$name")
    done < <(sort -u tests/*/packages.txt)
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null
}

build_programs() {
    local output
    say "building ${*:-all programs of the cluster}"
    output=$(cluster build "$@")
    export FANFOLD_BIN=${output##*BIN=}
    mkdir -p .venv/local/bin && ln -sf "$FANFOLD_BIN/kustomize" .venv/local/bin/
}

build_images() {
    say "building the images"
    BASE=${BASE:-$(images/base.sh)} images/build.sh --archive build/images >build/images.log 2>&1 ||
        { tail -30 build/images.log >&2 && return 1; }
}

start_cluster() {
    local output
    say "starting the cluster"
    trap 'cluster down' EXIT
    output=$(cluster up)
    export E2E_KUBECONFIG=${output##*KUBECONFIG=}
    E2E_VOLUME=$(dirname "$E2E_KUBECONFIG")/volume
    export E2E_VOLUME
    install -d -o 65532 -g 65532 "$E2E_VOLUME"
    cluster load build/images/*.tar
}

mkdir -p build
if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
    install_packages
fi
all=$((!$#))
if ((all)); then
    say "tests without a cluster"
    .venv/bin/pytest --numprocesses 2 --dist loadfile --ignore tests/cluster \
        --ignore tests/manifests --ignore tests/e2e --ignore tests/gitops \
        --ignore-glob 'tests/*/test_workflows.py'
fi
if [[ -z ${E2E_KUBECONFIG:-} ]] && cluster check; then
    build_programs
    if ((all)); then
        say "tests of the cluster itself"
        cluster down # one that somebody left up would be in the way
        .venv/bin/pytest tests/cluster
    fi
    build_images
    start_cluster
elif [[ -z ${FANFOLD_BIN:-} ]] && command -v go >/dev/null; then
    build_programs kustomize argo-workflows # the bundle's tests use them without a cluster, too
fi
if ((all)); then
    say "tests of the bundle"
    .venv/bin/pytest tests/manifests --numprocesses 4
    set -- tests/e2e tests/*/test_workflows.py
fi
say "tests on the cluster"
# One test after the other to whoever is free: tests/e2e says in which order.
.venv/bin/pytest "$@" --numprocesses 4 --dist load --maxschedchunk 1
if ((all)); then
    say "tests of GitOps"
    .venv/bin/pytest tests/gitops --exitfirst # one story in order
fi
