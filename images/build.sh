#!/usr/bin/env bash
# Build the images with the first of docker, podman and buildah that works.
set -euo pipefail

usage() {
    cat <<'END'
usage: images/build.sh [--builder NAME] [--archive DIR] [--sbom DIR] [--no-cache] [split|map|reduce ...]

  --builder NAME  docker, podman or buildah (default: the first of these that works)
  --archive DIR   also write DIR/split.tar, map.tar and reduce.tar, as OCI archives
  --sbom DIR      also write DIR/split.spdx.json and so on: the packages in each image, as SPDX
  --no-cache      rebuild every layer

Environment:
  PUSH               registry and folder, such as registry.example.com/team: push the images to
                     PUSH/fanfold-split:TAG and so on, and print the lines for an overlay, with digests
  BASE               image of the build stage (default: debian:trixie-slim; see base.sh). A tag is
                     resolved once: all images are built from the digest in the first line of output
  IMAGE_PREFIX, TAG  names of the images (default: localhost/fanfold-, dev)
  VERSION, REVISION  labels (default: TAG and the commit)
  SOURCE_DATE_EPOCH  label: time of creation (default: time of the commit)
  STORAGE            folder of images and layers, for podman and buildah (default: the builder's)
  SYFT               program for --sbom (default: .venv/bin/syft, which make images installs)
  PIP_CERT           file of CA certificates for pip in the build (default: Debian's)
  PIP_INDEX_URL      package index for pip (default: pip's)
END
}

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/builder.sh"

wanted='' archive='' sbom='' no_cache='' images=()
while (($#)); do
    case $1 in
        --builder | --archive | --sbom)
            [[ -n ${2:-} ]] || fail "$1 must have a value: see images/build.sh --help"
            case $1 in
                --builder) wanted=$2 ;;
                --archive) archive=$(mkdir -p "$2" && cd "$2" && pwd) ;;
                --sbom) sbom=$(mkdir -p "$2" && cd "$2" && pwd) ;;
            esac
            shift
            ;;
        --no-cache) no_cache=--no-cache ;;
        split | map | reduce) images+=("$1") ;;
        -h | --help) usage && exit ;;
        *) fail "the arguments must be options or images, got '$1': see images/build.sh --help" ;;
    esac
    shift
done
((${#images[@]})) || images=(split map reduce)
# A registry and a folder in it: the beginning of an image's name.
word='[a-z0-9]+([._-]+[a-z0-9]+)*'
[[ -z ${PUSH:-} || ($PUSH =~ ^$word(:[0-9]{1,5})?(/$word)*$ && ${PUSH%%/*} =~ [.:]|^localhost$) ]] ||
    fail "PUSH must be REGISTRY/FOLDER, got '$PUSH': set it in lower case, without https:// and without a / at the end"

# As secrets, which no layer and no history contains. With older buildah a secret is empty if its id is
# also the name of an environment variable.
secrets=()
if [[ -n ${PIP_CERT:-} ]]; then
    [[ -f $PIP_CERT ]] || fail "PIP_CERT must be a file, got '$PIP_CERT': set it to a file, or unset it"
    secrets+=(--secret "id=pip-cert,src=$(realpath "$PIP_CERT")")
fi
[[ -z ${PIP_INDEX_URL:-} ]] || secrets+=(--secret "id=pip-index-url,env=PIP_INDEX_URL")

if [[ -n $sbom ]]; then
    program=${SYFT:-$(dirname "$0")/../.venv/bin/syft}
    syft=$(type -P "$program") ||
        fail "SYFT must be a program, got '$program': run make images, which installs syft, or set SYFT to a path"
    syft=$(realpath --no-symlinks "$syft")
fi

cd "$(dirname "$0")/.."
choose_builder "$wanted"

tag=${TAG:-dev}
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] ||
    fail "TAG must be at most 128 letters, digits, '_', '.' and '-', got '$tag': set it as in 1.0.0"
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || true)}
[[ -n $epoch ]] || fail "SOURCE_DATE_EPOCH must be set, because there is no commit: set it to the time of creation"
created=$(TZ=UTC printf '%(%Y-%m-%dT%H:%M:%SZ)T' "$epoch")
revision=${REVISION:-$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null || echo unknown)}
base=$(pin "${BASE:-debian:trixie-slim}")
echo "base: $base"

labels=()
for label in created="$created" version="${VERSION:-$tag}" revision="$revision" base.name="$base"; do
    labels+=("org.opencontainers.image.$label")
done

# describe NAME ARCHIVE FILE: write the packages in the image as SPDX. Syft looks for no newer version.
describe() {
    local format=oci-archive
    [[ $builder != docker ]] || format=docker-archive
    SYFT_CHECK_FOR_APP_UPDATE=false "$syft" scan --quiet "$format:$2" \
        --source-name "$1" --source-version "$tag" --output "spdx-json=$3"
}

archives=$archive # of the images, to keep or only for syft
if [[ -n $sbom && -z $archive ]]; then
    archives=$(mktemp -d)
    trap 'rm -r "$archives"' EXIT
fi
lines='' # for an overlay
for image in "${images[@]}"; do
    name=${IMAGE_PREFIX:-localhost/fanfold-}$image:$tag
    cat images/Dockerfile.shared "Dockerfile.$image" |
        build_labelled "$name" "${labels[@]}" -- --file - --build-arg BASE="$base" \
            ${secrets[@]+"${secrets[@]}"} ${no_cache:+"$no_cache"} .
    [[ -z $archives ]] || save "$name" "$archives/$image.tar"
    [[ -z $sbom ]] || describe "fanfold-$image" "$archives/$image.tar" "$sbom/$image.spdx.json"
    echo "built $name with $builder${archive:+, archived as $archive/$image.tar}${sbom:+, described in $sbom/$image.spdx.json}"
    if [[ -n ${PUSH:-} ]]; then
        push "$name" "$PUSH/fanfold-$image:$tag"
        lines+="- name: fanfold-$image"$'\n'"  newName: $PUSH/fanfold-$image"$'\n'
        lines+="  newTag: \"$tag\""$'\n'"  digest: $digest"$'\n'
        echo "pushed $PUSH/fanfold-$image:$tag"
    fi
done
[[ -z $lines ]] || printf '\n# For the kustomization.yaml of your overlay, in place of its images:\nimages:\n%s' "$lines"
