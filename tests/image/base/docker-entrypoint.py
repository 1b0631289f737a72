#!/usr/bin/python3
"""Orthanc's configuration as orthancteam/orthanc puts it together, then Orthanc itself.

Called with one argument, the path of the configuration. Sources, a later one winning: this image's defaults; the files
`*.json` of /etc/orthanc and of /run/secrets, in no order, with the environment's variables filled in; the variables
`ORTHANC__SECTION__KEY` and `ORTHANC_JSON`; secrets of such names, or those that a variable `ORTHANC__..._SECRET` names.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

DEFAULTS = {
    "StorageDirectory": "/var/lib/orthanc/db",
    "RemoteAccessAllowed": True,
    "AuthenticationEnabled": True,
    "HttpsCACertificates": "/etc/ssl/certs/ca-certificates.crt",
    "Plugins": ["/run/orthanc/plugins", "/usr/share/orthanc/plugins"],
}
# Each plugin's library, and the keys of the configuration that enable it; without keys it is always enabled.
PLUGINS = {
    "libOrthancGdcm.so": [],
    "libOrthancPython.so": ["Python", "PythonScript"],
    "libOrthancDicomWeb.so": ["DicomWeb"],
    "libOrthancPostgreSQLIndex.so": ["PostgreSQL"],
    "libOrthancPostgreSQLStorage.so": ["PostgreSQL"],
}
NAMES = {"POSTGRESQL": "PostgreSQL"}
"""What is not written as its words in a variable's name would be."""
HOST_ID = Path("/etc/hostid")
SECRETS = Path("/run/secrets")


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("give one argument, the path of the configuration")
    write_host_id()
    os.chdir("/startup")
    configuration = merged(DEFAULTS, sources())
    password = os.environ.get("ORTHANC_PASSWORD")
    if password:
        configuration = merged(configuration, {"RegisteredUsers": {"orthanc": password}})
    open_to_all = configuration["RemoteAccessAllowed"] and configuration["AuthenticationEnabled"]
    if open_to_all and not configuration.get("RegisteredUsers"):
        sys.exit("remote access and authentication are on, but no user is declared: set ORTHANC_PASSWORD")
    for library, keys in PLUGINS.items():
        if not keys or any(key in configuration for key in keys):
            enable(library)
    Path("/tmp/orthanc.json").write_text(json.dumps(configuration, indent=2))
    os.execvp("Orthanc", ["Orthanc", sys.argv[1]])


def write_host_id() -> None:
    if os.environ.get("FORCE_HOST_ID"):
        HOST_ID.write_text(os.environ["FORCE_HOST_ID"] + "\n")
        return
    missing = not HOST_ID.is_file() or HOST_ID.read_text().strip() == "not-generated"
    if missing and os.environ.get("GENERATE_HOST_ID_IF_MISSING", "true") == "true":
        HOST_ID.write_text(secrets.token_hex(4) + "\n")


def sources() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in [*Path("/etc/orthanc").glob("*.json"), *SECRETS.glob("*.json")]:
        found = merged(found, json.loads(without_comments(substituted(path.read_text()))))
    for name, value in os.environ.items():
        if name == "ORTHANC_JSON":
            found = merged(found, json.loads(without_comments(value)))
        elif name.startswith("ORTHANC__") and not name.endswith("_SECRET"):
            found = merged(found, nested(name, value))
    named = {path: name.removesuffix("_SECRET") for name, path in os.environ.items() if name.endswith("_SECRET")}
    for path in SECRETS.glob("*"):
        name = named.get(path.name, path.name)
        if path.is_file() and name.startswith("ORTHANC__"):
            found = merged(found, nested(name, path.read_text().rstrip("\n")))
    return found


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """`second` on top of `first`, section by section."""
    both = dict(first)
    for key, value in second.items():
        inside = both.get(key)
        both[key] = merged(inside, value) if isinstance(inside, dict) and isinstance(value, dict) else value
    return both


def nested(name: str, text: str) -> dict[str, Any]:
    """`ORTHANC__DICOM_WEB__ENABLE` and `true` -> `{"DicomWeb": {"Enable": True}}`; what is no JSON stays text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    for key in reversed(name.removeprefix("ORTHANC__").split("__")):
        value = {NAMES.get(key) or "".join(word.capitalize() for word in key.split("_")): value}
    return value  # type: ignore[no-any-return]


def substituted(text: str) -> str:
    """`$NAME`, `${NAME}` and `${NAME:-default}` filled in from the environment, as envsubst does."""
    pattern = r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})"
    return re.sub(pattern, lambda found: os.environ.get(found[1] or found[2]) or found[3] or "", text)


def without_comments(text: str) -> str:
    """JSON as Orthanc reads it, without the comments of C++."""
    return re.sub(r'("(?:\\.|[^\\"])*")|//[^\n]*|/\*.*?\*/', lambda found: found[1] or " ", text, flags=re.DOTALL)


def enable(library: str) -> None:
    source = Path("/usr/share/orthanc/plugins-available") / library
    writable = Path("/run/orthanc/plugins")  # mounted by those who run with a read-only root
    target = (writable if writable.is_dir() else Path("/usr/share/orthanc/plugins")) / library
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy(source, target)


if __name__ == "__main__":
    main()
