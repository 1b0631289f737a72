"""Where a result's documents go: into the image's own study, in the place of what was said of this image before.

An image has the documents that its mark names. What others brought are guests: Orthanc makes copies when it modifies,
anonymises, merges or splits studies, and people and other servers send theirs. A copy need not stay where its image has
documents of its own, or is not: it would be a second report, or one on pixels which are gone, or a page with a name
that was taken out of the study.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress

from plugin import marks, provenance
from plugin.archive import Archive, ArchiveUnavailable, Gone, Instance, Refused, Series
from plugin.provenance import Provenance
from plugin.sr import Document, on_same_image, report_uid


class TooEarly(ArchiveUnavailable):
    """A guest cannot be removed while Orthanc is copying: its job would end with an error."""


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
    if not stored.new and any(_is_copy(archive, found) for found in archive.instances([stored.instance])):
        archive.delete(stored.instance)
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
            if not on_same_image(found.SOPInstanceUID, report):
                if found.guest:
                    _tidy_later(archive, series, found, source)
            elif not found.guest or _is_copy(archive, found):
                archive.delete(found.id)


def _tidy_later(archive: Archive, series: Sequence[Series], guest: Instance, finished: str) -> None:
    """Now, if that can be; else it comes into Orthanc's change log once more, as if it had just arrived."""
    try:
        _tidy(archive, series, guest, finished)
    except TooEarly:
        if guest.mark:  # it came as an image
            archive.unmark(guest.id)
        else:
            archive.put_beside(guest.id, "")


def tidy(archive: Archive, study: str, guest: str) -> bool:
    """Look at a guest that has arrived in a study; whether it was removed just now.

    One whose image is still to be classified is looked at again then.

    :raises TooEarly: without its having been removed.
    """
    return any(_tidy(archive, archive.series_in(study), found) for found in archive.instances([guest]))


def _tidy(archive: Archive, series: Sequence[Series], guest: Instance, finished: str = "") -> bool:
    """Remove a guest that need not stay; whether that was done just now.

    :param series: all of the study.
    :param finished: the SOPInstanceUID of an image whose documents are known, and the guest is none of them.
    """
    said = provenance.read(archive.file(guest.id), guest.changed_here)
    if not said:
        return False
    radiographs = {one.id for one in series if one.radiographs and not one.documents}
    images = archive.find(said.image) if said.image else []
    here = [image for image in images if image.series in radiographs]
    from_elsewhere = said.unchanged and not guest.changed_here
    if from_elsewhere:  # another server's, which stays, also where its image may still come; or ours, of pixels before
        stays = not any(_replaced(image, guest, said) for image in here)
    else:  # a copy; where its image is still to be classified, it is looked at again then
        stays = said.image != finished and any(not image.mark or _names(image, guest) for image in here)
    if stays:
        if from_elsewhere and here and not guest.beside:
            archive.put_beside(guest.id, here[0].id)
        return False
    if archive.is_copying():
        raise TooEarly("Orthanc is copying or moving studies")
    _restore(archive, said)
    archive.delete(guest.id)
    return True


def _is_copy(archive: Archive, document: Instance) -> bool:
    """Of a document of ours, as others brought it; not one that a person took over."""
    return document.guest and provenance.read(archive.file(document.id), document.changed_here) is not None


def _names(image: Instance, document: Instance) -> bool:
    return any(one["instance"] == document.id for one in marks.documents(image.mark).values())


def _replaced(image: Instance, document: Instance, said: Provenance) -> bool:
    """Whether an image has another document of this kind by the same model."""
    own = marks.documents(image.mark).get(said.kind)
    return bool(own and own["instance"] != document.id and own["SeriesInstanceUID"] == said.SeriesInstanceUID)


def _restore(archive: Archive, said: Provenance) -> None:
    """Have an image classified again whose document was not copied but moved."""
    for found in archive.find(said.image) if said.image else ():
        own = marks.documents(found.mark).get(said.kind)
        if own and not archive.instances([own["instance"]]):
            archive.unmark(found.id)


def remove(archive: Archive, instances: Iterable[str]) -> None:
    """Delete these; those that are gone already do no harm."""
    for instance in instances:
        archive.delete(instance)
