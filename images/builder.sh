# shellcheck shell=bash
# For build.sh and base.sh to source: choose a builder that works here, and build with it.
# STORAGE, where it is set, is the folder in which podman and buildah keep images and layers, in place
# of the machine's own. docker has one storage, whose cache goes by contents.

STORAGE=${STORAGE:+$(realpath -m "$STORAGE")}

fail() {
    echo "${0##*/}: $1" >&2
    exit 2
}

run_builder() {
    local storage=()
    if [[ -n ${STORAGE:-} && $builder != docker ]]; then
        storage=(--root "$STORAGE/root" --runroot "$STORAGE/run")
    fi
    "$builder" ${storage[@]+"${storage[@]}"} "$@"
}

# A client without its daemon, or docker without buildx, is no builder.
works() {
    case $1 in
        docker) docker buildx version && docker version ;;
        podman | buildah) builder=$1 run_builder info ;;
    esac >/dev/null 2>&1
}

# choose_builder [NAME]: set `builder`.
choose_builder() {
    case ${1:-} in
        '') for builder in docker podman buildah; do works "$builder" && return; done ;;
        docker | podman | buildah) works "$1" && builder=$1 && return ;;
        *) fail "the builder is '$1': give docker, podman or buildah" ;;
    esac
    fail "no builder works here (tried: ${1:-docker, podman, buildah}): start or install one"
}

# digest_of NAME: print the digest by which a registry knows an image of this machine; nothing if none
# does. An error if the machine has no such image.
digest_of() {
    if [[ $builder == docker ]]; then
        docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" | sed -n '1s/.*@//p'
    else
        run_builder images --format '{{.Digest}}' "$1" | sed -n 1p
    fi 2>/dev/null
}

# pin NAME: print the name of an image with its digest, so that all that is built on it is built on the
# same. It is pulled if the machine has none of that name. One of this machine alone stays as it is.
pin() {
    local digest=''
    if [[ $1 != *@* && $1 != localhost/* ]]; then
        digest=$(digest_of "$1") || { run_builder pull --quiet "$1" >&2 && digest=$(digest_of "$1"); } ||
            fail "BASE is '$1', which cannot be pulled: name one that can, or make one with images/base.sh"
    fi
    echo "$1${digest:+@$digest}"
}

# build ARGUMENT...: the same as "BUILDER build ARGUMENT...", with every time in the image at 0. A
# builder's cache compares contents, not times: any other time would be the one of whoever built a
# layer first. And a layer whose contents did not change is not pulled again.
build() {
    if [[ $builder == docker ]]; then
        SOURCE_DATE_EPOCH=0 docker buildx build --provenance=false \
            --output type=docker,rewrite-timestamp=true "$@"
        return
    fi
    # Isolation by chroot needs no container runtime, so it works inside a container too.
    # Newer builders refuse --timestamp beside SOURCE_DATE_EPOCH.
    (
        unset SOURCE_DATE_EPOCH
        export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
        run_builder build --layers --timestamp 0 --identity-label=false \
            --annotation org.opencontainers.image.base.name \
            --annotation org.opencontainers.image.base.digest "$@"
    )
}

# build_labelled NAME LABEL... -- ARGUMENT...: the same under a name and with labels. buildah gives the
# labels to every step, whose history names the step before: whoever labels an image while building
# it gets the history of whoever built its layers first. So the labels are a step of their own.
build_labelled() {
    local name=$1 labels=()
    while shift && [[ $1 != -- ]]; do labels+=(--label "$1"); done
    shift
    if [[ $builder == docker ]]; then
        build --tag "$name" "${labels[@]}" "$@"
        return
    fi
    (
        folder=$(mktemp -d)
        trap 'rm -r "$folder"' EXIT
        build --iidfile "$folder/id" "$@"
        echo "FROM $(cut -d: -f2 "$folder/id")" >"$folder/Dockerfile"
        build --tag "$name" "${labels[@]}" "$folder"
    )
}

# empty_storage: remove STORAGE. buildah leaves the container of a step that failed mounted.
empty_storage() {
    local target
    findmnt --raw --noheadings --output TARGET | tac | while read -r target; do
        target=$(printf '%b' "$target")
        [[ $target != "$STORAGE"/* ]] || umount "$target"
    done
    rm -rf "$STORAGE"
}

# save NAME FILE: the image as an OCI archive.
save() {
    rm -f "$2"
    case $builder in
        docker) docker save --output "$2" "$1" ;;
        *) run_builder push --quiet "$1" "oci-archive:$2:$1" ;;
    esac
}

# push NAME TARGET: push the image to a registry under another name. Set `digest`, by which the
# registry then knows it.
push() {
    local said
    digest=''
    if [[ $builder == docker ]]; then
        docker tag "$1" "$2"
        if said=$(docker push "$2"); then
            digest=$(sed -n 's/^.* digest: \(sha256:[0-9a-f]*\) .*$/\1/p' <<<"$said")
        fi
    else
        said=$(mktemp)
        if run_builder push --quiet --digestfile "$said" "$1" "docker://$2"; then digest=$(<"$said"); fi
        rm "$said"
    fi
    [[ -n $digest ]] ||
        fail "$2 was not pushed: see above, log in with '$builder login ${2%%/*}', or set PUSH to where you may write"
}
