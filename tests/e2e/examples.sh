#!/usr/bin/env bash
# Build the images of the examples in manifests/runs, from the images that images/build.sh has built,
# and write them to build/images. BASE and STORAGE are the settings of images/build.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

# shellcheck source-path=SCRIPTDIR/../..
source images/builder.sh
choose_builder ''
for file in manifests/runs/Dockerfile.*; do
    example=${file##*.}
    name=localhost/fanfold-$example:dev
    build --build-arg BASE="${BASE:-debian:trixie-slim}" --tag "$name" --file "$file" manifests/runs
    save "$name" "build/images/$example.tar"
done
