"""Images that harm whoever reads them: each is tried a few times, ends with a reason, and harms nobody behind it."""

from __future__ import annotations

import random
import re
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from demo.phantoms import to_bytes
from plugin import codestreams
from plugin.analysis import NotClassified, analyse
from plugin.classifier import Classifier
from tests.faults import within
from tests.faults.conftest import FULL, Start
from tests.faults.counting import wait_until_idle
from tests.faults.images import image, images
from tests.faults.mutations import mutations
from tests.pacs import Pacs, wait_for

MUTATIONS = 5000 if FULL else 100
SEED = 20261123
TIME_LIMIT, ATTEMPTS = 5, 2
DEPTH = 40  # Orthanc 1.10 itself ends at 60, with and without a plugin

GIVEN_UP = f"Given up after {ATTEMPTS} tries: "
REASONS = {
    "CRASH": GIVEN_UP + "its worker ended",
    "HANG": GIVEN_UP + "it took longer than the time limit",
    "BLOAT": GIVEN_UP + "it took more memory than the limit",
}


@pytest.mark.parametrize("fault", REASONS)
def test_poison_is_given_up_and_what_is_behind_it_is_done(start: Start, fault: str) -> None:
    limits = {"TimeLimit": TIME_LIMIT, "Attempts": ATTEMPTS, "Workers": 1, "MemoryLimit": 2048}
    with start({"ChestXRay": limits}, **within.environ("poison")) as pacs:
        pacs.wait_until_ready()
        poison = image(0)
        poison.PatientName = fault
        began = time.monotonic()
        instance = pacs.upload(to_bytes(poison))
        behind = [pacs.upload(data) for data in images(5, first=1)]
        for one in behind:
            assert (good := pacs.result(one))["state"] == "done", good
        took = time.monotonic() - began
        result = pacs.result(instance)
        print(f"{fault}: those behind were done after {took:.1f} s; {result['reason']}")
        assert (result["state"], result["reason"].startswith(REASONS[fault])) == ("failed", True), result
        assert pacs.reports_beside(instance) == []
        # Each try may last its time, three seconds until a process that hears nothing is killed, and a restart.
        assert took < ATTEMPTS * (TIME_LIMIT + 3 + 10)
        assert pacs.get("/chest-xray/status")["ready"]


def compressed(side: int, syntax: str, codestream: bytes) -> bytes:
    ds = image(0)
    ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
    ds.Rows = ds.Columns = side
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return to_bytes(ds)


def header_that_claims_gigabytes() -> bytes:
    ds = image(0)
    ds.Rows = ds.Columns = 65535
    return to_bytes(ds)


def codestream_that_claims_gigabytes() -> bytes:
    """JPEG 2000, 200x200 pixels, whose own header says 65535x65535."""
    small = imagecodecs.jpeg2k_encode(np.zeros((200, 200), np.uint16), codecformat="j2k")
    claimed = bytes(small).replace((200).to_bytes(4, "big"), (65535).to_bytes(4, "big"))
    assert claimed != small
    return compressed(200, uid.JPEG2000Lossless, claimed)


def decompression_bomb() -> bytes:
    """JPEG-LS, black: few kilobytes become 400 MB, and several times that before the model sees it."""
    black = np.zeros((14_000, 14_000), np.uint16)
    stream = imagecodecs.jpegls_encode(black, out=8 << 20)
    assert len(stream) < 1 << 20
    return compressed(len(black), uid.JPEGLSLossless, bytes(stream))


def deflated_bomb() -> bytes:
    ds = image(0)
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    ds.add_new(0x00091001, "OB", bytes(256 << 20))
    return to_bytes(ds)


def deeply_nested(depth: int = DEPTH) -> bytes:
    """Sequences in sequences."""
    ds, marker = image(0), b"to be replaced  "
    ds.add_new(0x00091001, "OB", marker)
    begin = b"\x09\x00\x01\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = to_bytes(ds)
    element = b"\x09\x00\x01\x10OB\0\0" + len(marker).to_bytes(4, "little") + marker
    assert element in data
    return data.replace(element, begin * depth + end * depth)


BOMBS = {
    "header": (header_that_claims_gigabytes, "65535 rows"),
    "codestream": (codestream_that_claims_gigabytes, "where the header says 200"),
    "pixels": (decompression_bomb, "Given up after 2 tries: it took more memory than the limit"),
    "deflated": (deflated_bomb, "it took more memory than the limit"),
    "nested": (deeply_nested, ""),
}
SMALL = {"MemoryLimit": 700, "TimeLimit": 20, "Attempts": 2}


def test_bombs_end_in_a_sentence(start: Start) -> None:
    with start({"ChestXRay": SMALL}) as pacs:
        pacs.wait_until_ready()
        for name, (make, word) in BOMBS.items():
            began = time.monotonic()
            instance = pacs.upload(make())
            result = pacs.result(instance, 120)
            took = time.monotonic() - began
            print(f"{name}: {result['state']} after {took:.1f} s, {result.get('reason')}")
            assert result["state"] == ("failed" if word else "done")
            assert word in result.get("reason", "")
            assert "\n" not in result.get("reason", "")
            pacs.session.delete(f"{pacs.url}/instances/{instance}", timeout=10)
        (data,) = images(1, first=1)
        assert pacs.result(pacs.upload(data))["state"] == "done"


def test_a_header_deeper_than_any_stack_is_a_sentence(classify: Classifier) -> None:
    """Here without Orthanc, which does not survive it itself."""
    with pytest.raises(NotClassified, match="header cannot be read"):
        analyse(deeply_nested(5000), classify, datetime.now(UTC))


def test_a_damaged_image_is_an_error_and_never_a_part_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenJPH's errors in the middle of an image were printed, and what it had until there was classified."""
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    whole = imagecodecs.htj2k_encode(np.random.default_rng(1).integers(0, 4096, (64, 64), np.uint16))
    chance, refused = random.Random(SEED), []
    for _ in range(300):
        frame = bytearray(whole)
        frame[chance.randrange(len(frame) - 2)] ^= 1 << chance.randrange(8)
        try:
            codestreams.decode(bytes(frame), uid.HTJ2KLossless, 16, 1)
        except codestreams.UnreadablePixels as problem:
            refused.append(str(problem))
    assert any("ojph error" in sentence for sentence in refused)
    assert ignored == []


def test_a_reason_that_quotes_anything_can_be_logged(start: Start) -> None:
    ds = image(0)
    ds.SOPClassUID = "1.2"
    data = to_bytes(ds)
    element = b"\x08\x00\x16\x00UI\x04\x001.2\x00"
    assert element in data
    with start() as pacs:
        pacs.wait_until_ready()
        companion = pacs.companion().pid
        result = pacs.result(pacs.upload(data.replace(element, b"\x08\x00\x16\x00UI\x04\x001\x00\n2")))
        assert result["state"] == "skipped"
        assert "SOPClassUID is 1\\x00\\n2" in wait_for(lambda: pacs.log() if "skipped" in pacs.log() else None, 5, str)
        assert "was lost" not in pacs.log()
        assert pacs.companion().pid == companion


MODALITY = re.compile(rb"(\x08\0\x60\0(?:CS\x02\0|\x02\0\0\0)|\0\x08\0\x60(?:CS\0\x02|\0\0\0\x02))..", re.DOTALL)
"""The element and its two characters, in either byte order."""


def as_cr(data: bytes) -> bytes:
    """Modality CR, and the SOP class too where it was CT or MR."""
    return re.sub(rb"(1\.2\.840\.10008\.5\.1\.4\.1\.1\.)[24]\0", rb"\g<1>1\0", MODALITY.sub(rb"\1CR", data))


def test_the_files_that_pydicom_ships_all_end_with_a_reason(start: Start) -> None:
    """Malformed, truncated, colour, multi-frame and no images at all, as CR."""
    folder = Path(pydicom.data.__file__).parent / "test_files"
    files = {path.name: as_cr(path.read_bytes()) for path in folder.glob("*.dcm")}
    assert len(files) > 50
    with start() as pacs:
        pacs.wait_until_ready()
        states: dict[str, str] = {}
        for name, data in files.items():
            answer = pacs.session.post(f"{pacs.url}/instances", data=data, timeout=60)
            result: dict[str, Any] = {"state": "refused by Orthanc"}
            if answer.ok:
                result = pacs.result(answer.json()["ID"])
            states[name] = result["state"]
            if states[name] == "done":
                assert result["sr"]["instance"] in pacs.reports_beside(answer.json()["ID"])
            elif answer.ok:
                assert len(result["reason"]) > 10
        print(states)
        assert states["MR_small.dcm"] == "done"
        assert states["JPEG2000.dcm"] == "done"
        assert states["SC_rgb_rle.dcm"] == "skipped"
        assert pacs.get("/chest-xray/status")["ready"]
        assert "Traceback" not in pacs.log()


def memory(pacs: Pacs) -> dict[str, float]:
    """MB of Orthanc, and of all that it started."""
    orthanc = pacs.orthanc().memory_info().rss
    return {"Orthanc": orthanc / 1e6, "ours": sum(one.memory_info().rss for one in pacs.family()) / 1e6}


def test_spoilt_files_all_end_with_a_reason(start: Start) -> None:
    """Orthanc refuses some by itself; every other CR or DX image gets its final state, and memory stays what it is."""
    accepted: set[str] = set()
    refused = 0
    limits = {"TimeLimit": 20, "Attempts": 2}
    with start({"ChestXRay": limits}) as pacs:
        pacs.wait_until_ready()
        measured = []
        for number, data in enumerate(mutations(MUTATIONS, SEED)):
            answer = pacs.session.post(f"{pacs.url}/instances", data=data, timeout=60)
            refused += not answer.ok
            if answer.ok:
                accepted.add(answer.json()["ID"])
            if number in (MUTATIONS // 2, MUTATIONS - 1):
                wait_until_idle(pacs, 0, 600)
                measured.append(memory(pacs))
        states = Counter(final_state(pacs, instance) for instance in accepted)
        print(f"{MUTATIONS} files: {refused} refused by Orthanc, the others {dict(states)}; memory in MB: {measured}")
        assert set(states) <= {"done", "skipped", "failed", "not ours"}
        assert measured[1]["ours"] < measured[0]["ours"] * 1.1 + 20
        assert measured[1]["Orthanc"] < measured[0]["Orthanc"] * 1.1 + 20
        (data,) = images(1, first=999_999)
        assert pacs.result(pacs.upload(data))["state"] == "done"
        log = pacs.log()
        assert "Traceback" not in log
        assert "was lost" not in log
        assert log.count("Chest X-ray: Ready") == 1  # nothing had to be started again


def final_state(pacs: Pacs, instance: str) -> str:
    result = pacs.result(instance)
    if result["state"] != "done" and "created" not in result and "Given up" not in result["reason"]:
        return "not ours"  # what is spoilt is its Modality
    if result["state"] == "done":
        assert len(pacs.reports_beside(instance)) == 1, result
    else:
        assert result["reason"].strip().count("\n") == 0
        assert len(result["reason"]) > 10
    return str(result["state"])
