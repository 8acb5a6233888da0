# shellcheck shell=bash
# For build.sh and base.sh to source: choose a builder that works here, and build with it.

fail() {
    echo "${0##*/}: $1" >&2
    exit 2
}

# A client without its daemon, or docker without buildx, is no builder.
works() {
    case $1 in
        docker) docker buildx version && docker version ;;
        podman) podman info ;;
        buildah) buildah info ;;
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

# build ARGUMENT...: the same as "BUILDER build ARGUMENT...", with every time in the image at 0. A
# builder's cache compares contents, not times: any other time would be the one of whoever built a
# layer first. And a layer whose contents did not change is not pulled again.
build() {
    local options
    case $builder in
        docker)
            SOURCE_DATE_EPOCH=0 docker buildx build --provenance=false \
                --output type=docker,rewrite-timestamp=true "$@"
            ;;
        *)
            options=(--layers --timestamp 0 --identity-label=false)
            # The history and the base.* annotations name the images between the steps, and these
            # carry the labels of whoever built them first. But the cache passes over images without
            # a history, so a stage that is built for it keeps its own.
            [[ " $* " == *" --target "* ]] || options+=(--omit-history
                --annotation org.opencontainers.image.base.name
                --annotation org.opencontainers.image.base.digest)
            # Isolation by chroot needs no container runtime, so it works inside a container too.
            # Newer builders refuse --timestamp beside SOURCE_DATE_EPOCH.
            BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot} env -u SOURCE_DATE_EPOCH \
                "$builder" build "${options[@]}" "$@"
            ;;
    esac
}

# save NAME FILE: the image as an OCI archive.
save() {
    rm -f "$2"
    case $builder in
        docker) docker save --output "$2" "$1" ;;
        *) "$builder" push --quiet "$1" "oci-archive:$2:$1" ;;
    esac
}
