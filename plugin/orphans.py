"""Reports whose image is gone: they go, too, since nobody can look at what they describe any more.

What a person verified, revised or wrote stays (`provenance`), and so do reports that came without their images.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from plugin.archive import Archive, Gone, Instance
from plugin.worklist import Worklist


def withdraw(archive: Archive, worklist: Worklist, gone: Collection[str]) -> None:
    """Remove the reports on images that were deleted just now, which the worklist still knows."""
    filed = worklist.filed(gone)
    for one in filed:
        with suppress(Gone):  # the study as a whole, as a rule
            series = [each for each in archive.series_in(one.study) if each.documents]
            others = worklist.filed_in([one.study]) - one.documents
            for found in archive.instances({each for row in series for each in row.instances} - others):
                if _subject(archive, found) == one.SOPInstanceUID != "":
                    archive.delete(found.id)
    for back in archive.instances([one.instance for one in filed]):
        archive.unmark(back.id)  # it came again meanwhile, and its report may be what was removed


def sweep(archive: Archive, worklist: Worklist, page: Sequence[str], say: Callable[[str, Any], None]) -> None:
    """Remove, among series of documents, the reports on images that were deleted when nobody told us."""
    series = {one.id: one for one in archive.series(page) if one.documents}
    named = worklist.filed_in({one.study for one in series.values()})
    for found in archive.instances({one for each in series.values() for one in each.instances} - named):
        if _has_lost_its_image(archive, found, series[found.series].study):
            archive.delete(found.id)
            say("warning", f"Instance {found.id}, a report on an image that is gone, was removed")


def _has_lost_its_image(archive: Archive, document: Instance, study: str) -> bool:
    """Whether it is ours or stood beside its image, and that is not in the study now."""
    if (document.guest and not document.beside) or not (subject := _subject(archive, document)):
        return False
    images = archive.find(subject)
    return all(one.study != study for one in archive.series([image.series for image in images]))


def _subject(archive: Archive, document: Instance) -> str:
    """The SOPInstanceUID of the image that a report is about, '' if it is not ours to remove."""
    from plugin import provenance  # which takes memory, and is seldom needed here

    with suppress(Gone):
        said = provenance.read(archive.file(document.id), document.changed_here)
        return said.image if said else ""
    return ""
