#!/usr/bin/env bash
# Build a replacement for debian:trixie-slim from Debian's packages, for machines without a registry.
# Print its name, which contains the digest of this recipe:
#   base=$(images/base.sh) && BASE=$base images/build.sh
# The tar stays in FANFOLD_CACHE (default: ~/.cache/fanfold). Delete it to get newer packages.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/builder.sh"
choose_builder "${1:-}"

recipe=$({ cat "$0" && uname -m; } | sha256sum)
name=localhost/fanfold-base:trixie-${recipe:0:12}
cache=${FANFOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fanfold}/base
tar=trixie-${recipe:0:12}.tar
mkdir -p "$cache"
if [[ ! -e $cache/$tar ]]; then
    command -v mmdebstrap >/dev/null || fail "mmdebstrap must be installed: install it, or set BASE to an image"
    unfinished=$(mktemp "${cache%/base}/unfinished.XXXXXX")
    trap 'rm -f "$unfinished"' EXIT
    mmdebstrap --quiet --format=tar --variant=minbase trixie - >"$unfinished"
    mv "$unfinished" "$cache/$tar"
fi
build --file - --tag "$name" "$cache" >&2 <<END
FROM scratch
ADD $tar /
END
echo "$name"
