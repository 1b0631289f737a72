#!/bin/sh
# Makes the two images that the Dockerfile starts from, out of Debian's packages, where no registry can be reached:
# localhost/orthanc-stand-in for orthancteam/orthanc:26.8.1 and localhost/python-stand-in for python:3.11-slim-bookworm.
# Needs root, mmdebstrap, podman and buildah. What already exists is kept.
set -eu
cd "$(dirname "$0")"
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

debian() {  # NAME SUITE PACKAGES [OPTION...]: a minimal Debian as an image
    name=$1 suite=$2 packages=$3
    shift 3
    root=$(mktemp --suffix .tar)
    # A frozen mirror's index expires; it is still signed.
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
        --include="ca-certificates,$packages" "$@" "$suite" "$root" "$mirror"
    podman import --quiet "$root" "$name"
    rm "$root"
}

if ! podman image exists localhost/orthanc-stand-in; then
    # orthancteam/orthanc gives 999 to orthanc; here another package's account would take it first.
    debian localhost/debian-orthanc sid orthanc,orthanc-python,orthanc-gdcm,orthanc-dicomweb,python3-dev,python3-pip,tzdata \
        --essential-hook='echo orthanc:x:999: >> "$1/etc/group"' \
        --essential-hook='echo orthanc:x:999:999::/var/lib/orthanc:/bin/false >> "$1/etc/passwd"'
    buildah bud --quiet --format docker --pull-never --isolation chroot \
        --build-arg ROOT=localhost/debian-orthanc --tag localhost/orthanc-stand-in base
fi
if ! podman image exists localhost/python-stand-in; then
    debian localhost/python-stand-in bookworm python3-venv
fi
