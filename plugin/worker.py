"""One image after another, in a process of its own: fetch it, analyse it, store the report, mark the image.

Whatever a DICOM file does to a decoder, it does it here. `dispatcher` calls these functions through its pool. Where an
image waits for servers elsewhere, the process has several under way, each in a thread (`classify`).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

from plugin import claims, marks
from plugin.archive import Archive, ArchiveUnavailable, Gone, Refused
from plugin.settings import Connection, Settings

if TYPE_CHECKING:
    from plugin.classifier import Classifier
    from plugin.sr import Document

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h
KEPT, LARGEST = 32 << 20, 16 << 20
"""Bytes that a worker keeps for the next image, and the largest piece among them: enough for an image of 2500x3050.

To have them from the system anew takes 5 ms for one of 2048x2048.
"""
GRACE = 30.0  # seconds beside its time limit that a task may take: to end a process that hangs, to start another one


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one try. `later` means: nothing is wrong with the image, try it again.

    `elsewhere`: another Orthanc on the same database works on it. `alone`: it is to have a worker for itself next time.
    """

    state: Literal["done", "skipped", "failed", "gone", "later"]
    reason: str = ""
    model_unavailable: bool = False
    elsewhere: bool = False
    alone: bool = False
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Of each step, if it is done."""
    took: int = 0
    """Milliseconds, of all of it."""
    servers: Mapping[str, str] = field(default_factory=dict)
    """By address, of inference servers of which there is news: why it cannot be used, or '' if it is used."""


_archive: Archive
_server: str
_settings: Settings
_model_path: Path
_engine: str
_all_cores: int
_threads: ThreadPoolExecutor
_loading = Lock()
_began: float


def begin(connection: Connection, settings: Settings, model_path: Path, engine: str) -> None:
    """Make this process a worker: its limits, and whom to talk to. `engine` is '' if it is to load the model itself."""
    # A process has no other place for what its tasks share.
    global _archive, _server, _settings, _model_path, _engine, _all_cores, _threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Orthanc, which ends us in its own time
    # pydicom's quote what stands in the file, and they would go to Orthanc's log. Threads may leave `catch_warnings` in
    # another order than they entered it, and then another list of filters than this one stays; but each begins with it.
    warnings.simplefilter("ignore")
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash would leave somebody's radiograph on the disk
    settle_memory()
    limit = settings.MemoryLimit << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[variable] = "1"  # the cores are shared out among workers, not within one
    _archive, _settings, _model_path, _engine = Archive(connection), settings, model_path, engine
    _server = claims.name(connection) if connection.shared else ""
    _all_cores = settings.threads
    _threads = ThreadPoolExecutor(settings.in_flight)


def settle_memory(kept: int = KEPT, largest: int = LARGEST) -> None:
    """Have what one image took serve the next, in whichever thread."""
    malloc = ctypes.CDLL(None)
    malloc.mallopt(M_ARENA_MAX, 1)  # else each thread would take 64 MB of addresses or more for itself
    malloc.mallopt(M_TRIM_THRESHOLD, kept)
    malloc.mallopt(M_MMAP_THRESHOLD, largest)


def ready() -> list[Outcome]:
    """Load everything that the first image would wait for."""
    from plugin import analysis, classifier

    _start_clock()
    try:
        for threads in sorted({1, _all_cores}):
            analysis.rehearse(_current_model(threads))
    except classifier.ModelUnavailable as problem:
        return _with_news([Outcome("later", str(problem), model_unavailable=True)])
    return _with_news([Outcome("done")])


def classify(images: Sequence[tuple[str, str]], all_cores: bool) -> list[Outcome]:
    """Classify instances of CR or DX series, each given with the Orthanc id of its study; several at the same time.

    :param all_cores: whether one image may use those of the other workers, which have nothing to do.
    """
    _start_clock()
    if len(images) > 1:
        return _with_news(list(_threads.map(_in_company, images)))
    threads = _all_cores if all_cores else 1
    return _with_news([_tried(lambda: _claimed(*images[0], alone=True, threads=threads))])


def tidy(guest: str, study: str) -> list[Outcome]:
    """Look at a document of ours that others brought into a study."""
    from plugin import filing

    return [_tried(lambda: Outcome("done", "removed" if filing.tidy(_archive, study, guest) else ""))]


def give_up(instance: str, study: str, reason: str) -> list[Outcome]:
    """Mark an image as `failed` that ends its workers; its file is not read again."""
    return [_tried(lambda: _given_up(instance, study, reason))]


def _given_up(instance: str, study: str, reason: str) -> Outcome:
    with _claim(instance):
        return _mark(instance, study, "failed", reason)


def _start_clock() -> None:
    global _began
    _began = time.monotonic()


def _left() -> float:
    """Seconds until what is under way must be done."""
    return _began + _settings.TimeLimit - time.monotonic()


def _with_news(outcomes: list[Outcome]) -> list[Outcome]:
    """Have the first of them tell what has changed about inference servers."""
    if not _settings.Servers:
        return outcomes
    from plugin import classifier, servers

    try:
        model = _current_model()
    except classifier.ModelUnavailable:  # its file was damaged meanwhile; the next task says so
        return outcomes
    news = model.news() if isinstance(model, servers.ServedClassifier) else {}
    return [replace(outcomes[0], servers=news), *outcomes[1:]]


def _in_company(image: tuple[str, str]) -> Outcome:
    """Among others: what fails there may have lacked memory that they took, so nothing is said to have failed yet."""
    try:
        return _tried(lambda: _claimed(*image, alone=False))
    except Exception as problem:
        return Outcome("later", str(problem) or type(problem).__name__, alone=True)


def _tried(task: Callable[[], Outcome]) -> Outcome:
    # Heavy imports happen here, so that a process which is only being started cannot fail or hang in them unseen.
    from plugin import classifier

    began = time.perf_counter()
    try:
        outcome = task()
        return replace(outcome, took=round(1000 * (time.perf_counter() - began)))
    except claims.Taken:
        return Outcome("later", "Another server works on it", elsewhere=True)
    except claims.Finished as elsewhere:
        return Outcome(elsewhere.state, "by another server")
    except Gone:
        return Outcome("gone")
    except ArchiveUnavailable as problem:
        return Outcome("later", str(problem))
    except classifier.ModelUnavailable as problem:
        return Outcome("later", str(problem), model_unavailable=True)


def _claimed(instance: str, study: str, alone: bool, threads: int = 1) -> Outcome:
    model = _current_model(threads)
    with _claim(instance):
        return _classify(instance, study, model, alone, threads)


@contextmanager
def _claim(instance: str) -> Iterator[None]:
    """Where several Orthancs share a database, do it only if no other one does."""
    from plugin import classifier

    if _server:
        claims.claim(_archive, instance, _server, _settings.TimeLimit)
    try:
        yield
    except classifier.ModelUnavailable:
        if _server:
            _archive.unmark(instance)  # another server may have a model
        raise


def _classify(instance: str, study: str, model: Classifier, alone: bool, threads: int) -> Outcome:
    from plugin import analysis, filing, provenance

    created = _now()
    clock = analysis.Stopwatch()
    with clock("fetch"):
        version = _archive.version(instance)
        data = _archive.file(instance)
    try:
        found = analysis.analyse(
            data,
            model,
            created,
            _settings.BodyParts,
            lambda: _archive.decoded(instance) if alone else None,
            _settings.Outputs,
            threads,
        )
        with clock("store"):
            stored = filing.file(_archive, found.documents, study, found.report.image.SOPInstanceUID)
    except analysis.NotClassified as why:
        if why.state == "skipped" and provenance.read(data) and filing.tidy(_archive, study, instance):
            return Outcome("skipped", "It was a copy of a report under another Modality, and was removed")
        if why.state == "failed" and not alone:
            raise
        image = {"image": asdict(why.image)} if why.image else {}
        return _mark(instance, study, why.state, str(why), **image)
    except Refused as why:
        return _mark(instance, study, "failed", str(why), image=asdict(found.report.image))
    milliseconds = {
        "fetch": clock.milliseconds["fetch"],
        **found.milliseconds,
        "store": clock.milliseconds["store"],
    }
    text = marks.mark(
        "done",
        instance,
        created=created.isoformat(),
        **found.report.as_json(),
        activation=found.activation.as_json(),
        sr={
            "instance": stored["sr"],
            "SOPInstanceUID": found.document.SOPInstanceUID,
            "SeriesInstanceUID": found.document.SeriesInstanceUID,
        },
        **_named(found.outputs, stored),
        milliseconds=milliseconds,
        **({"server": _server} if _server else {}),
    )
    try:
        _archive.mark(instance, text)
        if _archive.version(instance) != version:
            _archive.unmark(instance)
            raise Gone(instance)  # other pixels came under the same UIDs meanwhile: they are still to do
    except Gone:
        filing.remove(_archive, stored.values())  # the image is not there any more: leave no report without it
        raise
    return Outcome("done", milliseconds=milliseconds)


def _named(documents: Mapping[str, Document], instances: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """What the mark says of the outputs beside the SR, if there are any."""
    outputs = [
        {
            "kind": kind,
            "instance": instances[kind],
            "SOPInstanceUID": document.SOPInstanceUID,
            "SeriesInstanceUID": document.SeriesInstanceUID,
        }
        for kind, document in documents.items()
    ]
    return {"outputs": outputs} if outputs else {}


def _current_model(threads: int = 1) -> Classifier:
    """The prepared model, read again whenever the file was replaced; with so many threads, if it runs in here."""
    try:
        stat = _model_path.stat()
        version = (stat.st_mtime_ns, stat.st_size)
    except OSError:
        version = (0, 0)  # loading it says in words what is wrong with it
    with _loading:
        return _load(_model_path, version, 1 if _engine or _settings.Servers else threads)


@lru_cache(maxsize=2)  # with one thread, and with all
def _load(path: Path, version: tuple[int, int], threads: int) -> Classifier:
    from plugin import classifier, engine

    if _settings.Servers:
        from plugin import servers

        return servers.load(path, _settings.Servers, _settings.LocalFallback, _left)
    return engine.RemoteClassifier(_engine) if _engine else classifier.load(path, threads)


def _mark(instance: str, study: str, state: Literal["skipped", "failed"], reason: str, **more: object) -> Outcome:
    """Say why there is no report, and withdraw those of pixels that stood under the same identifiers before."""
    from plugin import filing

    with suppress(Refused):  # whatever it is, the image gets its mark
        filing.withdraw(_archive, study, instance)
    _archive.mark(instance, marks.mark(state, instance, reason=reason, created=_now().isoformat(), **more))
    return Outcome(state, reason)


def _now() -> datetime:
    """With the offset of the server's own time zone, to a millisecond."""
    now = datetime.now(UTC).astimezone()
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
