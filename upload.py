#!/usr/bin/env python3
"""Send DICOM files, folders and ZIP archives to Orthanc, and fetch what the chest X-ray plugin says of them.

    python upload.py PATH... [--results DIR]

The files go one by one to Orthanc's REST API (POST /instances) over a few lasting connections. Storing the same file
twice changes nothing in Orthanc, so that any request can be sent again after a dropped connection.
"""

from __future__ import annotations

import argparse
import csv
import getpass
import ipaddress
import json
import os
import re
import stat
import sys
import tempfile
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

try:
    import requests
    from requests.adapters import HTTPAdapter, Retry
    from requests.auth import HTTPBasicAuth
    from requests.utils import get_netrc_auth
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    python = Path(__file__).resolve().parent / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), *sys.argv])  # noqa: S606 - the project's own interpreter, which `make` set up
    print(f"upload.py needs {missing.name}: run `make`, or `pip install requests rich`", file=sys.stderr)
    sys.exit(2)

EPILOG = """\
examples:
  upload.py chest.dcm                        one file, to http://localhost:8042
  upload.py /media/cd archive.zip            a folder with all that is in it, and an archive
  upload.py scans --results out              wait for the scores too; out/results.csv has them all
  upload.py scans --url https://pacs.example.org/orthanc --user anna

The password comes from --password-file, the variable CHEST_XRAY_PASSWORD, or ~/.netrc; else you are asked for it.
A server certificate of your own: REQUESTS_CA_BUNDLE=ca.pem.

exit status: 0 all is stored (and classified); 1 something was refused, failed or is still pending; 2 nothing could
be done: a wrong option or password, or no Orthanc at the address.
"""

TRIES = 6
CONNECT_SECONDS, ANSWER_SECONDS = 10, 120
LARGEST_MEMBER = 1 << 30
"""What one member of a ZIP may unpack to, in bytes; no radiograph comes near, and a ZIP bomb would go on."""

MODALITIES = ("CR", "DX")
SHOWN = 50
DISCLAIMER = "Not a medical device and not for diagnosis. A score is not a probability of disease."

NEW, KNOWN, REFUSED, NOT_DICOM, DIRECTORY = "new", "already there", "refused", "not DICOM", "DICOMDIR"

T, R = TypeVar("T"), TypeVar("R")


class Stop(Exception):
    """Nothing more can be done; the sentence says why."""


@dataclass(frozen=True, slots=True)
class File:
    """Something to send: its name for the reader, and its bytes from the current position on."""

    name: str
    body: IO[bytes]


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a file; `instance` is its Orthanc id where Orthanc has it."""

    name: str
    status: str
    reason: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What the plugin answered on one image; `text` is the answer itself, and empty where it gave none."""

    name: str
    instance: str
    state: str
    reason: str = ""
    text: bytes = b""
    answer: Mapping[str, Any] = field(default_factory=dict)
    uid: str = ""


class Server(NamedTuple):
    """An Orthanc at an address without a slash at the end."""

    url: str
    session: requests.Session

    def get(self, path: str) -> requests.Response:
        """:raises requests.RequestException: if there is no answer after `TRIES` tries."""
        return self.session.get(
            self.url + path, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), allow_redirects=False
        )

    def post(self, path: str, body: IO[bytes]) -> requests.Response:
        """:raises requests.RequestException: if there is no answer after `TRIES` tries."""
        return self.session.post(
            self.url + path,
            data=body,
            headers={"Content-Type": "application/dicom"},
            timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
            allow_redirects=False,
        )


def main(args: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    options = arguments().parse_args(args)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        server = connect(options.url, credentials(options, os.environ), options.connections)
        if options.results:
            check_plugin(server, options.results)
        return upload(server, options, console)
    except Stop as sentence:
        print(f"upload.py: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("upload.py: stopped. Run it again: what Orthanc has already is recognised.", file=sys.stderr)
        return 130


def arguments() -> argparse.ArgumentParser:
    """The options and their help."""
    parser = argparse.ArgumentParser(
        prog="upload.py",
        description="Send DICOM files to Orthanc, and fetch what the chest X-ray plugin says of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, env = parser.add_argument, os.environ.get
    url = env("ORTHANC_URL") or "http://localhost:8042"
    add("paths", nargs="+", type=existing, metavar="PATH", help="a DICOM file, a folder, or a ZIP archive")
    add("--url", default=url, help="Orthanc's address (ORTHANC_URL; now %(default)s)")
    add("--user", default=env("CHEST_XRAY_USER"), help="account in Orthanc (CHEST_XRAY_USER)")
    add("--password-file", type=existing, metavar="FILE", help="file that holds the password")
    add("--results", type=Path, metavar="DIR", help="wait for the scores; write a JSON file per image and results.csv")
    add("--timeout", type=positive, default=300, metavar="SECONDS", help="longest wait for the next score (%(default)s)")
    add("--connections", type=positive, default=6, metavar="N", help="how many files at a time (%(default)s)")
    return parser


def existing(text: str) -> Path:
    """A path of something that exists."""
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


# --- the server ----------------------------------------------------------------------------------------------------


def credentials(options: argparse.Namespace, env: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and password from the options, the environment, ~/.netrc or the terminal; None where nobody named any."""
    password = env.get("CHEST_XRAY_PASSWORD")
    if options.password_file:
        password = options.password_file.read_text().rstrip("\r\n")
    if options.user and password is not None:
        return options.user, password
    netrc: tuple[str, str] | None = get_netrc_auth(options.url)
    if not options.user or (netrc and netrc[0] == options.user):
        return netrc
    if not sys.stdin.isatty():
        raise Stop(f"no password for {options.user}: set CHEST_XRAY_PASSWORD or give --password-file")
    return options.user, getpass.getpass(f"Password of {options.user} at {options.url}: ")


def connect(url: str, account: tuple[str, str] | None, connections: int) -> Server:
    """A session with the Orthanc at `url`. Raises Stop with a sentence if there is none that would let us in."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Stop(f"{url} is no address like http://localhost:8042")
    if parts.username is not None:
        raise Stop("put the account into --user and CHEST_XRAY_PASSWORD, not into the address")
    local = is_loopback(parts.hostname)
    if account and parts.scheme == "http" and not local:
        print(f"upload.py: warning: the password goes to {parts.hostname} unencrypted; use https", file=sys.stderr)

    session = requests.Session()
    # A proxy for the Internet cannot reach this machine's own servers; ~/.netrc was read by now.
    session.trust_env = not local
    # Bytes, since requests would write text as Latin-1, and Orthanc reads UTF-8.
    session.auth = HTTPBasicAuth(*(each.encode() for each in account)) if account else None
    # Orthanc closes idle connections after a second, perhaps just as the next request sets out on one. POST
    # /instances may be repeated like the others: the second copy is only found to be stored already.
    retry = Retry(total=TRIES - 1, backoff_factor=0.1, allowed_methods=None, status_forcelist=(502, 503, 504))
    retry.raise_on_status = False
    adapter = HTTPAdapter(pool_maxsize=connections, pool_block=True, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    server = Server(url.rstrip("/"), session)
    check(server, account)
    return server


def check(server: Server, account: tuple[str, str] | None) -> None:
    """Raises Stop unless an Orthanc answers and accepts the account."""
    try:
        response = server.get("/system")
    except requests.exceptions.SSLError as problem:
        raise Stop(f"the certificate of {server.url} was not accepted: {innermost(problem)}") from None
    except requests.RequestException as problem:
        raise Stop(f"no answer from {server.url}: {innermost(problem)}") from None
    if response.status_code == requests.codes.unauthorized:
        raise Stop(
            f"{server.url} did not accept the password of {account[0]}"
            if account
            else f"{server.url} asks for an account: give --user, and CHEST_XRAY_PASSWORD or --password-file"
        )
    if response.is_redirect:
        raise Stop(f"{server.url} is elsewhere: it points to {response.headers['Location']}")
    if response.status_code == requests.codes.forbidden:
        raise Stop(f"{server.url} does not let us in (HTTP 403); see RemoteAccessAllowed in its configuration")
    if "DicomAet" not in as_object(response):
        raise Stop(f"{server.url} answers, but is no Orthanc")


def check_plugin(server: Server, folder: Path) -> None:
    """Raises Stop unless results can be had from the server and written to the folder."""
    status = server.get("/chest-xray/status")
    if not status.ok:
        raise Stop(f"{server.url} has no chest X-ray plugin (HTTP {status.status_code}); upload without --results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Stop(f"{folder} cannot be made: {problem.strerror}") from None


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by its name alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def innermost(problem: BaseException) -> str:
    """The cause at the bottom of a chain of requests' and urllib3's exceptions."""
    inner = getattr(problem, "reason", None) or next((a for a in problem.args if isinstance(a, BaseException)), None)
    return innermost(inner) if isinstance(inner, BaseException) else str(problem).rpartition("> ")[2]


def as_object(response: requests.Response) -> dict[str, Any]:
    """The answer's JSON object; empty where it is none."""
    try:
        value = response.json()
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# --- files ---------------------------------------------------------------------------------------------------------


def walk(path: Path) -> Iterator[Path | Sent]:
    """The files under a path, one after another, without listing a folder as a whole; links to folders are left."""
    if not path.is_dir():
        yield path
        return
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(Path(entry))
                elif entry.is_file():
                    yield Path(entry)
    except OSError as problem:
        yield Sent(str(path), REFUSED, f"cannot be read: {problem.strerror}")


def contents(paths: Iterable[Path], more: Callable[[int], None]) -> Iterator[File | Sent]:
    """What is to be sent, and what is known not to be; `more` is told how many members an archive adds."""
    for found in (each for path in paths for each in walk(path)):
        if isinstance(found, Sent):
            yield found
            continue
        try:
            body = found.open("rb")
            if body.peek(4).startswith((b"PK\3\4", b"PK\5\6")):
                with body:
                    yield from members(found, body, more)
            else:
                yield sorted_out(str(found), body)
        except OSError as problem:
            yield Sent(str(found), REFUSED, f"cannot be read: {problem.strerror}")
        except zipfile.BadZipFile as problem:
            yield Sent(str(found), REFUSED, f"damaged ZIP archive: {problem}")


def members(path: Path, body: IO[bytes], more: Callable[[int], None]) -> Iterator[File | Sent]:
    """The files in a ZIP archive, each unpacked for itself so that each has its own answer."""
    with zipfile.ZipFile(body) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        more(len(entries) - 1)
        for entry in entries:
            name = f"{path}/{entry.filename}"
            unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - whoever sends it closes it
            try:
                with archive.open(entry) as member:
                    start = member.read(HEADER)
                    ...
