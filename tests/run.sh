#!/usr/bin/env bash
# The tests of `make test`, the cheapest first:
#   tests/run.sh                  everything
#   tests/run.sh tests/e2e -k X   pytest with these arguments, on the cluster
# If a cluster is possible (root, Debian, Go), this script installs its packages, builds it once, and
# stops it in the end. With E2E_KUBECONFIG it uses that cluster instead. Without a cluster, tests that
# need one are skipped, or fail if CI=true.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

cluster() { python3 tests/cluster/cluster.py "$@"; }

# Install the missing packages of tests/*/packages.txt.
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
    local base
    say "building the images"
    if ! { base=${BASE:-$(images/base.sh)} && BASE=$base images/build.sh --archive build/images &&
        BASE=$base tests/e2e/examples.sh; } >build/images.log 2>&1; then
        tail -30 build/images.log >&2
        return 1
    fi
}

# start_cluster [--argo VERSION]
start_cluster() {
    local output
    say "starting the cluster ${*:-with the newest Argo}"
    trap 'cluster down' EXIT
    output=$(cluster up "$@")
    E2E_KUBECONFIG=${output##*KUBECONFIG=}
    output=${output%$'\n'*}
    FANFOLD_BIN=${output##*BIN=}
    E2E_VOLUME=$(dirname "$E2E_KUBECONFIG")/volume
    export E2E_KUBECONFIG FANFOLD_BIN E2E_VOLUME
    install -d -o 65532 -g 65532 "$E2E_VOLUME"
    cluster load build/images/*.tar
}

# Each free process takes the next test, in the order of tests/e2e.
test_on_cluster() { .venv/bin/pytest "$@" --numprocesses 4 --dist load --maxschedchunk 1; }

# Tests that change the controller or the network: no other test may run at the same time.
ALONE=(tests/e2e/test_controller.py tests/e2e/test_strict.py tests/e2e/test_network.py)

mkdir -p build
ours='' # whether this script starts the cluster
if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
    install_packages
fi
all=$((!$#))
# Images and layers of this run only: the machine's images have no effect.
export STORAGE=$PWD/build/storage
# shellcheck source-path=SCRIPTDIR/..
source images/builder.sh
empty_storage
has_cluster='' # whether a cluster is possible
[[ -n ${E2E_KUBECONFIG:-} ]] || ! cluster check || has_cluster=1
building=''
if ((all)) && [[ -n $has_cluster ]]; then
    # Half an hour on a new machine, and these tests use only half of the cores' time. The lowest
    # priority: the tests do not wait for the build.
    say "building all programs of the cluster, during the tests"
    nice -n 19 python3 tests/cluster/cluster.py build >build/programs.log 2>&1 &
    building=$!
    trap 'kill "$building" 2>/dev/null' EXIT
fi
if ((all)); then
    say "tests without a cluster"
    .venv/bin/pytest --numprocesses 3 --dist loadgroup --ignore tests/cluster \
        --ignore tests/manifests --ignore tests/e2e --ignore tests/gitops \
        --ignore-glob 'tests/*/test_workflows.py'
fi
if [[ -n $has_cluster ]]; then
    if [[ -n $building ]]; then
        wait "$building" || tail -30 build/programs.log >&2
        trap - EXIT
    fi
    build_programs
    if ((all)); then
        say "tests of the cluster itself"
        cluster down # a cluster that is still up would disturb these tests
        .venv/bin/pytest tests/cluster
    fi
    build_images
    start_cluster
    ours=1
elif [[ -z ${FANFOLD_BIN:-} ]] && cluster check --go; then
    # The tests of the bundle use these programs without a cluster too.
    build_programs kustomize kustomize-oldest argo-workflows-4.0
fi
if ((all)); then
    say "tests of the bundle"
    .venv/bin/pytest tests/manifests --numprocesses 4
    say "tests on the cluster"
    test_on_cluster tests/e2e tests/*/test_workflows.py "${ALONE[@]/#/--ignore=}"
    .venv/bin/pytest "${ALONE[@]}"
    say "tests of GitOps"
    .venv/bin/pytest tests/gitops --exitfirst # one story in order
    if [[ -n $ours ]]; then
        cluster down
        start_cluster --argo 3.7
        say "tests on Argo 3.7"
        test_on_cluster tests/e2e -m each_argo "${ALONE[@]/#/--ignore=}"
        .venv/bin/pytest "${ALONE[@]}"
    fi
else
    say "tests on the cluster"
    test_on_cluster "$@"
fi
say "all passed"
