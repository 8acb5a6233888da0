#!/usr/bin/env bash
# Install in $1 what a volume oss://... takes: oss2 and its dependencies, as oss2.lock.txt has them.
# Runs as root in a stage of Dockerfile.shared, where pip and a C compiler are installed.
set -euo pipefail

folder=${1:?the folder to fill}
cd "$(dirname "$0")"

# build.sh hands these on where they are set.
if [[ -s /run/secrets/pip-cert ]]; then
    export PIP_CERT=/run/secrets/pip-cert
fi
if [[ -s /run/secrets/pip-index-url ]]; then
    PIP_INDEX_URL=$(</run/secrets/pip-index-url)
    export PIP_INDEX_URL
fi

# Without debug information, which names pip's temporary folders, a build of crcmod is like the next.
CFLAGS=-g0 LDFLAGS=-s python3 -m pip --disable-pip-version-check --no-cache-dir install \
    --require-hashes --no-deps --no-build-isolation --use-pep517 --no-compile \
    --root-user-action ignore --progress-bar off --target "$folder" --requirement oss2.lock.txt

# What no import of oss2 reaches, and what only pip reads.
cd "$folder"
rm -r bin Crypto/SelfTest certifi/tests
find . -name '*.pyi' -delete
rm ./*.dist-info/{INSTALLER,RECORD,REQUESTED}
# Of cffi, cryptography takes the extension alone. pycryptodome would load the rest, with pycparser,
# and does as well with ctypes.
rm -r cffi pycparser*
# One set of CA certificates, the image's, also for requests.
find . -name cacert.pem -exec ln -sf /etc/ssl/certs/ca-certificates.crt {} \;
