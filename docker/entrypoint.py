"""The image's entry point: the account from CHEST_XRAY_USER and CHEST_XRAY_PASSWORD, then the base image's own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

BASE = "/docker-entrypoint.sh"
USERS = "ORTHANC__REGISTERED_USERS"


def accounts(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that declares the account to the base image; empty without a password, which other ways may give.

    The password stands in CHEST_XRAY_PASSWORD, or in the file that CHEST_XRAY_PASSWORD_FILE names.
    """
    file = environ.get("CHEST_XRAY_PASSWORD_FILE")
    password = Path(file).read_text().rstrip("\r\n") if file else environ.get("CHEST_XRAY_PASSWORD")
    if not password:
        return {}
    others = json.loads(environ.get(USERS) or "{}")
    return {USERS: json.dumps({**others, environ.get("CHEST_XRAY_USER") or "chest-xray": password})}


def main() -> None:
    """Become Orthanc."""
    try:
        declared = accounts(os.environ)
    except OSError as problem:
        sys.exit(f"CHEST_XRAY_PASSWORD_FILE: {problem.filename} cannot be read: {problem.strerror}")
    # The password is Orthanc's affair: it shall not reach the processes that open other people's files.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHEST_XRAY_PASSWORD")}
    os.umask(0o077)  # the base image writes the whole configuration, passwords included, to a file
    os.execve(BASE, [BASE, *sys.argv[1:]], {**kept, **declared})  # noqa: S606 - fixed program, no shell


if __name__ == "__main__":
    main()
