#!/usr/bin/env bash
# Build the images with docker, podman or buildah, whichever works here.
set -euo pipefail

usage() {
    cat <<'END'
usage: images/build.sh [--builder NAME] [--archive DIR] [--sbom DIR] [--no-cache] [split|map|reduce ...]

  --builder NAME  docker, podman or buildah (default: the first of these that works)
  --archive DIR   write DIR/split.tar, map.tar and reduce.tar too, as OCI archives
  --sbom DIR      write DIR/split.spdx.json and so on: the packages in each image, as SPDX
  --no-cache      build every layer anew

Environment:
  PUSH               push the images to PUSH/fanfold-split:TAG and so on, as registry.example.com/team,
                     and print the lines for an overlay, with digests
  BASE               image of the build stage (default: debian:trixie-slim; see base.sh). A tag is
                     looked up once, and all is built from the digest that the first line prints
  IMAGE_PREFIX, TAG  names of the images (default: localhost/fanfold-, dev)
  VERSION, REVISION  labels (default: TAG, the commit)
  SOURCE_DATE_EPOCH  label, the time of creation (default: the commit's)
  STORAGE            folder of images and layers, for podman and buildah (default: theirs)
  SYFT               program that lists the packages (default: .venv/bin/syft, which make images installs)
  PIP_CERT           file of the CA certificates that pip trusts in the build (default: Debian's)
  PIP_INDEX_URL      where pip finds packages (default: pip's own)
END
}

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/builder.sh"

wanted='' archive='' sbom='' no_cache='' images=()
while (($#)); do
    case $1 in
        --builder | --archive | --sbom)
            [[ -n ${2:-} ]] || fail "$1 has no value: see images/build.sh --help"
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
        *) fail "'$1' is no option and no image: see images/build.sh --help" ;;
    esac
    shift
done
((${#images[@]})) || images=(split map reduce)
# A registry, and where in it: what a name of an image begins with.
word='[a-z0-9]+([._-]+[a-z0-9]+)*'
[[ -z ${PUSH:-} || ($PUSH =~ ^$word(:[0-9]{1,5})?(/$word)*$ && ${PUSH%%/*} =~ [.:]|^localhost$) ]] ||
    fail "PUSH must be REGISTRY/FOLDER, got '$PUSH': give it without https:// and a / at its end, in lower case"

# As secrets: no layer and no history has them. Older buildah gives an empty one where an environment
# variable has the same name as the id.
secrets=()
if [[ -n ${PIP_CERT:-} ]]; then
    [[ -f $PIP_CERT ]] || fail "PIP_CERT is '$PIP_CERT', which is no file: name one, or unset it"
    secrets+=(--secret "id=pip-cert,src=$(realpath "$PIP_CERT")")
fi
[[ -z ${PIP_INDEX_URL:-} ]] || secrets+=(--secret "id=pip-index-url,env=PIP_INDEX_URL")

if [[ -n $sbom ]]; then
    program=${SYFT:-$(dirname "$0")/../.venv/bin/syft}
    syft=$(type -P "$program") ||
        fail "SYFT must be a program, got '$program': run make images, which installs syft, or set SYFT to its path"
    syft=$(realpath --no-symlinks "$syft")
fi

cd "$(dirname "$0")/.."
choose_builder "$wanted"

tag=${TAG:-dev}
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] ||
    fail "TAG must be at most 128 letters, digits, '_', '.' and '-', got '$tag': give it as in 1.0.0"
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || true)}
[[ -n $epoch ]] || fail "there is no commit to take the time of creation from: set SOURCE_DATE_EPOCH"
created=$(TZ=UTC printf '%(%Y-%m-%dT%H:%M:%SZ)T' "$epoch")
revision=${REVISION:-$(git describe --always --abbrev=40 --dirty --exclude='*' 2>/dev/null || echo unknown)}
base=$(pin "${BASE:-debian:trixie-slim}")
echo "base: $base"

labels=()
for label in created="$created" version="${VERSION:-$tag}" revision="$revision" base.name="$base"; do
    labels+=("org.opencontainers.image.$label")
done

# describe NAME ARCHIVE FILE: write what is in the image, as SPDX. Syft asks nobody for newer versions.
describe() {
    local format=oci-archive
    [[ $builder != docker ]] || format=docker-archive
    SYFT_CHECK_FOR_APP_UPDATE=false "$syft" scan --quiet "$format:$2" \
        --source-name "$1" --source-version "$tag" --output "spdx-json=$3"
}

archives=$archive # of the images, to keep or for syft alone
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
