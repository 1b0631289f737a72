#!/usr/bin/env python3
"""Send DICOM files, folders and archives to Orthanc, and fetch what the chest X-ray plugin says of them.

    python upload.py PATH... [--results DIR]

The way of a file is the order below: `contents` finds it, also in archives; `ask` learns for a hundred at once which
of them Orthanc has; `send` posts the others over a few lasting connections; `collect_all` waits for the results. Each
takes from the one before only what it needs next, however many there are.
"""

from __future__ import annotations

import argparse
import csv
import getpass
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit

try:
    import pydicom
    import requests
    from pydicom.filereader import read_partial
    from requests.adapters import HTTPAdapter, Retry
    from requests.auth import HTTPBasicAuth
    from requests.utils import get_netrc_auth
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    python = Path(__file__).resolve().parent / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), *sys.argv])  # noqa: S606 - the project's interpreter, which `make` set up
    print(f"upload.py needs {missing.name}: run `make`, or `pip install pydicom requests rich`", file=sys.stderr)
    sys.exit(2)

EPILOG = """\
PATH is a DICOM file; a folder, with all that is below it; a ZIP or tar (.tar.gz and the like too), also inside of
another; a DICOMDIR, for what it names; or - for standard input: a DICOM file, a ZIP or a tar.

examples:
  upload.py chest.dcm                        one file, to http://localhost:8042
  upload.py /media/cd archive.zip            a folder with all that is in it, and an archive
  upload.py scans --results out              wait for the scores too: out/results.csv has them all
  tar cz scans | upload.py - --url https://pacs.example.org/orthanc --user anna
  find . -newer last -print0 | upload.py --files-from -

What Orthanc has is not sent again: after an interruption, run it again. A file with the identifiers of an image that
Orthanc has, but other content, is sent, and it is said whether Orthanc replaced its own or kept it.

The password comes from --password-file, from CHEST_XRAY_PASSWORD in the environment or from ~/.netrc; else you are
asked for it. REQUESTS_CA_BUNDLE=ca.pem names a certificate authority of your own. NO_COLOR=1 means no colours.

--json prints one object: url, dry_run, seconds, bytes (sent), files and, of these, new, already_there, replaced,
other_content (Orthanc kept its own), refused, not_dicom, dicomdir; problems: a list of name, status and reason; and
results: how many images are done, failed, pending, skipped, not_a_radiograph. If nothing could be done: url, error.

exit status: 0 everything is stored (and classified); 1 something was refused, failed or is still pending; 2 nothing
could be done: a wrong option, a wrong password, or no Orthanc at the address; 130 stopped with Ctrl-C.
"""

TRIES, BACKOFF = 6, 0.1  # seconds between tries, doubled each time
SECONDS = (10, 120)  # to wait for a connection and for an answer
HEADER = 512  # so many bytes tell what a file is
MEDIA_STORAGE_DIRECTORY = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10"
PACKERS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz; zstd from Python 3.14 on
LARGEST_MEMBER = 1 << 30  # bytes that a member of an archive may unpack to: far above any radiograph
RATIO = 1000  # times its own size (and LARGEST_MEMBER) may an archive with all that is in it unpack to, against bombs
DEPTH = 3  # archives inside of each other
IN_MEMORY = 1 << 20  # bytes; larger members of archives wait on the disk
GROUP = (100, 32 << 20)  # files, or bytes, that one question to Orthanc concerns
ROWS_SHOWN = 50
MODALITIES = ("CR", "DX")
LAST_OF_IDENTITY = 0x0020000E
IDENTITY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")  # what Orthanc's ids are made of
CSV_ANSWER = ("state", "reason", "instance", "created", "warnings")
CSV_IMAGE = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyDate", "ViewPosition")
CSV_MODEL = ("name", "version", "weights", "weights_sha256")

STDIN = Path("-")
DICOM, DICOMDIR, ZIP, TAR, PACKED, NOT_DICOM = "DICOM", "DICOMDIR", "ZIP", "tar", "packed", "not DICOM"
NEW, KNOWN, REPLACED, OTHER, REFUSED = "new", "already there", "replaced", "other content", "refused"
STATUSES = (NEW, KNOWN, REPLACED, OTHER, REFUSED, NOT_DICOM, DICOMDIR)
ALWAYS_SAID = (NEW, KNOWN, REFUSED, NOT_DICOM)
STATES = ("done", "failed", "pending", "skipped", "not a radiograph")
COLOURS = dict.fromkeys((REFUSED, "failed"), "red") | dict.fromkeys((REPLACED, OTHER, "pending"), "yellow")
COLOURS |= dict.fromkeys((NOT_DICOM, "skipped"), "dim")  # what is worth a line, and in which colour

T = TypeVar("T")
R = TypeVar("R")
More = Callable[[int], None]
"""Learns how many files there are besides those on the disk."""


class Stop(Exception):
    """Nothing more can be done; the sentence says why."""


@dataclass(slots=True)
class Item:
    """A file on its way, what is known of the image in it, and what became of it.

    `status` is empty while it is to be sent; `body` is the open file then, and `size` counts the bytes that are sent.
    `instance` is the Orthanc id, empty where it cannot be known; `known` if Orthanc has that already.
    """

    name: str
    status: str = ""
    reason: str = ""
    body: Any = None
    size: int = 0
    instance: str = ""
    SOPInstanceUID: str = ""
    Modality: str = ""
    known: bool = False
    answer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What became of everything; `stored` are the images that Orthanc has now, by their ids."""

    files: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    problems: list[Item] = field(default_factory=list)
    stored: dict[str, Item] = field(default_factory=dict)
    last_result: float = 0

    def problem(self, item: Item, console: Console) -> None:
        """Remember it, and say it in one line."""
        self.problems.append(item)
        say(console, f"{item.status}: {item.name}" + (f": {item.reason}" if item.reason else ""), item.status)

    def as_json(self) -> dict[str, Any]:
        """See EPILOG."""
        return {
            "bytes": self.bytes,
            "files": self.files.total(),
            **{status.lower().replace(" ", "_"): self.files[status] for status in STATUSES},
            "problems": [{"name": one.name, "status": one.status, "reason": one.reason} for one in self.problems],
            "results": {state.replace(" ", "_"): self.images[state] for state in STATES},
        }


class Server(NamedTuple):
    """An Orthanc, at an address without a slash at its end."""

    url: str
    session: requests.Session

    def get(self, path: str, query: object = None) -> requests.Response:
        """The answer, to a query in JSON if there is one. Raises Stop if there is none after `TRIES` tries."""
        try:
            return self.post(path, io.BytesIO(json.dumps(query).encode())) if query else self.ask("GET", path)
        except requests.RequestException as problem:
            raise Stop(f"no answer from {self.url}: {cause(problem)}") from None

    def post(self, path: str, body: BinaryIO) -> requests.Response:
        """Raises requests.RequestException if there is no answer after `TRIES` tries."""
        return self.ask("POST", path, body)

    def ask(self, method: str, path: str, body: BinaryIO | None = None) -> requests.Response:
        """Again if the answer was cut off in its middle, which the session's own retries do not see."""
        for left in reversed(range(TRIES)):
            try:
                return self.session.request(method, self.url + path, data=body, timeout=SECONDS, allow_redirects=False)
            except requests.exceptions.ChunkedEncodingError:
                if not left:
                    raise
                if body:
                    body.seek(0)
        raise AssertionError("the last try returns or raises")


# The command


def main(args: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = arguments(os.environ)
    options = parser.parse_args(args)
    if not options.paths and not options.files_from:
        parser.error("name a PATH, or - for standard input")
    if options.dry_run:
        options.results = None
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, stderr=options.json)
    began, tally, status = time.monotonic(), Tally(), 0
    summary: dict[str, Any] = {"url": options.url}
    try:
        server = connect(options.url, credentials(options, os.environ), options.connections)
        if options.results:
            prepare_results(server, options.results)
        send_all(server, options, console, tally)
        if options.results:
            collect_all(server, options, console, tally)
        if tally.files[REFUSED] or tally.images["failed"] or tally.images["pending"]:
            status = 1
        summary |= {"dry_run": options.dry_run, "seconds": round(time.monotonic() - began, 2), **tally.as_json()}
    except (Stop, OSError) as sentence:  # OSError: the results cannot be written
        print(f"upload.py: {sentence}", file=sys.stderr)
        status = 2
        summary["error"] = str(sentence)
    except KeyboardInterrupt:
        print("upload.py: stopped; run it again: what Orthanc has is not sent again", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(summary, indent=2))
    return status


def arguments(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """The options and their help."""
    parser = argparse.ArgumentParser(
        prog="upload.py",
        description="Send DICOM files to Orthanc, and fetch what the chest X-ray plugin says of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("paths", nargs="*", type=existing, metavar="PATH", help="what to send, see below")
    add(
        "--files-from",
        type=existing,
        metavar="FILE",
        help="send what FILE, or -, lists: a path a line, or find -print0",
    )
    add("-n", "--dry-run", action="store_true", help="send nothing, and say what would be sent")
    add_server(parser, env)
    add("--results", type=Path, metavar="DIR", help="wait for the scores; a JSON file per image, and results.csv")
    add("--timeout", type=positive, default=300, metavar="S", help="seconds to wait for the next score (%(default)s)")
    add("--connections", type=positive, default=6, metavar="N", help="files under way at once (%(default)s)")
    add("--json", action="store_true", help="a summary for programs, see below; the rest goes to standard error")
    return parser


def add_server(parser: argparse.ArgumentParser, env: Mapping[str, str]) -> None:
    """The options that say where Orthanc is and who asks."""
    add, url = parser.add_argument, env.get("ORTHANC_URL") or "http://localhost:8042"
    add("--url", default=url, help="Orthanc's address (else ORTHANC_URL; now %(default)s)")
    add("--user", default=env.get("CHEST_XRAY_USER"), help="the account in Orthanc (else CHEST_XRAY_USER)")
    add("--password-file", type=existing, metavar="FILE", help="a file that holds the password")


def existing(text: str) -> Path:
    """A path at which there is something, or - for standard input."""
    path = Path(text)
    if path != STDIN and not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def credentials(options: argparse.Namespace, env: Mapping[str, str]) -> tuple[str, str] | None:
    """Name and password, or None where nobody named any. Raises Stop if there is a name and no password."""
    password = env.get("CHEST_XRAY_PASSWORD")
    if options.password_file:
        try:
            password = options.password_file.read_text().rstrip("\r\n")
        except (OSError, ValueError) as problem:
            raise Stop(f"no password can be read from {options.password_file}: {problem}") from None
    if options.user and password is not None:
        return options.user, password
    in_netrc = get_netrc_auth(options.url)
    if not options.user or (in_netrc and in_netrc[0] == options.user):
        return in_netrc
    if not sys.stdin.isatty():
        raise Stop(f"no password for {options.user}: set CHEST_XRAY_PASSWORD or give --password-file")
    return options.user, getpass.getpass(f"Password of {options.user} at {options.url}: ")


# The connection


def connect(url: str, account: tuple[str, str] | None, connections: int) -> Server:
    """The Orthanc at `url`. Raises Stop unless one answers there and accepts the account."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Stop(f"{url} is no address like http://localhost:8042")
    if parts.username is not None:
        raise Stop("the account belongs into --user and CHEST_XRAY_PASSWORD, not into the address")
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if account and parts.scheme == "http" and not local:
        print(f"upload.py: warning: the password goes to {parts.hostname} unencrypted; use https", file=sys.stderr)
    session = requests.Session()
    # A proxy for the Internet does not reach this machine's own servers. (~/.netrc was read before.)
    session.trust_env = not local
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
    # As bytes: requests would write text as Latin-1, and Orthanc reads UTF-8.
    session.auth = HTTPBasicAuth(*(text.encode() for text in account)) if account else None
    # Orthanc closes connections that are idle for a second, perhaps just as a request sets out on one. Every request
    # may be sent again, POST /instances too: Orthanc finds the second copy to be stored already.
    retry = Retry(
        TRIES - 1,
        backoff_factor=BACKOFF,
        allowed_methods=None,
        status_forcelist=(502, 503, 504),
        raise_on_status=False,
    )
    adapter = HTTPAdapter(pool_maxsize=connections, pool_block=True, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    server = Server(url.rstrip("/"), session)
    check(server, account)
    return server


def check(server: Server, account: tuple[str, str] | None) -> None:
    """Raises Stop unless an Orthanc answers and accepts the account."""
    response = server.get("/system")
    if response.status_code == 401 and account:
        raise Stop(f"{server.url} does not accept this password of {account[0]}")
    if response.status_code == 401:
        raise Stop(f"{server.url} wants an account: give --user, and CHEST_XRAY_PASSWORD or --password-file")
    if response.is_redirect:
        raise Stop(f"{server.url} points elsewhere, to {response.headers['Location']}: give that address")
    if "DicomAet" not in json_object(response.content):
        raise Stop(f"{server.url} does not answer as Orthanc does (HTTP {response.status_code})")


def prepare_results(server: Server, folder: Path) -> None:
    """Raises Stop, before anything is sent, if there can be no results."""
    status = server.get("/chest-xray/status")
    if not status.ok:
        raise Stop(f"{server.url} has no chest X-ray plugin (HTTP {status.status_code}): go without --results")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Stop(f"{folder} cannot be made: {problem.strerror}") from None


# Sending


def send_all(server: Server, options: argparse.Namespace, console: Console, tally: Tally) -> None:
    """Send everything, and say how much became what."""
    seen: dict[str, str] = {}
    locks = [threading.Lock() for _ in range(64)]
    with progress(console) as bar:
        task = bar.add_task("Sending", total=None, bytes=0)

        def more(files: int) -> None:
            bar.update(task, total=(bar.tasks[task].total or 0) + files)

        if console.is_terminal and STDIN not in options.paths and not options.files_from:
            more(sum(1 for path in options.paths for _ in walk(path)))
        items = ask(server, contents(options, more))
        work = partial(send, server, options.dry_run, seen, locks)
        for item in concurrently(work, items, options.connections):
            tally.files[item.status] += 1
            tally.bytes += item.size
            bar.update(task, advance=1, bytes=tally.bytes)
            if item.status in COLOURS:
                tally.problem(item, console)
            if options.results and item.instance and (item.status == REPLACED or item.instance not in tally.stored):
                tally.stored[item.instance] = item
    files = tally.files.total()
    said = ", ".join(f"{tally.files[each]} {each}" for each in STATUSES if tally.files[each] or each in ALWAYS_SAID)
    said = f"{files} {'file' if files == 1 else 'files'}: {said}"
    say(console, f"Nothing was sent. Of {said}" if options.dry_run else said)


# What there is to send


def contents(options: argparse.Namespace, more: More) -> Iterator[Item]:
    """What is to be sent, and what is known not to be."""
    for path in itertools.chain(options.paths, listed(options.files_from)):
        if path == STDIN:
            yield from standard_input(more)
        else:
            for found in walk(path):
                yield from [found] if isinstance(found, Item) else opened(found, found == path, more)


def listed(file: Path | None) -> Iterator[Path]:
    """The paths that a file lists, one on each line or with a NUL behind each."""
    if file:
        with sys.stdin.buffer if file == STDIN else file.open("rb") as lines:
            for line in lines:
                yield from (Path(os.fsdecode(name)) for name in line.rstrip(b"\n").split(b"\0") if name)


def walk(path: Path) -> Iterator[Path | Item]:
    """The files under a path, as the disk gives them: no folder is listed as a whole. Leaves links to folders."""
    if not path.is_dir():
        yield path if path.is_file() else Item(str(path), REFUSED, "is no file" if path.exists() else "is not there")
        return
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from walk(Path(entry))
                elif entry.is_file():
                    yield Path(entry)
    except OSError as problem:
        yield Item(str(path), REFUSED, f"cannot be read: {problem.strerror}")


def opened(path: Path, named: bool, more: More) -> Iterator[Item]:
    """What is in a file on the disk. A DICOMDIR met in a folder is left: what it names stands there too."""
    try:
        body = path.open("rb")
        start = body.read(HEADER)
        body.seek(0)
        if named and kind(start) == DICOMDIR:
            with body:
                files = list(named_in(path, body))
            more(len(files))
            yield Item(str(path), DICOMDIR)
            for file in files:
                yield from opened(file, False, more)
        else:
            yield from unfold(str(path), start, body, Budget(LARGEST_MEMBER + RATIO * path.stat().st_size), more)
    except OSError as problem:
        yield Item(str(path), REFUSED, f"cannot be read: {problem.strerror}")
    except Exception as problem:  # whatever a damaged DICOMDIR makes pydicom raise
        yield Item(str(path), REFUSED, f"this DICOMDIR cannot be read: {problem}")


def named_in(dicomdir: Path, body: BinaryIO) -> Iterator[Path]:
    """The files that a DICOMDIR names; a mounted disc may have them in small letters."""
    folder = dicomdir.parent.resolve()
    for record in pydicom.dcmread(body).DirectoryRecordSequence:
        if name := record.get("ReferencedFileID"):
            parts = [name] if isinstance(name, str) else name
            file, small = folder.joinpath(*parts), folder.joinpath(*map(str.lower, parts))
            if not file.resolve().is_relative_to(folder):
                raise ValueError(f"it names {file}, outside of its folder")
            yield small if small.exists() and not file.exists() else file


def standard_input(more: More) -> Iterator[Item]:
    """What comes in: a tar as it comes, and all else once it is there as a whole."""
    start, budget = sys.stdin.buffer.read(HEADER), Budget()
    if kind(start) in (TAR, PACKED):
        body: BinaryIO = Stream(start, sys.stdin.buffer, budget)  # type: ignore[assignment]
    else:
        body = set_aside(start, sys.stdin.buffer, LARGEST_MEMBER)
        budget.left += RATIO * os.fstat(body.fileno()).st_size
    yield from unfold("standard input", start, body, budget, more)


@dataclass(slots=True)
class Budget:
    """How many bytes an archive, with all that is in it, may still unpack to."""

    left: int = LARGEST_MEMBER

    def spend(self, size: int) -> None:
        """Raises ValueError if that is more than is left."""
        self.left -= size
        if self.left < 0:
            raise ValueError(f"it unpacks to more than {RATIO} times its size")


class Stream(io.RawIOBase):
    """What tarfile reads from: bytes that were read already, then the rest. All that flows in raises the budget."""

    def __init__(self, start: bytes, rest: BinaryIO, budget: Budget) -> None:
        """Nothing more is read yet."""
        self.start, self.rest, self.budget = start, rest, budget

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes."""
        data, self.start = self.start or self.rest.read(size), b""
        self.budget.left += RATIO * len(data)
        return data


# Archives


def kind(start: bytes) -> str:
    """What a file is, by its first bytes: DICOM, with or without the preamble (Orthanc judges the rest), an archive."""
    bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"  # a first element in group 2 or 8
    if start[128:132] == b"DICM" or bare:
        return DICOMDIR if MEDIA_STORAGE_DIRECTORY in start else DICOM
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return ZIP
    if start[257:262] == b"ustar":
        return TAR
    return PACKED if start.startswith(PACKERS) else NOT_DICOM


def unfold(name: str, start: bytes, body: BinaryIO, budget: Budget, more: More, depth: int = 0) -> Iterator[Item]:
    """What is in an open file, which is closed unless it is to be sent: itself, or all that is in an archive."""
    what = kind(start)
    if what == DICOM:
        yield identified(name, body)
        return
    with body:
        if what in (DICOMDIR, NOT_DICOM):
            yield Item(name, what)
            return
        read = 0
        try:
            if depth == DEPTH:
                raise ValueError("it is inside of too many others")
            for inner, size, reader in zip_members(body, more) if what == ZIP else tar_members(body, more):
                read += 1
                budget.spend(size)
                yield from member(f"{name}/{inner}", size, reader, budget, more, depth + 1)
        except Exception as problem:  # whatever a damaged archive makes a decompressor raise
            compressed_otherwise = what == PACKED and not read
            yield Item(name, *((NOT_DICOM,) if compressed_otherwise else (REFUSED, f"cannot be unpacked: {problem}")))


def member(name: str, size: int, reader: Callable[[], Any], budget: Budget, more: More, depth: int) -> Iterator[Item]:
    """What is in one member of an archive, which is unpacked only if that is worth it."""
    try:
        with reader() as packed:
            start = packed.read(HEADER)
            wanted = kind(start) in (DICOM, ZIP, TAR, PACKED)
            body = set_aside(start, packed, size) if wanted else io.BytesIO()
    except Exception as problem:  # damaged, or encrypted
        yield Item(name, REFUSED, f"cannot be unpacked: {problem}")
    else:
        yield from unfold(name, start, body, budget, more, depth)


def zip_members(body: BinaryIO, more: More) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """The files in a ZIP: name, size, and what opens it."""
    with zipfile.ZipFile(body) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        more(len(entries) - 1)
        for entry in entries:
            yield entry.filename, entry.file_size, partial(archive.open, entry)


def tar_members(body: BinaryIO, more: More) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """The files in a tar, compressed or not, as they come."""
    with tarfile.open(fileobj=body, mode="r|*", tarinfo=TarHeader) as archive:
        more(-1)
        while entry := archive.next():
            archive.members = []  # type: ignore[attr-defined]  # it would remember each
            if entry.isreg():
                more(1)
                yield entry.name, entry.size, partial(archive.extractfile, entry)


class TarHeader(tarfile.TarInfo):
    """A header that is refused where the names in it are larger than would fit into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> TarHeader:
        """See tarfile.TarInfo."""
        header = super().frombuf(buf, encoding, errors)
        if not header.isreg() and header.size > IN_MEMORY:
            raise tarfile.ReadError("one of its headers is too large")
        return header


def set_aside(start: bytes, rest: BinaryIO, size: int) -> BinaryIO:
    """A file of its own, which can be sent twice. Raises ValueError if it is too large."""
    if size > LARGEST_MEMBER:  # zipfile and tarfile stop at the declared size
        raise ValueError(f"it is larger than {LARGEST_MEMBER >> 20} MiB")
    body = io.BytesIO() if size <= IN_MEMORY else tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is sent
    body.write(start)
    shutil.copyfileobj(rest, body, 1 << 20)
    body.seek(0)
    return body


# What Orthanc has, and what it gets


def identified(name: str, body: BinaryIO) -> Item:
    """A DICOM file with its image's Orthanc id; without one where that cannot be read, and Orthanc will say why."""
    item = Item(name, body=body, size=body.seek(0, os.SEEK_END))
    body.seek(0)
    try:
        ds = read_partial(body, lambda tag, _vr, _length: tag > LAST_OF_IDENTITY, force=True)
        identity = [str(ds.get(keyword) or "").strip() for keyword in IDENTITY]
        item.SOPInstanceUID, item.Modality = identity[-1], str(ds.get("Modality") or "")
        digest = hashlib.sha1("|".join(identity).encode(), usedforsecurity=False).hexdigest()
        item.instance = "-".join(digest[at : at + 8] for at in range(0, 40, 8)) if item.SOPInstanceUID else ""
    except Exception:  # noqa: S110 - whatever a malformed header makes a parser raise
        pass
    body.seek(0)
    return item


def ask(server: Server, items: Iterable[Item]) -> Iterator[Item]:
    """The same items, with those marked that Orthanc has already: one question for many of them."""
    for group in groups(items):
        ids = [item.instance for item in group if item.instance]
        answer = server.get("/tools/bulk-content", {"Resources": ids, "Level": "Instance"}) if ids else None
        # An old Orthanc does not know this, and not everybody may ask it: then all are sent.
        known = {row["ID"] for row in answer.json()} if answer and answer.ok else ()
        for item in group:
            item.known = item.instance in known
            yield item


def groups(items: Iterable[Item]) -> Iterator[list[Item]]:
    """As many items as one question may concern."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == GROUP[0] or sum(each.size for each in group) > GROUP[1]:
            yield group
            group = []
    yield group


def send(server: Server, dry_run: bool, seen: dict[str, str], locks: Sequence[Any], item: Item) -> Item:
    """POST one file, unless Orthanc has it; `seen` names the files that it has. Raises Stop if Orthanc is gone."""
    if item.status:
        return item
    # Files with the same id wait for each other: what became of the first decides about the second.
    with item.body, locks[hash(item.instance or item.name) % len(locks)]:
        try:
            other = item.known or item.instance in seen
            if other and same(server, item):
                item.status, item.size = KNOWN, 0
            elif dry_run:
                item.status, item.size = OTHER if other else NEW, 0
            else:
                post(server, item, other)
        except OSError as problem:
            item.status, item.reason = REFUSED, f"cannot be read: {problem.strerror}"
        before = seen.get(item.instance, "")
        if item.status in (OTHER, REPLACED):
            said = "Orthanc keeps" if item.status == OTHER else "it took the place of"
            item.reason = f"{said} another file with the same identifiers" + (before and f": {before}")
        if item.status == REPLACED or (item.status in (NEW, KNOWN) and not before and not dry_run):
            seen[item.instance] = item.name
    item.body = None
    if item.status == REFUSED:
        item.instance, item.size = "", 0
    return item


def post(server: Server, item: Item, other: bool) -> None:
    """POST one file; `other` if Orthanc has this image with other content."""
    try:
        response = server.post("/instances", item.body)
    except requests.RequestException as problem:
        server.get("/system")  # is it this file alone, or Orthanc?
        item.status, item.reason = REFUSED, f"no answer to it after {TRIES} tries: {cause(problem)}"
        return
    answer = json_object(response.content)
    item.instance = str(answer.get("ID", ""))
    if answer.get("Status") == "Success":
        item.status = REPLACED if other else NEW
    elif answer.get("Status") == "AlreadyStored":
        item.status = KNOWN if not other and same(server, item) else OTHER
    elif answer.get("Status") == "FilteredOut":
        item.status, item.reason = REFUSED, "a filter in Orthanc's configuration does not want it"
    else:
        item.status, item.reason = REFUSED, why(response)


def same(server: Server, item: Item) -> bool:
    """Whether Orthanc has this very file; where it keeps no checksums, the identifiers decide."""
    answer = server.get(f"/instances/{item.instance}/attachments/dicom/md5")
    item.body.seek(0)
    digest = hashlib.md5(usedforsecurity=False)
    while data := item.body.read(1 << 20):
        digest.update(data)
    item.body.seek(0)
    return not answer.ok or answer.text in ("", digest.hexdigest())


# Results


def collect_all(server: Server, options: argparse.Namespace, console: Console, tally: Tally) -> None:
    """Wait for every result and write it."""
    shown: list[Item] = []
    tally.last_result = time.monotonic()
    status = json_object(server.get("/chest-xray/status").content)
    if not status.get("ready", True):
        say(console, f"The classifier is not ready: {status.get('reason')}. Waiting for it.")
    with progress(console) as bar:
        task = bar.add_task("Reading", total=len(tally.stored))
        work = partial(result, server, tally, options.timeout)
        for item, text in concurrently(work, tally.stored.values(), options.connections):
            bar.advance(task)
            tally.images[item.status] += 1
            if item.status in COLOURS:
                tally.problem(item, console)
            if item.status in ("done", "failed", "skipped") and text:
                write(item, text, options.results, console)
            if item.status == "done" and len(shown) < ROWS_SHOWN:
                shown.append(item)
    write_csv(options.results)
    show(shown, tally.images["done"], console)
    said = ", ".join(f"{tally.images[state]} {state}" for state in STATES if state == "done" or tally.images[state])
    say(console, f"Results in {options.results}: {said}")


def result(server: Server, tally: Tally, patience: float, sent: Item) -> tuple[Item, bytes]:
    """What the plugin says of an image, `pending` only if nothing else came of any image for too long."""
    pause = 0.1
    while True:
        response = server.get(f"/instances/{sent.instance}/chest-xray")
        answer = json_object(response.content)
        item = replace(sent, status=answer.get("state", "failed"), reason=answer.get("reason", ""), answer=answer)
        if not response.ok or "state" not in answer:
            return replace(item, status="failed", reason=why(response)), b""
        if item.status != "pending":
            break
        if time.monotonic() > tally.last_result + patience:
            return item, b""
        time.sleep(pause)
        pause = min(2 * pause, 1)
    tally.last_result = time.monotonic()
    image = answer.get("image") or {}
    item.SOPInstanceUID = image.get("SOPInstanceUID", item.SOPInstanceUID).strip()
    if item.status == "skipped" and image.get("Modality", item.Modality) not in MODALITIES:
        item.status = "not a radiograph"
    return item, response.content


def write(item: Item, text: bytes, folder: Path, console: Console) -> None:
    """Write the answer as it came, beside that of another image with the same SOPInstanceUID, never over it."""
    name = item.SOPInstanceUID if re.fullmatch(r"[0-9.]{1,64}", item.SOPInstanceUID) else item.instance
    file = folder / f"{name}.json"
    if file.exists() and json_object(file.read_bytes()).get("instance", item.instance) != item.instance:
        file = folder / f"{name}_{item.instance}.json"
        say(console, f"note: {item.name} shares its SOPInstanceUID with another image; its result is in {file.name}")
    file.write_bytes(text)


def write_csv(folder: Path) -> None:
    """Write results.csv over all the JSON files in the folder, with a column for every label that occurs."""
    files = sorted(folder.glob("*.json"))
    labels = list(dict.fromkeys(label for file in files for label in json_object(file.read_bytes()).get("scores", ())))
    with (folder / "results.csv").open("w", encoding="utf-8", newline="") as output:
        table = csv.writer(output)
        table.writerow([*CSV_ANSWER, *CSV_IMAGE, *(f"model_{name}" for name in CSV_MODEL), *labels])
        for file in files:
            answer = json_object(file.read_bytes())
            if "state" not in answer:
                continue  # not one of ours
            image = {"SOPInstanceUID": file.stem.partition("_")[0], **answer.get("image", {})}
            model, scores = answer.get("model", {}), answer.get("scores", {})
            answer["warnings"] = " ".join(answer.get("warnings", ()))
            texts = [answer.get(name) for name in CSV_ANSWER] + [image.get(name) for name in CSV_IMAGE]
            texts += [model.get(name) for name in CSV_MODEL]
            table.writerow([*map(cell, texts), *(scores.get(label, "") for label in labels)])


def cell(value: object) -> str:
    """Text that no spreadsheet takes for a formula: tags are whatever somebody wrote into a file."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def show(items: Sequence[Item], count: int, console: Console) -> None:
    """Print a table of the highest scores, and what they are not."""
    if not items:
        return
    table = Table("Image", "View", "Highest scores", box=None)
    for item in items:
        scores = sorted(item.answer["scores"].items(), key=lambda score: -score[1])[:4]
        image = printable(item.name), printable(item.answer["image"].get("ViewPosition", ""))
        table.add_row(*map(Text, image), Text("   ".join(f"{label} {score:.3f}" for label, score in scores)))
    console.print(table)
    if count > len(items):
        say(console, f"... and {count - len(items)} more in results.csv")
    if any(item.answer["model"].get("weights") == "stand-in" for item in items):
        stars = "*" * 78
        say(
            console,
            f"{stars}\n  STAND-IN WEIGHTS: random numbers, no trained model. These scores mean nothing.\n{stars}",
        )
    say(console, items[0].answer.get("disclaimer", ""))


# Threads, the terminal, and words


def concurrently(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map` on threads, in order; takes only so many items ahead of the result that is asked for next."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Rate(bars.ProgressColumn):
    """Files and megabytes in a second."""

    def render(self, task: bars.Task) -> Text:
        """Empty before anything can be said."""
        rate = f"{task.speed:.0f}/s" if task.speed else ""
        if size := task.fields.get("bytes"):
            rate += f" {size / 1e6 / (task.elapsed or 1):.1f} MB/s"
        return Text(rate)


def progress(console: Console) -> bars.Progress:
    """A bar on a terminal, and nothing elsewhere."""
    columns = "{task.description}", bars.BarColumn(), bars.MofNCompleteColumn(), Rate(), bars.TimeRemainingColumn()
    return bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def say(console: Console, line: str, status: str = "") -> None:
    """Print a line as it is, however long, above a bar that may be there."""
    console.out("\n".join(map(printable, line.split("\n"))), style=COLOURS.get(status))


def printable(text: str) -> str:
    """Text that does nothing to a terminal; file names and tags are whatever somebody made them."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def why(response: requests.Response) -> str:
    """The server's own reason for an error."""
    answer = json_object(response.content)
    reason = answer.get("Details") or answer.get("error") or answer.get("Message") or response.reason
    if reason == "Inexistent tag":
        reason += ", an identifier such as StudyInstanceUID is missing"
    return f"{reason} (HTTP {response.status_code})"


def json_object(text: bytes) -> dict[str, Any]:
    """The JSON object in a text; empty where it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def cause(problem: BaseException) -> str:
    """What is at the bottom of a chain of requests' and urllib3's exceptions, in the system's words."""
    inner = getattr(problem, "reason", None), problem.__cause__, problem.__context__, *problem.args
    for each in inner:
        if isinstance(each, BaseException):
            return cause(each)
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__


if __name__ == "__main__":
    exit_status = main()
    sys.stdout.flush()
    os._exit(exit_status)  # without waiting for requests that hang
