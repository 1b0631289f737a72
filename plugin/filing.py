"""Where a result's documents go: into the image's own study, in the place of what was said of this image before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from plugin.archive import Archive, Refused
from plugin.marks import is_report_uid
from plugin.sr import Document, is_report, on_same_image, report_uid, says_the_same


def file(archive: Archive, documents: Mapping[str, Document], study: str, source: str) -> dict[str, str]:
    """Store the documents, `sr` among them, on the image with the SOPInstanceUID `source`; Orthanc's ids, by kind.

    They take the place of older ones on the same image, whose pixels are gone or are said otherwise about now, and of
    copies, which Orthanc makes when it modifies, anonymises, merges or splits studies.

    :raises Refused: if one cannot be kept there; then none is.
    """
    stored: dict[str, str] = {}
    try:
        for kind, document in documents.items():
            stored[kind] = _store(archive, document, study, source)
    except Refused:
        remove(archive, stored.values())
        raise
    files = [document.data for document in documents.values()]
    for other, uid in archive.documents(study, besides=stored.values()).items():
        if on_same_image(uid, documents["sr"].SOPInstanceUID) or (
            not is_report_uid(uid) and _needless(archive.file(other), files)
        ):
            archive.delete(other)
    return stored


def _needless(copy: bytes, documents: Iterable[bytes]) -> bool:
    return any(says_the_same(copy, document) for document in documents)


def _store(archive: Archive, document: Document, study: str, source: str) -> str:
    """Undone if it landed elsewhere than in the image's study."""
    stored = archive.store(document.data)
    if stored.study != study:
        # What was there before is a rest of a try that was cut short, unless that study has such an image of its own.
        if stored.new or not archive.holds(stored.study, source):
            archive.delete(stored.instance)
        raise Refused(
            "Orthanc reads PatientID in the image's SpecificCharacterSet otherwise than it says: it put the report "
            f"into study {stored.study} instead of the image's own, {study}, and it was removed again"
        )
    return stored.instance


def tidy(archive: Archive, study: str, copy: str) -> bool:
    """Remove a copy of a document, under another SOPInstanceUID; whether that was done.

    A report stays where the study has none that says the same. A picture or a page never stays: a name may be drawn in
    it that was changed or taken out.
    """
    data = archive.file(copy)
    own = [one for one, uid in archive.documents(study, besides=[copy]).items() if is_report_uid(uid)]
    found = not is_report(data) or _needless(data, map(archive.file, own))
    if found:
        archive.delete(copy)
    return found


def withdraw(archive: Archive, study: str, instance: str) -> None:
    """Remove what was filed on pixels that stood under this image's identifiers before. :raises Gone: without it."""
    if documents := archive.documents(study):
        image = report_uid(archive.identity(instance), ())
        remove(archive, [document for document, uid in documents.items() if on_same_image(uid, image)])


def remove(archive: Archive, instances: Iterable[str]) -> None:
    """Delete these; those that are gone already do no harm."""
    for instance in instances:
        archive.delete(instance)
