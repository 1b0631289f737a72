"""Where a result's documents go: into the image's own study, in the place of what was said of this image before.

An image has the documents that its mark names. Others are guests: Orthanc makes copies when it modifies, anonymises,
merges or splits studies, and people and other servers send theirs. A copy need not stay where its image has documents
of its own, or is not: it would be a second report, or one on pixels which are gone, or a page with a name that was
taken out of the study.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from plugin import marks, provenance
from plugin.archive import Archive, Gone, Instance, Refused, Series
from plugin.provenance import Provenance
from plugin.sr import Document, on_same_image, report_uid


def file(archive: Archive, documents: Mapping[str, Document], study: str, source: str) -> dict[str, str]:
    """Store the documents, `sr` among them, on the image with the SOPInstanceUID `source`; Orthanc's ids, by kind.

    :raises Refused: if one cannot be kept there; then none is.
    """
    stored: dict[str, str] = {}
    try:
        for kind, document in documents.items():
            stored[kind] = _store(archive, document, study, source)
    except Refused:
        remove(archive, stored.values())
        raise
    _clear(archive, archive.series_in(study), source, documents["sr"].SOPInstanceUID, stored.values())
    return stored


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


def withdraw(archive: Archive, study: str, instance: str) -> None:
    """Remove what is said of an image that has no result now. :raises Gone: without it."""
    series = archive.series_in(study)
    if any(one.documents for one in series):
        image = archive.identity(instance)
        _clear(archive, series, image[1], report_uid(image, ()), ())


def _clear(archive: Archive, series: Sequence[Series], source: str, report: str, own: Collection[str]) -> None:
    """Of a study's documents, remove those on the image `source` that are not its own, and guests that need not stay.

    :param report: the SOPInstanceUID of a report on this image, whichever.
    """
    documents = [document for one in series if one.documents for document in one.instances if document not in own]
    for found in archive.instances(documents):
        with suppress(Gone):
            if on_same_image(found.SOPInstanceUID, report) or (
                found.guest and _needless(archive, series, found, source)
            ):
                archive.delete(found.id)


def tidy(archive: Archive, study: str, guest: str) -> bool:
    """Look at a guest that has arrived in a study; whether it was removed just now."""
    for found in archive.instances([guest]):
        if said := _needless(archive, archive.series_in(study), found):
            archive.delete(guest)
            _restore(archive, said.image)
            return True
    return False


def _needless(archive: Archive, series: Sequence[Series], guest: Instance, finished: str = "") -> Provenance | None:
    """What a guest in a study of these series says, if it need not stay.

    :param finished: the SOPInstanceUID of an image whose documents are known, and the guest is none of them.
    """
    said = provenance.read(archive.file(guest.id))
    if not said or (said.unchanged and not guest.changed_here):
        return None  # another server's, whose image may still come: if it does, there is a report of its own
    radiographs = {one.id for one in series if one.radiographs}
    images = archive.find(said.image) if said.image else []
    if here := [image for image in images if image.series in radiographs]:
        stays = said.image != finished and any(
            not image.mark or guest.id in marks.documents(image.mark) for image in here
        )
    else:
        stays = said.scores and not (images or radiographs or guest.changed_here)
    return None if stays else said


def _restore(archive: Archive, image: str) -> None:
    """Have an image classified again whose documents were not copied but moved."""
    for found in archive.find(image) if image else ():
        documents = marks.documents(found.mark or {})
        if len(archive.instances(documents)) < len(documents):
            archive.unmark(found.id)


def remove(archive: Archive, instances: Iterable[str]) -> None:
    """Delete these; those that are gone already do no harm."""
    for instance in instances:
        archive.delete(instance)
