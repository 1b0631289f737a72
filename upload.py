#!/usr/bin/env python3
"""Send DICOM files, folders and ZIP archives to Orthanc, and fetch what the chest X-ray plugin says of them.

    python upload.py PATH... [--results DIR]

The files go one by one to Orthanc's REST API (POST /instances) over a few lasting connections.
"""

from __future__ import annotations

import argparse
import csv
import getpass
import json
import os
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    python = Path(__file__).resolve().parent / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), *sys.argv])  # noqa: S606 - the project's interpreter, which `make` set up
    print(f"upload.py needs {missing.name}: run `make`, or `pip install requests rich`", file=sys.stderr)
    sys.exit(2)

EPILOG = """\
examples:
  upload.py chest.dcm                        one file, to http://localhost:8042
  upload.py /media/cd archive.zip            a folder with all that is in it, and an archive
  upload.py scans --results out              wait for the scores too: out/results.csv has them all
  upload.py scans --url https://pacs.example.org/orthanc --user anna

The password comes from --password-file, from CHEST_XRAY_PASSWORD in the environment or from ~/.netrc; else you are
asked for it. REQUESTS_CA_BUNDLE=ca.pem names a certificate authority of your own.

exit status: 0 everything is stored (and classified); 1 something was refused, failed or is still pending; 2 nothing
could be done: a wrong option, a wrong password, or no Orthanc at the address.
"""

TRIES = 6
BACKOFF = 0.1
"""Seconds to wait between tries, doubled each time."""
SECONDS = (10, 120)
"""How long to wait for a connection and for an answer."""
HEADER = 512
"""So many bytes tell whether a file is DICOM, and whether it is a DICOMDIR."""
MEDIA_STORAGE_DIRECTORY = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10"
LARGEST_MEMBER = 1 << 30
"""What a member of a ZIP archive may unpack to, in bytes: against ZIP bombs, and far above any radiograph."""
ROWS_SHOWN = 50
MODALITIES = ("CR", "DX")
CSV_ANSWER = ("state", "reason", "instance", "created", "warnings")
CSV_IMAGE = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyDate", "ViewPosition")
CSV_MODEL = ("name", "version", "weights", "weights_sha256")

NEW, KNOWN, REFUSED, NOT_DICOM, DICOMDIR = "new", "already there", "refused", "not DICOM", "DICOMDIR"

T = TypeVar("T")
R = TypeVar("R")


class Stop(Exception):
    """Nothing more can be done; the sentence says why."""


@dataclass(frozen=True, slots=True)
class File:
    """Something to send: its name for the reader, and its bytes."""

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
    """What the plugin answers on an image: the very bytes, and what is in them."""

    name: str
    instance: str
    text: bytes
    answer: Mapping[str, Any]
    SOPInstanceUID: str
    Modality: str


@dataclass(slots=True)
class Patience:
    """How long to wait for the next result; `since` is the moment of the last one."""

    seconds: float
    since: float = field(default_factory=time.monotonic)


class Server(NamedTuple):
    """An Orthanc, at an address without a slash at its end."""

    url: str
    session: requests.Session

    def get(self, path: str) -> requests.Response:
        """Raises Stop if there is no answer after `TRIES` tries."""
        try:
            return self.ask("GET", path)
        except requests.RequestException as problem:
            raise Stop(f"no answer from {self.url}: {cause(problem)}") from None

    def post(self, path: str, body: IO[bytes]) -> requests.Response:
        """Raises requests.RequestException if there is no answer after `TRIES` tries."""
        return self.ask("POST", path, body)

    def ask(self, method: str, path: str, body: IO[bytes] | None = None) -> requests.Response:
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


def main(args: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status."""
    options = arguments(os.environ).parse_args(args)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    try:
        server = connect(options.url, credentials(options, os.environ), options.connections)
        if options.results:
            prepare_results(server, options.results)
        refused, stored = send_all(server, options, console)
        missing = options.results and collect_all(server, options, console, stored)
        return 1 if refused or missing else 0
    except (Stop, OSError) as sentence:  # OSError: the results cannot be written
        print(f"upload.py: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("upload.py: stopped; run it again: what Orthanc already has is recognised", file=sys.stderr)
        return 130


def arguments(env: Mapping[str, str]) -> argparse.ArgumentParser:
    """The options and their help."""
    parser = argparse.ArgumentParser(
        prog="upload.py",
        description="Send DICOM files to Orthanc, and fetch what the chest X-ray plugin says of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("paths", nargs="+", type=existing, metavar="PATH", help="a DICOM file, a folder, or a ZIP archive")
    add_server(parser, env)
    add("--results", type=Path, metavar="DIR", help="wait for the scores; a JSON file per image, and results.csv")
    add("--timeout", type=positive, default=300, metavar="S", help="seconds to wait for the next score (%(default)s)")
    add("--connections", type=positive, default=6, metavar="N", help="files under way at once (%(default)s)")
    return parser


def add_server(parser: argparse.ArgumentParser, env: Mapping[str, str]) -> None:
    """The options that say where Orthanc is and who asks."""
    add, url = parser.add_argument, env.get("ORTHANC_URL") or "http://localhost:8042"
    add("--url", default=url, help="Orthanc's address (else ORTHANC_URL; now %(default)s)")
    add("--user", default=env.get("CHEST_XRAY_USER"), help="the account in Orthanc (else CHEST_XRAY_USER)")
    add("--password-file", type=existing, metavar="FILE", help="a file that holds the password")


def existing(text: str) -> Path:
    """A path at which there is something."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return Path(text)


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


def send_all(server: Server, options: argparse.Namespace, console: Console) -> tuple[int, dict[str, str]]:
    """Send everything. Returns how many were refused, and with --results the Orthanc ids and names of the rest."""
    counts: Counter[str] = Counter()
    stored: dict[str, str] = {}
    with progress(console) as bar:
        task = bar.add_task("Sending", total=sum(1 for path in options.paths for _ in walk(path)))

        def more(files: int) -> None:
            bar.update(task, total=(bar.tasks[task].total or 0) + files)

        items = contents(options.paths, more)
        for sent in concurrently(lambda item: send(server, item), items, options.connections):
            counts[sent.status] += 1
            bar.advance(task)
            if sent.status == REFUSED:
                say(console, f"refused: {sent.name}: {sent.reason}")
            if sent.status == NOT_DICOM:
                say(console, f"not DICOM: {sent.name}")
            if sent.instance and options.results:
                stored.setdefault(sent.instance, sent.name)
    kinds = (NEW, KNOWN, REFUSED, NOT_DICOM, *([DICOMDIR] if counts[DICOMDIR] else []))
    total = counts.total()
    say(
        console,
        f"{total} {'file' if total == 1 else 'files'}: " + ", ".join(f"{counts[kind]} {kind}" for kind in kinds),
    )
    return counts[REFUSED], stored


def send(server: Server, item: File | Sent) -> Sent:
    """POST one file. Raises Stop if Orthanc is gone."""
    if isinstance(item, Sent):
        return item
    try:
        with item.body:
            response = server.post("/instances", item.body)
    except requests.RequestException as problem:
        server.get("/system")  # is it this file alone, or Orthanc?
        return Sent(item.name, REFUSED, f"no answer to it after {TRIES} tries: {cause(problem)}")
    answer = json_object(response.content)
    status = answer.get("Status")
    if status in ("Success", "AlreadyStored"):
        return Sent(item.name, NEW if status == "Success" else KNOWN, instance=str(answer["ID"]))
    if status == "FilteredOut":
        return Sent(item.name, REFUSED, "a filter in Orthanc's configuration does not want it")
    return Sent(item.name, REFUSED, why(response))


def walk(path: Path) -> Iterator[Path | Sent]:
    """The files under a path, as the disk gives them: no folder is listed as a whole. Leaves links to folders."""
    if not path.is_dir():
        yield path if path.is_file() else Sent(str(path), REFUSED, "is no regular file")
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
    """What is to be sent, and what is known not to be; `more` learns how many files an archive adds."""
    for found in (found for path in paths for found in walk(path)):
        if isinstance(found, Sent):
            yield found
            continue
        try:
            body = found.open("rb")
            if body.peek(4).startswith((b"PK\3\4", b"PK\5\6")):
                with body:
                    yield from members(found, body, more)
            else:
                yield recognised(str(found), body)
        except OSError as problem:
            yield Sent(str(found), REFUSED, f"cannot be read: {problem.strerror}")
        except zipfile.BadZipFile as problem:
            yield Sent(str(found), REFUSED, f"cannot be unpacked: {problem}")


def members(path: Path, body: IO[bytes], more: Callable[[int], None]) -> Iterator[File | Sent]:
    """The files in a ZIP archive, one by one, so that each gets its own answer."""
    with zipfile.ZipFile(body) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        more(len(entries) - 1)
        for entry in entries:
            name = f"{path}/{entry.filename}"
            try:
                with archive.open(entry) as member:
                    found = recognised(name, member)
                    if isinstance(found, File):
                        found = File(name, unpacked(member, entry.file_size))
            except Exception as problem:  # whatever a damaged or encrypted archive makes a decompressor raise
                found = Sent(name, REFUSED, f"cannot be unpacked: {problem}")
            yield found


def recognised(name: str, body: IO[bytes]) -> File | Sent:
    """The file if it begins like DICOM, with or without the preamble; Orthanc judges the rest."""
    start = body.read(HEADER)
    body.seek(0)
    bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"  # a first element in group 2 or 8
    if start[128:132] != b"DICM" and not bare:
        body.close()
        return Sent(name, NOT_DICOM)
    if MEDIA_STORAGE_DIRECTORY in start:
        body.close()
        return Sent(name, DICOMDIR)
    return File(name, body)


def unpacked(member: IO[bytes], size: int) -> IO[bytes]:
    """A member as a file of its own, which can be sent twice. Raises ValueError if it is too large."""
    if size > LARGEST_MEMBER:  # zipfile stops at the declared size
        raise ValueError(f"it is larger than {LARGEST_MEMBER >> 20} MiB")
    body = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is sent
    shutil.copyfileobj(member, body, 1 << 20)
    body.seek(0)
    return body


def collect_all(server: Server, options: argparse.Namespace, console: Console, stored: Mapping[str, str]) -> int:
    """Wait for every result and write it. Returns how many images have none."""
    counts: Counter[str] = Counter()
    shown: list[Result] = []
    patience = Patience(options.timeout)
    status = json_object(server.get("/chest-xray/status").content)
    if not status.get("ready", True):
        say(console, f"The classifier is not ready: {status.get('reason')}. Waiting for it.")
    with progress(console) as bar:
        task = bar.add_task("Reading", total=len(stored))
        results = concurrently(
            lambda item: result(server, item[0], item[1], patience), stored.items(), options.connections
        )
        for found in results:
            bar.advance(task)
            state = found.answer["state"]
            if state == "skipped" and found.Modality not in MODALITIES:
                state = "not a radiograph"
            counts[state] += 1
            if state in ("failed", "pending", "skipped"):
                say(console, f"{state}: {found.name}: {found.answer.get('reason', '')}")
            if state in ("done", "failed", "skipped") and found.text:
                write(found, options.results, console)
            if state == "done" and len(shown) < ROWS_SHOWN:
                shown.append(found)
    write_csv(options.results)
    show(shown, counts["done"], console)
    kinds = ("done", "failed", "pending", "skipped", "not a radiograph")
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if kind == "done" or counts[kind])
    say(console, f"Results in {options.results}: {summary}")
    return counts["failed"] + counts["pending"]


def result(server: Server, instance: str, name: str, patience: Patience) -> Result:
    """What the plugin says of an image, `pending` only if nothing else came of any image for too long."""
    pause = 0.1
    while True:
        response = server.get(f"/instances/{instance}/chest-xray")
        answer = json_object(response.content)
        if not response.ok or "state" not in answer:
            return Result(name, instance, b"", {"state": "failed", "reason": why(response)}, "", "")
        if answer["state"] != "pending":
            break
        if time.monotonic() > patience.since + patience.seconds:
            return Result(name, instance, b"", answer, "", "")
        time.sleep(pause)
        pause = min(2 * pause, 1)
    patience.since = time.monotonic()
    image = answer.get("image") or main_tags(server, instance)
    return Result(name, instance, response.content, answer, image["SOPInstanceUID"], image["Modality"])


def main_tags(server: Server, instance: str) -> dict[str, str]:
    """The SOPInstanceUID and the Modality of an instance, from Orthanc's index."""
    tags = {"SOPInstanceUID": "", "Modality": ""}
    for path in (f"/instances/{instance}", f"/instances/{instance}/series"):
        tags |= json_object(server.get(path).content).get("MainDicomTags", {})
    return tags


def write(found: Result, folder: Path, console: Console) -> None:
    """Write the answer as it came, beside that of another image with the same SOPInstanceUID, never over it."""
    uid = found.SOPInstanceUID.strip()
    name = uid if re.fullmatch(r"[0-9.]{1,64}", uid) else found.instance
    file = folder / f"{name}.json"
    if file.exists() and json_object(file.read_bytes()).get("instance", found.instance) != found.instance:
        file = folder / f"{name}_{found.instance}.json"
        say(console, f"note: {found.name} shares its SOPInstanceUID with another image; its result is in {file.name}")
    file.write_bytes(found.text)


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


def show(results: Sequence[Result], count: int, console: Console) -> None:
    """Print a table of the highest scores, and what they are not."""
    if not results:
        return
    table = Table("Image", "View", "Highest scores", box=None)
    for found in results:
        scores = sorted(found.answer["scores"].items(), key=lambda item: -item[1])[:4]
        image = printable(found.name), printable(found.answer["image"].get("ViewPosition", ""))
        table.add_row(*map(Text, image), Text("   ".join(f"{label} {score:.3f}" for label, score in scores)))
    console.print(table)
    if count > len(results):
        say(console, f"... and {count - len(results)} more in results.csv")
    if any(found.answer["model"].get("weights") == "stand-in" for found in results):
        stars = "*" * 78
        say(
            console,
            f"{stars}\n  STAND-IN WEIGHTS: random numbers, no trained model. These scores mean nothing.\n{stars}",
        )
    say(console, results[0].answer.get("disclaimer", ""))


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
        pool.shutdown(cancel_futures=True)


def progress(console: Console) -> Progress:
    """A bar on a terminal, and nothing elsewhere."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def say(console: Console, line: str) -> None:
    """Print a line as it is, however long, above a bar that may be there."""
    console.out("\n".join(map(printable, line.split("\n"))))


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
    sys.exit(main())
