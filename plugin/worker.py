"""One image after another, in a process of its own: fetch it, analyse it, store the report, mark the image.

Whatever a DICOM file does to a decoder, it does it here. `dispatcher` calls these functions through its pool.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plugin import marks
from plugin.archive import Archive, ArchiveUnavailable, Gone, Refused
from plugin.settings import Connection, Settings

if TYPE_CHECKING:
    from plugin.classifier import Classifier
    from plugin.sr import Document

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one try. `later` means: nothing is wrong with the image, try it again."""

    state: Literal["done", "skipped", "failed", "gone", "later"]
    reason: str = ""
    model_unavailable: bool = False


_archive: Archive
_settings: Settings
_model_path: Path
_engine: str


def begin(connection: Connection, settings: Settings, model_path: Path, engine: str) -> None:
    """Make this process a worker: its limits, and whom to talk to. `engine` is '' if it is to load the model itself."""
    global _archive, _settings, _model_path, _engine  # a pool's process has no other place for what its tasks share
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Orthanc, which ends us in its own time
    warnings.simplefilter("ignore")  # pydicom's quote what stands in the file, and they would go to Orthanc's log
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    limit = settings.MemoryLimit << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[variable] = "1"  # the cores are shared out among workers, not within one
    _archive, _settings, _model_path, _engine = Archive(connection), settings, model_path, engine


def ready() -> Outcome:
    """Load everything that the first image would wait for."""
    from plugin import analysis, classifier

    try:
        analysis.rehearse(_current_model())
    except classifier.ModelUnavailable as problem:
        return Outcome("later", str(problem), model_unavailable=True)
    return Outcome("done")


def classify(instance: str, study: str) -> Outcome:
    """Classify one instance of a CR or DX series whose study has the Orthanc id `study`."""
    # Heavy imports happen here, so that a process which is only being started cannot fail or hang in them unseen.
    from plugin import classifier

    try:
        return _classify(instance, study)
    except Gone:
        return Outcome("gone")
    except ArchiveUnavailable as problem:
        return Outcome("later", str(problem))
    except classifier.ModelUnavailable as problem:
        return Outcome("later", str(problem), model_unavailable=True)


def _classify(instance: str, study: str) -> Outcome:
    from plugin import analysis

    model = _current_model()
    created = _now()
    clock = analysis.Stopwatch()
    with clock("fetch"):
        version = _archive.version(instance)
        data = _archive.file(instance)
    try:
        found = analysis.analyse(
            data, model, created, _settings.BodyParts, lambda: _archive.decoded(instance), _settings.Outputs
        )
        with clock("store"):
            stored = _store_all({"sr": found.document, **found.outputs}, study)
    except analysis.NotClassified as why:
        image = {"image": asdict(why.image)} if why.image else {}
        return _mark(instance, why.state, str(why), **image)
    except Refused as why:
        return _mark(instance, "failed", str(why), image=asdict(found.report.image))
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
        milliseconds={
            "fetch": clock.milliseconds["fetch"],
            **found.milliseconds,
            "store": clock.milliseconds["store"],
        },
    )
    try:
        _archive.mark(instance, text)
        if _archive.version(instance) != version:
            _archive.unmark(instance)
            raise Gone(instance)  # other pixels came under the same UIDs meanwhile: they are still to do
    except Gone:
        for report in stored.values():
            _archive.delete(report)  # the image is not there any more: leave no report without it
        raise
    return Outcome("done")


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


def _current_model() -> Classifier:
    """The prepared model, read again whenever the file was replaced."""
    try:
        stat = _model_path.stat()
        version = (stat.st_mtime_ns, stat.st_size)
    except OSError:
        version = (0, 0)  # loading it says in words what is wrong with it
    return _load(_model_path, version)


@lru_cache(maxsize=1)
def _load(path: Path, version: tuple[int, int]) -> Classifier:
    from plugin import classifier, engine

    return engine.RemoteClassifier(_engine) if _engine else classifier.load(path)


def _store_all(documents: Mapping[str, Document], study: str) -> dict[str, str]:
    """Store the report and what says the same beside it; Orthanc's ids, or nothing at all."""
    stored: dict[str, str] = {}
    try:
        for kind, document in documents.items():
            stored[kind] = _store(document, study)
    except Refused:
        for instance in stored.values():
            _archive.delete(instance)
        raise
    return stored


def _store(document: Document, study: str) -> str:
    """Store the report in the image's study and give its Orthanc id; undo it if it landed elsewhere.

    It takes the place of an older one on the same image, whose pixels are gone or are said otherwise about now.
    """
    from plugin.sr import on_same_image

    stored = _archive.store(document.data)
    if stored.study != study:
        if stored.new:
            _archive.delete(stored.instance)
        raise Refused(
            "Orthanc reads PatientID in the image's SpecificCharacterSet otherwise than it says: it put the report "
            f"into study {stored.study} instead of the image's own, {study}, and it was removed again"
        )
    for other, uid in _archive.siblings(stored).items():
        if on_same_image(uid, document.SOPInstanceUID):
            _archive.delete(other)
    return stored.instance


def _mark(instance: str, state: Literal["skipped", "failed"], reason: str, **more: object) -> Outcome:
    _archive.mark(instance, marks.mark(state, instance, reason=reason, created=_now().isoformat(), **more))
    return Outcome(state, reason)


def _now() -> datetime:
    """With the offset of the server's own time zone, to a millisecond."""
    now = datetime.now(UTC).astimezone()
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
