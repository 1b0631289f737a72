"""The Dockerfile, built with buildah on stand-ins for its base images, with stand-in weights.

    python -m tests.image.build [TAG]

The stand-ins are made of Debian's packages, since a container registry cannot be reached from everywhere; each is kept
until its recipe changes. The packages come from where pip finds them on this machine. Needs root.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from demo.serve import ROOT
from tests.image.podman import IMAGE, KEPT, STORAGE, exists, nothing_left, podman

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

# For orthancteam/orthanc: the same versions of Orthanc, its Python plugin and Python. That image gives 999 to orthanc;
# here, another package's account would take it first.
ORTHANC = (
    "sid",
    "--include=orthanc,orthanc-python,orthanc-gdcm,orthanc-dicomweb,orthanc-postgresql,python3-dev,python3-pip,"
    "python3-venv,tzdata",
    '--essential-hook=echo orthanc:x:999: >> "$1/etc/group"',
    '--essential-hook=echo orthanc:x:999:999::/var/lib/orthanc:/bin/false >> "$1/etc/passwd"',
)
# For python:3.11-slim-bookworm.
PYTHON = ("bookworm", "--include=python3-venv")


def debian(suite: str, *options: str) -> str:
    """The name of an image with a minimal Debian and some packages, made now if it is not there yet."""
    # A frozen mirror's index expires; it is still signed.
    always = (
        *("--variant=minbase", "--include=ca-certificates", "--dpkgopt=force-unsafe-io"),
        *('--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Retries "5"'),
    )
    name = f"localhost/debian-{suite}:{hashlib.sha256(repr((always, options)).encode()).hexdigest()[:12]}"
    if not exists(name):
        with tempfile.TemporaryDirectory(dir=KEPT) as work:
            root = Path(work, "root.tar")
            subprocess.run(["mmdebstrap", "--quiet", *always, *options, suite, root, MIRROR], check=True)
            podman("import", "--quiet", str(root), name)
    return name


def buildah(*arguments: str) -> None:
    """`buildah build`, in Docker's format, since OCI's has no health check."""
    always = ("--layers", "--format", "docker", "--pull-never", "--isolation", "chroot", "--network", "host")
    subprocess.run(["buildah", *STORAGE, "bud", "--quiet", *always, *arguments], cwd=ROOT, check=True)


def pip_settings() -> dict[str, list[str]]:
    """Where pip on this machine looks for packages."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    pairs = (re.fullmatch(r"[^=]+?\.([a-z-]+)=(.+)", line) for line in lines)
    found = {pair[1]: ast.literal_eval(pair[2]).split() for pair in pairs if pair}
    return {key: found[key] for key in ("index-url", "extra-index-url", "find-links", "trusted-host") if key in found}


def mounts(settings: dict[str, list[str]]) -> Iterator[Path]:
    """The folders of this machine that pip's settings name; an index has its files beside it."""
    for value in (value for values in settings.values() for value in values):
        if value.startswith("file:"):
            yield Path(urlsplit(value).path).parent
        elif value.startswith("/"):
            yield Path(value)


def weights() -> dict[str, str]:
    """Which the image gets: the stand-in, unless the environment says otherwise."""
    chosen = {key: os.environ.get(key) or "" for key in ("WEIGHTS", "WEIGHTS_SHA256")}
    return chosen if chosen["WEIGHTS"] else {**chosen, "WEIGHTS": "stand-in"}


def build(tag: str = IMAGE) -> None:
    """Bases, then the image."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as threads:
        orthanc, python = threads.map(lambda recipe: debian(*recipe), (ORTHANC, PYTHON))
    buildah("--build-arg", f"ROOT={orthanc}", "--tag", "localhost/orthanc-stand-in", "tests/image/base")
    settings = pip_settings()
    options = ["--build-arg", f"TORCH_LINKS={settings['find-links'][0]}"] if "find-links" in settings else []
    for folder in dict.fromkeys(mounts(settings)):
        options += ["--volume", f"{folder}:{folder}:ro"]
    with tempfile.NamedTemporaryFile("w", dir=KEPT, suffix=".conf") as configuration:
        lines = [f"{key} = {' '.join(values)}" for key, values in settings.items()]
        configuration.write("\n".join(["[global]", *lines, ""]))
        configuration.flush()
        buildah(
            *("--volume", f"{configuration.name}:/etc/pip.conf:ro"),
            *("--volume", f"{os.environ.get('SSL_CERT_FILE', CERTIFICATES)}:{CERTIFICATES}:ro"),
            *("--build-arg", "BASE=localhost/orthanc-stand-in", "--build-arg", f"PREPARE_BASE={python}"),
            *(option for key, value in weights().items() for option in ("--build-arg", f"{key}={value}")),
            *("--build-arg", f"VARIANT={os.environ.get('VARIANT') or 'cpu'}"),
            *(*options, "--tag", tag, "."),
        )


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("Building without Docker needs root, for its mounts: sudo --preserve-env make test-image")
    began = time.monotonic()
    with nothing_left():
        build(*sys.argv[1:])
    print(f"built within {time.monotonic() - began:.0f} s")
