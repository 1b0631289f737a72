#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["pydicom==3.0.2", "requests==2.34.2", "rich==15.0.0"]
# ///
"""Send DICOM files, folders and archives to Orthanc, and fetch what the chest X-ray plugin says of them.

    python upload.py PATH... [--results DIR]

The way of a file is the order below: `contents` finds it, also in archives; `looked_up` learns for some at once which
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
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

MINIMUM = (3, 11)
TRIED = "UPLOAD_PY_TRIED"  # tells the next interpreter which one this was, so that none is tried twice

# What to do where something is missing


def go_on_with_libraries(problem: str) -> NoReturn:
    """Become the same command in the project's environment, or in one of upload.py's own, which is made once."""
    script, tried = Path(__file__).resolve(), os.environ.get(TRIED)
    if not tried:
        become(script.parent / ".venv", "project")
    if os.name == "nt" or sys.version_info < MINIMUM:
        cannot_run(problem)
    own = own_environment(re.findall(r"^# dependencies = (.+)$", script.read_text(), re.MULTILINE)[0])
    if tried != "own":
        become(own, "own")
    cannot_run(f"{problem}; remove {own}")


def become(environment: Path, name: str) -> None:
    """Go on in that environment, if it is there and can be run."""
    python = environment / "bin" / "python"
    with suppress(OSError):
        os.execve(python, [str(python), *sys.argv], os.environ | {TRIED: name})  # noqa: S606 - that interpreter


def own_environment(releases: str) -> Path:
    """Where upload.py's own environment is; made now, if it is not there yet."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    key = f"{sys.implementation.cache_tag} {sys.base_prefix} {os.uname().machine} {releases}"
    try:
        folder = (Path(cache) if cache.startswith("/") else Path.home() / ".cache") / "chest-xray-upload"
        own = folder / hashlib.sha256(key.encode()).hexdigest()[:12]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not own.exists():
            make_environment(own, json.loads(releases))
        if {folder.stat().st_uid, own.stat().st_uid} != {os.geteuid()}:
            cannot_run(f"{own} is another user's")
    except (OSError, RuntimeError) as problem:  # no folder can be made, or nobody knows of a home
        cannot_run(str(problem))
    return own


def make_environment(own: Path, releases: Sequence[str]) -> None:
    """A virtual environment with these releases; whole, or not there at all."""
    print(f"upload.py: installing {', '.join(releases)} in {own}, once", file=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    work = tempfile.mkdtemp(dir=own.parent)
    try:
        if find_spec("ensurepip") is None:
            cannot_run("Python's own venv is not whole: on Debian and Ubuntu, `apt install python3-venv`")
        # -I: what lies in the current folder is somebody's DICOM files, and no part of Python.
        run([sys.executable, "-I", "-m", "venv", work])
        python = [f"{work}/bin/python", "-I"]
        run([*python, "-m", "pip", "install", "--quiet", "--no-input", "--retries=2", *releases])
        run([*python, "-c", "import pydicom, requests, rich"])
        with suppress(OSError):  # another upload.py was faster
            Path(work).rename(own)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def run(command: Sequence[str]) -> None:
    """Run one step of the installation; standard input is not for it."""
    out = subprocess.PIPE
    done = subprocess.run(command, text=True, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)  # noqa: S603
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or [f"status {done.returncode}"]
        cannot_run(next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1]))


def cannot_run(reason: str) -> NoReturn:
    """Say in one line what is missing."""
    ways = "`pip install pydicom requests rich`, or `uv run upload.py`"
    sentence = f"upload.py needs Python 3.11 with pydicom, requests and rich ({ways}): {reason}"
    print(sentence, file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": sentence}))
    sys.exit(2)


try:
    import pydicom
    import urllib3  # what requests is built on, and all that sending needs
    from pydicom.filereader import read_partial
    from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, get_netrc_auth, select_proxy
    from rich import progress as bars
    from rich.console import Console
    from rich.table import Table

    if sys.version_info < MINIMUM or not hasattr(urllib3, "BaseHTTPResponse"):
        raise ImportError(f"this is Python {sys.version.split()[0]} and urllib3 {version('urllib3')}")
except ImportError as missing:
    if __name__ != "__main__":
        raise
    go_on_with_libraries(str(missing))
os.environ.pop(TRIED, None)

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

What it needs beside Python 3.11 (pydicom, requests, rich) it installs for itself where it is missing, once, in a folder
below ~/.cache/chest-xray-upload (or XDG_CACHE_HOME).

The password comes from --password-file, from CHEST_XRAY_PASSWORD in the environment or from ~/.netrc; else you are
asked for it. REQUESTS_CA_BUNDLE=ca.pem names a certificate authority of your own. NO_COLOR=1 means no colours.

--json prints one object: url, dry_run, seconds, bytes (sent), files and, of these, new, already_there, replaced,
other_content (Orthanc kept its own), refused, not_dicom, dicomdir; problems: a list of name, status and reason; and
results: how many images are done, failed, pending, skipped, not_a_radiograph. If nothing could be done: url, error;
stopped with Ctrl-C: all that is known, and error.

exit status: 0 everything is stored (and classified); 1 something was refused, failed or is still pending, or there was
no DICOM file at all; 2 nothing could be done: a wrong option, a wrong password, or no Orthanc at the address; 130
stopped with Ctrl-C.
"""

ACCOUNT = "chest-xray"  # as the server calls it, unless it is told otherwise
STOPPED = "stopped"
TRIES, BACKOFF = 6, 0.1  # seconds between tries, doubled each time
SECONDS = urllib3.Timeout(connect=10, read=120)
AT_ONCE = 25  # files that one question to Orthanc concerns
HEADER = 512  # so many bytes tell what a file is
MEDIA_STORAGE_DIRECTORY = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10"
PACKERS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz; zstd from Python 3.14 on
LARGEST_MEMBER = 1 << 30  # bytes that a member of an archive may unpack to: far above any radiograph
RATIO = 1000  # times its own size (and LARGEST_MEMBER) may an archive with all that is in it unpack to, against bombs
DEPTH = 3  # archives inside of each other
IN_MEMORY = 1 << 20  # bytes; larger members of archives wait on the disk
ROWS_SHOWN = 50
MODALITIES = ("CR", "DX")
IDENTITY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")  # what Orthanc's ids are made of
LAST_OF_IDENTITY = 0x0020000E
COLUMNS = ["state", "reason", "instance", "created", "warnings", *IDENTITY, "StudyDate", "ViewPosition"]
COLUMNS += ["model_name", "model_version", "model_weights", "model_weights_sha256"]

STDIN = Path("-")
DICOM, DICOMDIR, ZIP, TAR, PACKED, NOT_DICOM = "DICOM", "DICOMDIR", "ZIP", "tar", "packed", "not DICOM"
NEW, KNOWN, REPLACED, OTHER, REFUSED = "new", "already there", "replaced", "other content", "refused"
HELD = (NEW, KNOWN, REPLACED, OTHER)  # of these Orthanc has an image
FILES = (*HELD, REFUSED, NOT_DICOM, DICOMDIR)  # what becomes of a file
IMAGES = ("done", "failed", "pending", "skipped", "not a radiograph")  # and of an image
ALWAYS_SAID = (NEW, KNOWN, REFUSED, NOT_DICOM, "done")
COLOURS = dict.fromkeys((REFUSED, "failed"), "red") | dict.fromkeys((REPLACED, OTHER, "pending"), "yellow")
COLOURS |= dict.fromkeys((NOT_DICOM, "skipped"), "dim")  # what is worth a line, and in which colour


class Stop(Exception):
    """Nothing more can be done; the sentence says why."""


@dataclass(slots=True)
class Item:
    """A file on its way, what is known of the image in it, and what became of it.

    `status` is empty while it is to be sent; `body` is the open file then, and `size` counts the bytes that are sent.
    `instance` is the Orthanc id, empty where it cannot be known; `known` if Orthanc has that already. `answer` is the
    plugin's, as it came.
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
    answer: bytes = b""


@dataclass(slots=True)
class Report:
    """What became of everything: said to people on the way, and to programs at the end."""

    console: Console
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, str]] = field(default_factory=list)
    last_result: float = 0

    def add(self, item: Item) -> None:
        """Count it, and say it in one line if it is a problem."""
        self.counts[item.status] += 1
        if item.status in COLOURS:
            self.problems.append({"name": item.name, "status": item.status, "reason": item.reason})
            self.say(": ".join(filter(None, (item.status, item.name, item.reason))), COLOURS[item.status])

    def say(self, line: str, colour: str | None = None) -> None:
        """Print a line as it is, however long, above a bar that may be there."""
        self.console.out(printable(line), style=colour)

    def summary(self, statuses: Iterable[str]) -> str:
        """How many became what."""
        said = (each for each in statuses if self.counts[each] or each in ALWAYS_SAID)
        return ", ".join(f"{self.counts[each]} {each}" for each in said)

    def as_json(self) -> dict[str, Any]:
        """See EPILOG."""

        def counts(names: Iterable[str]) -> dict[str, int]:
            return {name.lower().replace(" ", "_"): self.counts[name] for name in names}

        return counts(("bytes", "files", *FILES)) | {"problems": self.problems, "results": counts(IMAGES)}


class Server(NamedTuple):
    """An Orthanc, at an address without a slash at its end."""

    url: str
    pool: urllib3.PoolManager

    def ask(self, path: str, method: str = "GET", query: object = None) -> urllib3.BaseHTTPResponse:
        """The answer, to a query in JSON if there is one. Raises Stop if there is none after `TRIES` tries."""
        try:
            return self.pool.request(method, self.url + path, json=query, redirect=False)
        except urllib3.exceptions.HTTPError as problem:
            raise Stop(f"no answer from {self.url}: {cause(problem)}") from None


# The command


def main(args: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    parser = arguments(os.environ)
    options = parser.parse_args(args)
    if not options.paths and not options.files_from:
        parser.error("name a PATH, or - for standard input")
    results = None if options.dry_run else options.results
    width = None if sys.stdout.isatty() else 160
    report = Report(Console(width=width, highlight=False, markup=False, emoji=False, stderr=options.json))
    began, summary = time.monotonic(), {"url": options.url}
    try:
        server = connect(options.url, credentials(options, os.environ), options.connections)
        if results:
            prepare_results(server, results, report)
        stored = send_all(server, options, report)
        if not any(report.counts[each] for each in (*HELD, REFUSED)):
            report.say("There is no DICOM file in what was named.", "yellow")
        if results:
            collect_all(server, options, report, stored)
        summary |= {"dry_run": options.dry_run, "seconds": round(time.monotonic() - began, 2), **report.as_json()}
    except (Stop, OSError) as sentence:  # OSError: the results cannot be written
        print(f"upload.py: {sentence}", file=sys.stderr)
        summary["error"] = str(sentence)
    except KeyboardInterrupt:
        print("upload.py: stopped; run it again: what Orthanc has is not sent again", file=sys.stderr)
        summary |= {"dry_run": options.dry_run, "error": STOPPED, **report.as_json()}
    if options.json:
        print(json.dumps(summary, indent=2))
    return status(summary, report)


def status(summary: Mapping[str, object], report: Report) -> int:
    """The exit status; see EPILOG."""
    if "error" in summary:
        return 130 if summary["error"] == STOPPED else 2
    stored = any(report.counts[each] for each in HELD)
    return int(not stored or any(report.counts[each] for each in (REFUSED, "failed", "pending")))


def arguments(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """The options and their help."""
    about = "Send DICOM files to Orthanc, and fetch what the chest X-ray plugin says of them."
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("upload.py", description=about, epilog=EPILOG, formatter_class=layout)
    add, listed = parser.add_argument, "send what FILE, or -, lists: a path a line, or find -print0"
    add("paths", nargs="*", type=existing, metavar="PATH", help="what to send, see below")
    add("-r", "--recursive", action="store_true", default=True, help="folders with all that is below them (always so)")
    add("--files-from", type=existing, metavar="FILE", help=listed)
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
    add("--user", default=env.get("CHEST_XRAY_USER"), help=f"the account (else CHEST_XRAY_USER, else {ACCOUNT})")
    add("--password-file", type=Path, metavar="FILE", help="a file that holds the password")


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
    """Name and password, or None where nobody gave any. Raises Stop if there is a name and no password."""
    password = env.get("CHEST_XRAY_PASSWORD") or None
    if options.password_file:
        try:
            password = options.password_file.read_text().rstrip("\r\n")
        except (OSError, ValueError) as problem:
            raise Stop(f"no password can be read from {options.password_file}: {cause(problem)}") from None
    in_netrc = get_netrc_auth(options.url)
    if password is not None and (options.user or not in_netrc):
        return options.user or ACCOUNT, password
    if not options.user or (in_netrc and in_netrc[0] == options.user):
        return in_netrc
    if not sys.stdin.isatty():
        raise Stop(f"no password for {options.user}: set CHEST_XRAY_PASSWORD or give --password-file")
    return asked_for(options.user, options.url)


def asked_for(user: str, url: str) -> tuple[str, str]:
    """Name and password, from whoever sits at the terminal. Raises Stop if nobody does so any more."""
    try:
        return user, getpass.getpass(f"Password of {user} at {url}: ")
    except EOFError:
        raise Stop(f"no password for {user}") from None


# The connection


def connect(url: str, account: tuple[str, str] | None, connections: int) -> Server:
    """The Orthanc at `url`; at a terminal, one that wants an account gets it. Raises Stop unless it accepts that."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets with no address of IPv6 in them
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Stop(f"{url} is no address like http://localhost:8042")
    if parts.username is not None:
        raise Stop("the account belongs into --user and CHEST_XRAY_PASSWORD, not into the address")
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if account and parts.scheme == "http" and not local:
        print(f"upload.py: warning: the password goes to {parts.hostname} unencrypted; use https", file=sys.stderr)
    # A proxy for the Internet does not reach this machine's own servers.
    proxy = None if local else select_proxy(url, get_environ_proxies(url))
    server = Server(url.rstrip("/"), connection_pool(account, connections, proxy))
    response = server.ask("/system")
    if response.status == 401 and account:
        raise Stop(f"{server.url} does not accept this password of {account[0]}")
    if response.status == 401 and sys.stdin.isatty():
        return connect(url, asked_for(ACCOUNT, url), connections)
    if response.status == 401:
        raise Stop(f"{server.url} wants a password: set CHEST_XRAY_PASSWORD or give --password-file")
    if elsewhere := response.get_redirect_location():
        raise Stop(f"{server.url} points elsewhere, to {elsewhere}: give that address")
    if "DicomAet" not in json_object(response.data):
        raise Stop(f"{server.url} does not answer as Orthanc does (HTTP {response.status})")
    return server


def connection_pool(account: tuple[str, str] | None, connections: int, proxy: str | None) -> urllib3.PoolManager:
    """Lasting connections, so many at the most."""
    # Orthanc closes connections that are idle for a second, perhaps just as a request sets out on one. Every request
    # may be sent again, POST /instances too: Orthanc finds the second copy to be stored already.
    retries = urllib3.Retry(TRIES - 1, backoff_factor=BACKOFF, allowed_methods=None, status_forcelist=(502, 503, 504))
    retries.raise_on_status = False
    settings: dict[str, Any] = {"maxsize": connections, "block": True, "retries": retries, "timeout": SECONDS}
    settings["ca_certs"] = os.environ.get("REQUESTS_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH
    if account:  # Orthanc reads UTF-8, and urllib3 writes Latin-1
        settings["headers"] = urllib3.make_headers(basic_auth=":".join(account).encode().decode("latin-1"))
    if not proxy:
        return urllib3.PoolManager(**settings)
    who = urllib3.make_headers(proxy_basic_auth=unquote(urllib3.util.parse_url(proxy).auth or ""))
    return urllib3.ProxyManager(proxy, proxy_headers=who, **settings)


def prepare_results(server: Server, folder: Path, report: Report) -> None:
    """Raises Stop, before anything is sent, if there can be no results."""
    response = server.ask("/chest-xray/status")
    if response.status >= 400:
        raise Stop(f"{server.url} has no chest X-ray plugin (HTTP {response.status}): go without --results")
    status = json_object(response.data)
    if not status.get("ready", True):
        report.say(f"The results will have to wait, the classifier is not ready: {status.get('reason')}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Stop(f"{folder} cannot be made: {problem.strerror}") from None


# What there is to send


def contents(options: argparse.Namespace) -> Iterator[Item]:
    """What is to be sent, and what is known not to be."""
    listed = b""
    if options.files_from:
        listed = sys.stdin.buffer.read() if options.files_from == STDIN else options.files_from.read_bytes()
    names = filter(None, listed.split(b"\0" if b"\0" in listed else b"\n"))
    for path in itertools.chain(options.paths, map(Path, map(os.fsdecode, names))):
        yield from standard_input() if path == STDIN else found(path, named=True)


def found(path: Path, named: bool = False) -> Iterator[Item]:
    """What is in a file or a folder, as the disk gives it: no folder is listed as a whole. Leaves links to folders.

    A DICOMDIR that was named stands for what it names; of one in a folder, the files are met anyway.
    """
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) or entry.is_file():
                        yield from found(Path(entry))
        elif named and not path.is_file():
            yield Item(str(path), REFUSED, "is no file" if path.exists() else "is not there")
        elif named and path.name.upper() == DICOMDIR:
            files = list(named_in(path))
            yield Item(str(path), DICOMDIR)
            yield from itertools.chain.from_iterable(map(found, files))
        else:
            body = path.open("rb")
            budget = Budget(LARGEST_MEMBER + RATIO * path.stat().st_size)
            yield from unfold(str(path), kind(body.peek(HEADER)), body, budget)
    except OSError as problem:
        yield Item(str(path), REFUSED, f"cannot be read: {problem.strerror}")
    except Exception as problem:  # whatever a damaged DICOMDIR makes pydicom raise
        yield Item(str(path), REFUSED, f"this DICOMDIR cannot be read: {problem}")


def named_in(dicomdir: Path) -> Iterator[Path]:
    """The files that a DICOMDIR names; a mounted disc may have them in small letters."""
    folder = dicomdir.parent.resolve()
    for record in pydicom.dcmread(dicomdir).DirectoryRecordSequence:
        if name := record.get("ReferencedFileID"):
            parts = [name] if isinstance(name, str) else name
            file, small = folder.joinpath(*parts), folder.joinpath(*map(str.lower, parts))
            if not file.resolve().is_relative_to(folder):
                raise ValueError(f"it names {file}, outside of its folder")
            yield small if small.exists() and not file.exists() else file


def standard_input() -> Iterator[Item]:
    """What comes in: a tar as it comes, and all else once it is there as a whole."""
    body: Any = sys.stdin.buffer
    what = kind(body.peek(HEADER))
    if what not in (TAR, PACKED):
        body = set_aside(body)
        what = kind(body.read(HEADER))
        body.seek(0)
    yield from unfold("standard input", what, body, Budget(float("inf")))


# Archives


def kind(start: bytes) -> str:
    """What a file is, by its first bytes: DICOM, with or without the preamble (Orthanc judges the rest), an archive."""
    bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"  # a first element in group 2 or 8
    if start[128:132] == b"DICM" or bare:
        return DICOMDIR if MEDIA_STORAGE_DIRECTORY in start[:HEADER] else DICOM
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return ZIP
    if start[257:262] == b"ustar":
        return TAR
    return PACKED if start.startswith(PACKERS) else NOT_DICOM


@dataclass(slots=True)
class Budget:
    """How many bytes an archive, with all that is in it, may still unpack to."""

    left: float


def unfold(name: str, what: str, body: Any, budget: Budget, depth: int = 0) -> Iterator[Item]:
    """What is in an open file, which is closed unless it is to be sent: itself, or all that is in an archive."""
    if what == DICOM:
        yield identified(name, body)
        return
    with body:
        if what in (DICOMDIR, NOT_DICOM):
            yield Item(name, what)
            return
        inner = ""
        try:
            if depth == DEPTH:
                raise ValueError("it is inside of too many others")
            for inner, size, opener in members(what, body):
                budget.left -= size
                if budget.left < 0:
                    raise ValueError(f"it unpacks to more than {RATIO} times its size")
                yield from member(f"{name}/{inner}", size, opener, budget, depth + 1)
        except Exception as problem:  # whatever a damaged archive makes a decompressor raise
            alone = what == PACKED and not inner  # packed, but no tar
            yield Item(name, NOT_DICOM) if alone else Item(name, REFUSED, f"cannot be unpacked: {problem}")


def member(name: str, size: int, opener: Callable[[], Any], budget: Budget, depth: int) -> Iterator[Item]:
    """What is in one member of an archive, which is unpacked only if that is worth it."""
    try:
        with opener() as packed:
            what = kind(packed.peek(HEADER))
            wanted = what not in (DICOMDIR, NOT_DICOM)
            if wanted and size > LARGEST_MEMBER:  # zipfile and tarfile stop at the declared size
                raise ValueError(f"it is larger than {LARGEST_MEMBER >> 20} MiB")
            body = set_aside(packed) if wanted else io.BytesIO()
    except Exception as problem:  # damaged, or encrypted
        yield Item(name, REFUSED, f"cannot be unpacked: {problem}")
    else:
        yield from unfold(name, what, body, budget, depth)


def members(what: str, body: Any) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """The files in an archive, those of a tar as they come: name, size, and what opens it."""
    if what == ZIP:
        packed = zipfile.ZipFile(body)
        for entry in packed.infolist():
            if not entry.is_dir():
                yield entry.filename, entry.file_size, partial(packed.open, entry)
        return
    with tarfile.open(fileobj=body, mode="r|*", tarinfo=TarHeader) as archive:
        while header := archive.next():
            archive.members = []  # type: ignore[attr-defined]  # it would remember each
            if header.isreg():
                yield header.name, header.size, partial(archive.extractfile, header)


class TarHeader(tarfile.TarInfo):
    """A header that is refused where the names in it are larger than would fit into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> TarHeader:
        header = super().frombuf(buf, encoding, errors)
        if not header.isreg() and header.size > IN_MEMORY:
            raise tarfile.ReadError("one of its headers is too large")
        return header


def set_aside(packed: Any) -> Any:
    """A file of its own, which can be read twice."""
    body = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed when it is sent
    shutil.copyfileobj(packed, body, IN_MEMORY)
    body.seek(0)
    return body


# What Orthanc has, and what it gets


def identified(name: str, body: Any) -> Item:
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


def looked_up(server: Server, items: Iterator[Item]) -> Iterator[Item]:
    """The same items, with those marked that Orthanc has already: one question for some of them."""
    while group := list(itertools.islice(items, AT_ONCE)):
        ids = [item.instance for item in group if item.instance]
        answer = server.ask("/tools/bulk-content", "POST", {"Resources": ids, "Level": "Instance"}) if ids else None
        # An old Orthanc does not know this, and not everybody may ask it: then all are sent.
        known = {row["ID"] for row in answer.json()} if answer and answer.status < 400 else ()
        for item in group:
            item.known = item.instance in known
            yield item


def send_all(server: Server, options: argparse.Namespace, report: Report) -> dict[str, Item]:
    """Send everything, and say how much became what. Returns the images that Orthanc has now, by their ids."""
    stored: dict[str, Item] = {}
    counts, total = report.counts, None
    if report.console.is_terminal and not options.files_from and STDIN not in options.paths:
        total = sum(map(expected, options.paths))
    work = partial(send, server, options.dry_run, {}, [threading.Lock() for _ in range(64)])
    with progress(report.console) as bar:
        task = bar.add_task("Sending", total=total)
        for item in concurrently(work, looked_up(server, contents(options)), options.connections):
            report.add(item)
            counts.update(files=1, bytes=item.size)
            done = counts["files"]
            bar.update(task, completed=done, total=total and max(total, done), bytes=counts["bytes"])
            if options.results and item.status in HELD and (item.status == REPLACED or item.instance not in stored):
                stored[item.instance] = item
    files = f"{counts['files']} {'file' if counts['files'] == 1 else 'files'}: {report.summary(FILES)}"
    report.say(f"Nothing was sent. Of {files}" if options.dry_run else files)
    return stored


def send(server: Server, dry_run: bool, seen: dict[str, str], locks: Sequence[Any], item: Item) -> Item:
    """POST one file, unless Orthanc has it; `seen` names the files that it has. Raises Stop if Orthanc is gone."""
    if item.status:
        return item
    # Files with the same id wait for each other: what became of the first decides about the second.
    with item.body, locks[hash(item.instance or item.name) % len(locks)]:
        before = seen.get(item.instance, "")
        other = item.known or bool(before)
        try:
            if other and same(server, item):
                item.status = KNOWN
            elif dry_run:
                item.status = OTHER if other else NEW
            else:
                item.status, item.reason = post(server, item, other)
        except OSError as problem:
            item.status, item.reason = REFUSED, f"cannot be read: {problem.strerror}"
        if item.status in (OTHER, REPLACED):
            said = "Orthanc keeps" if item.status == OTHER else "it took the place of"
            item.reason = f"{said} another file with the same identifiers" + (before and f": {before}")
        if item.status in (NEW, KNOWN, REPLACED) and not dry_run:
            seen[item.instance] = item.name
    item.body = None
    if dry_run or item.status in (KNOWN, REFUSED):
        item.size = 0  # of what was sent
    return item


def post(server: Server, item: Item, other: bool) -> tuple[str, str]:
    """POST one file; `other` if Orthanc has this image with other content. Returns its status and the reason."""
    headers, url = {**server.pool.headers, "Content-Length": str(item.size)}, f"{server.url}/instances"
    try:
        response = server.pool.request("POST", url, body=item.body, headers=headers, redirect=False)
    except urllib3.exceptions.HTTPError as problem:
        server.ask("/system")  # is it this file alone, or Orthanc?
        return REFUSED, f"no answer to it after {TRIES} tries: {cause(problem)}"
    answer = json_object(response.data)
    item.instance = str(answer.get("ID", ""))
    became = answer.get("Status")
    if became == "Success":
        return (REPLACED if other else NEW), ""
    if became == "AlreadyStored":
        return (KNOWN if not other and same(server, item) else OTHER), ""
    if became == "FilteredOut":
        return REFUSED, "a filter in Orthanc's configuration does not want it"
    return REFUSED, why(response)


def same(server: Server, item: Item) -> bool:
    """Whether Orthanc has this very file; where it keeps no checksums, the identifiers decide."""
    answer = server.ask(f"/instances/{item.instance}/attachments/dicom/md5")
    item.body.seek(0)
    digest = hashlib.file_digest(item.body, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
    item.body.seek(0)
    return answer.status >= 400 or answer.data.decode() in ("", digest)


# Results


def collect_all(server: Server, options: argparse.Namespace, report: Report, stored: Mapping[str, Item]) -> None:
    """Wait for every result and write it."""
    shown: list[tuple[str, dict[str, Any]]] = []
    report.last_result = time.monotonic()
    with progress(report.console) as bar:
        task = bar.add_task("Reading", total=len(stored))
        work = partial(result, server, report, options.timeout)
        for item in concurrently(work, stored.values(), options.connections):
            bar.advance(task)
            report.add(item)
            if item.answer:
                write(item, options.results, report)
            if item.status == "done" and len(shown) < ROWS_SHOWN:
                shown.append((item.name, json_object(item.answer)))
            item.answer = b""
    write_csv(options.results)
    if shown:
        show(shown, report)
    report.say(f"Results in {options.results}: {report.summary(IMAGES)}")


def result(server: Server, report: Report, patience: float, item: Item) -> Item:
    """What the plugin says of an image, `pending` only if nothing else came of any image for too long."""
    for pause in itertools.chain((0.1, 0.2, 0.4, 0.8), itertools.repeat(1)):
        response = server.ask(f"/instances/{item.instance}/chest-xray")
        answer = json_object(response.data)
        if answer.get("state") != "pending" or time.monotonic() > report.last_result + patience:
            break
        time.sleep(pause)
    item.status, item.reason = answer.get("state", ""), answer.get("reason", "")
    if response.status >= 400 or not item.status:
        item.status, item.reason = "failed", why(response)
    elif item.status != "pending":
        report.last_result = time.monotonic()
        image = answer.get("image") or {}
        item.SOPInstanceUID = image.get("SOPInstanceUID", item.SOPInstanceUID).strip()
        if item.status == "skipped" and image.get("Modality", item.Modality) not in MODALITIES:
            item.status = "not a radiograph"
        else:
            item.answer = response.data
    return item


def write(item: Item, folder: Path, report: Report) -> None:
    """Write the answer as it came, beside that of another image with the same SOPInstanceUID, never over it."""
    name = item.SOPInstanceUID if re.fullmatch(r"[0-9.]{1,64}", item.SOPInstanceUID) else item.instance
    file = folder / f"{name}.json"
    if file.exists() and json_object(file.read_bytes()).get("instance", item.instance) != item.instance:
        file = folder / f"{name}_{item.instance}.json"
        report.say(f"note: {item.name} shares its SOPInstanceUID with another image; its result is in {file.name}")
    file.write_bytes(item.answer)


def write_csv(folder: Path) -> None:
    """Write results.csv over all the JSON files in the folder, with a column for every label that occurs."""
    files = sorted(folder.glob("*.json"))
    labels = dict.fromkeys(label for file in files for label in json_object(file.read_bytes()).get("scores", ()))
    with (folder / "results.csv").open("w", encoding="utf-8", newline="") as output:
        table = csv.DictWriter(output, [*COLUMNS, *labels], extrasaction="ignore")
        table.writeheader()
        for file in files:
            answer = json_object(file.read_bytes())
            if "state" in answer:  # else it is not one of ours
                row = {"SOPInstanceUID": file.stem.partition("_")[0], **answer.get("image", {}), **answer}
                row |= {f"model_{name}": value for name, value in answer.get("model", {}).items()}
                row |= answer.get("scores", {}) | {"warnings": " ".join(answer.get("warnings", ()))}
                table.writerow({name: cell(value) for name, value in row.items()})


def cell(value: Any) -> Any:
    """Text that no spreadsheet takes for a formula: tags are whatever somebody wrote into a file."""
    return f"'{value}" if str(value).startswith(("=", "+", "-", "@", "\t", "\r")) else value


def show(done: Sequence[tuple[str, dict[str, Any]]], report: Report) -> None:
    """Print a table of the highest scores, and what they are not."""
    table = Table("Image", "View", "Warnings", "Highest scores", box=None)
    for name, answer in done:
        scores = sorted(answer["scores"].items(), key=lambda score: -score[1])[:4]
        view, warnings = answer["image"].get("ViewPosition", ""), str(len(answer.get("warnings", ())) or "")
        highest = "   ".join(f"{label} {score:.3f}" for label, score in scores)
        table.add_row(printable(name), printable(view), warnings, highest)
    report.console.print(table)
    if more := report.counts["done"] - len(done):
        report.say(f"... and {more} more in results.csv")
    if any(answer["model"].get("weights") == "stand-in" for _, answer in done):
        stars = "*" * 78
        for line in (stars, "  STAND-IN WEIGHTS: random numbers, no trained model. These scores mean nothing.", stars):
            report.say(line)
    report.say(done[0][1].get("disclaimer", ""))


# Threads, the terminal, and words


def concurrently(work: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """`map` on threads, in order; takes only so many items ahead of the result that is asked for next."""
    waiting: deque[Future[Any]] = deque()
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


def expected(path: Path) -> int:
    """How many files there are, for the bar, as far as is known before archives in folders and tars are read."""
    try:
        if path.is_dir():
            return sum(len(names) for *_, names in os.walk(path))
        if path.name.upper() == DICOMDIR:
            return 1 + len(list(named_in(path)))
        return sum(not entry.is_dir() for entry in zipfile.ZipFile(path).infolist())
    except Exception:  # it is no ZIP, or damaged
        return 1


class Rate(bars.ProgressColumn):
    """Files and megabytes in a second."""

    def render(self, task: bars.Task) -> str:
        rate, megabytes = task.speed or 0, task.fields.get("bytes", 0) / 1e6 / (task.elapsed or 1)
        return f"{rate:.0f}/s" + (f" {megabytes:.1f} MB/s" if megabytes else "")


def progress(console: Console) -> bars.Progress:
    """A bar on a terminal, and nothing elsewhere."""
    columns = "{task.description}", bars.BarColumn(), bars.MofNCompleteColumn(), Rate(), bars.TimeRemainingColumn()
    return bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def printable(text: str) -> str:
    """Text that does nothing to a terminal; file names and tags are whatever somebody made them."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def why(response: urllib3.BaseHTTPResponse) -> str:
    """The server's own reason for an error."""
    answer = json_object(response.data)
    reason = answer.get("Details") or answer.get("error") or answer.get("Message") or response.reason
    if reason == "Inexistent tag":
        reason += ", an identifier such as StudyInstanceUID is missing"
    return f"{reason} (HTTP {response.status})"


def json_object(text: bytes) -> dict[str, Any]:
    """The JSON object in a text; empty where it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def cause(problem: BaseException) -> str:
    """What is at the bottom of a chain of urllib3's exceptions, in the system's words."""
    inner = getattr(problem, "reason", None), problem.__cause__, problem.__context__, *problem.args
    for each in inner:
        if isinstance(each, BaseException):
            return cause(each)
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__


if __name__ == "__main__":
    exit_status = main()
    sys.stdout.flush()
    os._exit(exit_status)  # without waiting for requests that hang
