#!/bin/sh
# Builds the Dockerfile on the stand-in bases, with random weights unless WEIGHTS says otherwise.
#   tests/image/build.sh [TAG [OPTION OF BUILDAH...]]
# Uses what pip uses on this machine: SSL_CERT_FILE as the certificates, PIP_FIND_LINKS as a folder of wheels.
set -eu
cd "$(dirname "$0")/../.."
tag=${1:-localhost/orthanc-chest-xray}
[ $# -eq 0 ] || shift
sh tests/image/bases.sh

settings=$(mktemp)
trap 'rm "$settings"' EXIT
echo '[global]' > "$settings"
if [ -d "${PIP_FIND_LINKS:-}" ]; then
    echo 'find-links = /wheels' >> "$settings"
    set -- --volume "$PIP_FIND_LINKS:/wheels:ro" "$@"
fi
certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

# Docker's format, since OCI's has no health check.
buildah bud --layers --format docker --pull-never --isolation chroot --network host \
    --volume "$settings:/etc/pip.conf:ro" --volume "$certificates:/etc/ssl/certs/ca-certificates.crt:ro" \
    --build-arg BASE=localhost/orthanc-stand-in \
    --build-arg PREPARE_BASE=localhost/python-stand-in \
    --build-arg TORCH_INDEX="${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" \
    --build-arg WEIGHTS="${WEIGHTS:-stand-in}" \
    --build-arg WEIGHTS_SHA256="${WEIGHTS_SHA256:-}" \
    "$@" --tag "$tag" .
