"""The image's entry point: the account from CHEST_XRAY_USER and CHEST_XRAY_PASSWORD, then the base image's own.

The base image reads the value of every variable ORTHANC__... as JSON, if it is any.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

BASE = "/docker-entrypoint.sh"
USERS = "ORTHANC__REGISTERED_USERS"
SECRETS = ("ORTHANC__POSTGRESQL__PASSWORD", "ORTHANC__AWS_S3_STORAGE__SECRET_KEY")
KEPT = Path("/var/lib/orthanc/db/password")
"""A password that was made up: in the volume, so that it lasts."""


class BadPassword(Exception):
    """Why, in words."""


def password(environ: Mapping[str, str]) -> str:
    """From CHEST_XRAY_PASSWORD, or from the file that CHEST_XRAY_PASSWORD_FILE names; empty if neither says one.

    :raises OSError: if that file cannot be read.
    :raises BadPassword: if there is none in it.
    """
    if given := environ.get("CHEST_XRAY_PASSWORD"):
        return given
    named = environ.get("CHEST_XRAY_PASSWORD_FILE")
    if not named:
        return ""
    secret = text_of(file := Path(named)).rstrip("\r\n")
    if not secret and file.is_file():  # compose.yaml hands on /dev/null where none was chosen, which is no such file
        raise BadPassword(f"{file}, which CHEST_XRAY_PASSWORD_FILE names, is empty: write it there")
    return secret


def text_of(file: Path) -> str:
    """:raises OSError: if the file cannot be read.

    :raises BadPassword: if it is no text.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadPassword(f"{file} is no text in UTF-8: save it as that") from None


def others(environ: Mapping[str, str], declared: Path = Path("/run/secrets")) -> bool:
    """Whether an account may come by one of the base image's own ways."""
    names = ("ORTHANC_PASSWORD", USERS, f"{USERS}_SECRET", "ORTHANC_JSON")
    return any(environ.get(name) for name in names) or any(declared.glob("*.json"))


def made_up(kept: Path = KEPT) -> str:
    """The password that is kept, made now if there is none.

    :raises OSError: if it cannot be kept.
    :raises BadPassword: if what is kept is no text.
    """
    if not kept.exists() or not text_of(kept).strip():
        kept.write_text(secrets.token_urlsafe(12) + "\n")
        print(f"No password was set: one was made up, which stands in {kept}.", file=sys.stderr)  # noqa: T201
    return text_of(kept).strip()


def account(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that declares the account to the base image; none if other ways may give one.

    :raises OSError: if a password cannot be read or kept.
    :raises BadPassword: if it cannot be one.
    """
    secret = password(environ) or ("" if others(environ) else made_up())
    if not secret:
        return {}
    if "${" in secret:
        raise BadPassword("it contains ${, which Orthanc takes for a variable: choose another")
    users = json.loads(environ.get(USERS) or "{}")
    return {USERS: json.dumps({**users, environ.get("CHEST_XRAY_USER") or "chest-xray": secret})}


def as_text(value: str) -> str:
    """As JSON that is a text, where it is JSON that is not: a password of digits is no number."""
    try:
        return value if isinstance(json.loads(value), str) else json.dumps(value)
    except ValueError:
        return value


def declared(environ: Mapping[str, str]) -> dict[str, str]:
    """What the base image is to be told.

    :raises OSError: if a password cannot be read or kept.
    :raises BadPassword: if it cannot be one.
    """
    return {**account(environ), **{name: as_text(environ[name]) for name in SECRETS if environ.get(name)}}


def refuse(sentence: str) -> NoReturn:
    """End with the status of a wrong setting."""
    print(f"The password: {sentence}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def main() -> None:
    """Become Orthanc."""
    os.umask(0o077)  # the base image writes the whole configuration, passwords included, to a file
    try:
        told = declared(os.environ)
    except OSError as problem:
        refuse(f"{problem.filename} cannot be used: {problem.strerror}")
    except BadPassword as sentence:
        refuse(str(sentence))
    # The password is Orthanc's affair: it shall not reach the processes that open other people's files.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHEST_XRAY_PASSWORD")}
    os.execve(BASE, [BASE, *sys.argv[1:]], {**kept, **told})  # noqa: S606 - fixed program, no shell


if __name__ == "__main__":
    main()
