"""The mark that says what became of an instance: a JSON text in Orthanc's metadata, and nowhere else.

An instance of a CR or DX series without a mark is still to do. Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from math import isfinite
from typing import Any

MODALITIES = ("CR", "DX")
"""Values of Modality whose instances are ours to look at (the SOP class does not decide: see `eligibility`)."""

MANUFACTURER = "orthanc-chest-xray"
"""Manufacturer (0008,0070) of everything that this plugin writes; also how its own objects are recognised."""

SERIES_NUMBERS = {"SR": 9018, "OT": 9019, "DOC": 9020}
"""SeriesNumber of what this plugin writes, by Modality: reports, pictures, and pages."""

METADATA = 4750
"""The metadata's number; orthanc.json gives it a name under `UserMetadata`."""

DECODING = 4752
"""The metadata that stands while Orthanc is decoding an image for us."""

BESIDE = 4753
"""The metadata of another server's report that stays: Orthanc's id of the image beside which it was seen."""

POSITION = 4750
"""The global property that holds the position in Orthanc's change log up to which everything is finished."""

BACKFILL = 4751
"""The global property that holds the dates of an unfinished backfill, as JSON; empty if there is none."""

MOST_BRACKETS = 300
"""Opening ones, of JSON that strangers may have written; a mark has a dozen."""

CLAIMED = "claimed"
"""The state of a claim: in the mark's place, while one of several Orthancs on one database works on the instance."""

NAMES = ("chest-xray", str(METADATA))
"""The name that orthanc.json gives to it, and Orthanc's own where the configuration does not."""


def eligible_modality(modality: str) -> bool:
    """Whether a series of this Modality holds instances that are ours to look at."""
    return modality.strip().upper() in MODALITIES


def may_be_document(manufacturer: str, modality: str, number: str) -> bool:
    """Whether a series may hold what this plugin wrote, or copies in which Manufacturer was replaced."""
    return manufacturer == MANUFACTURER or str(SERIES_NUMBERS.get(modality)) == number


def is_report_uid(uid: str) -> bool:
    """Whether it is a SOPInstanceUID that `content.report_uid` may have made; those of copies are Orthanc's."""
    number = uid.removeprefix("2.25.")
    return uid.startswith("2.25.") and number.isdecimal() and int(number) >> 76 & 0xF == 8


def text_in(metadata: Mapping[str, str]) -> str | None:
    """The mark's text among an instance's metadata, or None."""
    return next((metadata[name] for name in NAMES if name in metadata), None)


def mark_in(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The mark among an instance's metadata, or None where there is none that can be read, or only a claim.

    Anybody with an account can write metadata: what is no result of ours is `failed`, and says so.
    """
    found = read(text_in(metadata) or "")
    if not found or found["state"] == CLAIMED:
        return None
    return found if _is_sound(found) else {"state": "failed", "reason": "Its metadata is no result of this plugin"}


def _is_sound(found: Mapping[str, Any]) -> bool:
    """Whether it has what pages and programs rely on."""
    if found["state"] not in ("done", "skipped", "failed"):
        return False
    if found["state"] == "done" and not {"scores", "image", "model", "sr"} <= found.keys():
        return False
    parts = [
        found.get(name, {}) for name in ("scores", "image", "model", "sr", "activation", "milliseconds", "settings")
    ]
    lists = [found.get(name, []) for name in ("findings", "warnings")]
    return (
        all(isinstance(part, dict) for part in parts)
        and all(isinstance(each, list) for each in lists)
        and all(isinstance(text, str) for text in chain(*lists, parts[1].values(), parts[3].values()))
        and all(isinstance(found.get(name, ""), str) for name in ("instance", "reason", "created"))
        and all(label.isprintable() and type(score) is float and isfinite(score) for label, score in parts[0].items())
    )


def documents(mark: Mapping[str, Any] | None) -> dict[str, dict[str, str]]:
    """What a mark says of the documents that it names, by their kind: Orthanc's id (`instance`), and their UIDs.

    Anybody with an account can write metadata: what does not look like that is passed over.
    """
    report, others = (mark or {}).get("sr"), (mark or {}).get("outputs")
    named = [{"kind": "sr", **report}] if isinstance(report, dict) else []
    named += [one for one in others if isinstance(one, dict)] if isinstance(others, list) else []
    needed = ("kind", "instance", "SeriesInstanceUID")
    return {one["kind"]: one for one in named if all(isinstance(one.get(key), str) for key in needed)}


def read(text: str) -> dict[str, Any] | None:
    """A mark or a claim, or None where the text is neither."""
    try:
        found = parse(text or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) and "state" in found else None


def parse(text: str | bytes) -> Any:
    """JSON of strangers. :raises ValueError: if it is none, or nested so deeply that the parser may end the process.

    Python bounds its own recursion, but the stacks of Orthanc's threads are smaller than that takes.
    """
    text = text.decode() if isinstance(text, bytes) else text
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError("There are too many brackets in it")
    return json.loads(text)


def mark(state: str, instance: str, **more: Any) -> str:
    """The text of a mark: the answer of `GET /instances/{id}/chest-xray`, word for word."""
    return json.dumps({"state": state, "instance": instance, **more}, ensure_ascii=False)
