#!/usr/bin/env bash
# Install oss2 and its dependencies from oss2.lock.txt in $1, for volumes that are named oss://...
# Runs as root in a stage of Dockerfile.shared, where pip and a C compiler are installed.
set -euo pipefail

folder=${1:?the folder to fill}
cd "$(dirname "$0")"

# build.sh passes these if they are set.
if [[ -s /run/secrets/pip-cert ]]; then
    export PIP_CERT=/run/secrets/pip-cert
fi
if [[ -s /run/secrets/pip-index-url ]]; then
    PIP_INDEX_URL=$(</run/secrets/pip-index-url)
    export PIP_INDEX_URL
fi

# No debug information, which contains pip's temporary folders: all builds of crcmod are the same.
CFLAGS=-g0 LDFLAGS=-s python3 -m pip --disable-pip-version-check --no-cache-dir install \
    --require-hashes --no-deps --no-build-isolation --use-pep517 --no-compile \
    --root-user-action ignore --progress-bar off --target "$folder" --requirement oss2.lock.txt

# Files that no import of oss2 reads, and files for pip.
cd "$folder"
rm -r bin Crypto/SelfTest certifi/tests
find . -name '*.pyi' -delete
rm ./*.dist-info/{INSTALLER,RECORD,REQUESTED}
# cryptography needs only cffi's extension. pycryptodome would load the rest of cffi and pycparser, but
# works as well with ctypes.
rm -r cffi pycparser*
# requests uses the CA certificates of the image too.
find . -name cacert.pem -exec ln -sf /etc/ssl/certs/ca-certificates.crt {} \;
