#!/usr/bin/env bash
# Make the image localhost/fanfold-base:trixie, a stand-in for debian:trixie-slim where no registry can
# be reached, from Debian's packages; then print its name:
#   BASE=$(images/base.sh) images/build.sh
# Its tar stays in FANFOLD_CACHE (default: ~/.cache/fanfold); delete that to get newer packages.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/builder.sh"
name=localhost/fanfold-base:trixie
choose_builder "${1:-}"

cache=${FANFOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fanfold}/base
mkdir -p "$cache"
if [[ ! -e $cache/trixie.tar ]]; then
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is not installed: install it, or set BASE to an image"
    unfinished=$(mktemp "${cache%/base}/unfinished.XXXXXX")
    trap 'rm -f "$unfinished"' EXIT
    mmdebstrap --quiet --format=tar --variant=minbase trixie - >"$unfinished"
    mv "$unfinished" "$cache/trixie.tar"
fi
build --file - --tag "$name" "$cache" >&2 <<'END'
FROM scratch
ADD trixie.tar /
END
echo "$name"
