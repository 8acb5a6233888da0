# shellcheck shell=bash
# build.sh and base.sh source this: choose a builder that works, and build with it.
# STORAGE is the folder of images and layers for podman and buildah, instead of the machine's folder.
# docker has one storage; its cache compares contents.

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

# A client without its daemon does not work, nor does docker without buildx.
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
        *) fail "the builder must be docker, podman or buildah, got '$1': pass one of them" ;;
    esac
    fail "a builder must work (tried: ${1:-docker, podman, buildah}): start or install one"
}

# digest_of NAME: print the registry's digest of an image on this machine, or nothing if no registry
# has the image. An error if the machine does not have the image.
digest_of() {
    if [[ $builder == docker ]]; then
        docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" | sed -n '1s/.*@//p'
    else
        run_builder images --format '{{.Digest}}' "$1" | sed -n 1p
    fi 2>/dev/null
}

# pin NAME: print the name of an image with its digest, so that all images have the same base. Pull the
# image if the machine does not have it. A name without a registry's digest stays as it is.
pin() {
    local digest=''
    if [[ $1 != *@* && $1 != localhost/* ]]; then
        digest=$(digest_of "$1") || { run_builder pull --quiet "$1" >&2 && digest=$(digest_of "$1"); } ||
            fail "BASE must be an image that can be pulled, got '$1': set another, or build one with images/base.sh"
    fi
    echo "$1${digest:+@$digest}"
}

# build ARGUMENT...: as "BUILDER build ARGUMENT...", with all times in the image set to 0. A builder's
# cache compares contents, not times: any other time would depend on the first build of a layer. And a
# node does not pull a layer with the same contents again.
build() {
    if [[ $builder == docker ]]; then
        SOURCE_DATE_EPOCH=0 docker buildx build --provenance=false \
            --output type=docker,rewrite-timestamp=true "$@"
        return
    fi
    # Isolation by chroot needs no container runtime, so it also works inside a container.
    # Newer builders refuse --timestamp together with SOURCE_DATE_EPOCH.
    (
        unset SOURCE_DATE_EPOCH
        export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
        run_builder build --layers --timestamp 0 --identity-label=false \
            --annotation org.opencontainers.image.base.name \
            --annotation org.opencontainers.image.base.digest "$@"
    )
}

# build_labelled NAME LABEL... -- ARGUMENT...: build, with a name and labels. The labels are a separate
# step: buildah would add them to the history of every step, and the cache would return the history of
# an earlier build.
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

# empty_storage: remove STORAGE. buildah leaves the container of a failed step mounted.
empty_storage() {
    local target
    findmnt --raw --noheadings --output TARGET | tac | while read -r target; do
        target=$(printf '%b' "$target")
        [[ $target != "$STORAGE"/* ]] || umount "$target"
    done
    rm -rf "$STORAGE"
}

# save NAME FILE: write the image as an OCI archive.
save() {
    rm -f "$2"
    case $builder in
        docker) docker save --output "$2" "$1" ;;
        *) run_builder push --quiet "$1" "oci-archive:$2:$1" ;;
    esac
}

# push NAME TARGET: push the image to a registry under another name. Set `digest` to the registry's
# digest.
push() {
    local output
    digest=''
    if [[ $builder == docker ]]; then
        docker tag "$1" "$2"
        if output=$(docker push "$2"); then
            digest=$(sed -n 's/^.* digest: \(sha256:[0-9a-f]*\) .*$/\1/p' <<<"$output")
        fi
    else
        output=$(mktemp)
        if run_builder push --quiet --digestfile "$output" "$1" "docker://$2"; then digest=$(<"$output"); fi
        rm "$output"
    fi
    [[ -n $digest ]] ||
        fail "PUSH must be a registry that accepts $2, got the error above: log in with '$builder login ${2%%/*}', or set another PUSH"
}
