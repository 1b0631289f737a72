"""The model's file, missing, spoilt and replaced while Orthanc runs: the work waits, and nobody restarts anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.faults.conftest import Start
from tests.faults.counting import wait_until_idle
from tests.faults.images import images
from tests.pacs import IMAGE, wait_for

has_torch = pytest.mark.skipif(bool(IMAGE), reason="the image has no torch: its model was made when it was built")


@pytest.fixture
def model(tmp_path: Path, prepared_model: Path) -> Path:
    """A copy of the prepared model, for this test alone."""
    (tmp_path / "models").mkdir()
    return Path(shutil.copy(prepared_model, tmp_path / "models"))


@pytest.fixture
def environ(model: Path, checkpoint: tuple[Path, str]) -> dict[str, str]:
    """Another model cannot be made: the checkpoint is not there."""
    return {"MODEL_FOLDER": str(model.parent), "WEIGHTS": "/nowhere/weights.pt", "WEIGHTS_SHA256": checkpoint[1]}


def put(path: Path, data: bytes) -> None:
    """As a careful operator does it: at once, or not at all."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (Path.unlink, "The model could not be prepared: The weights /nowhere/weights.pt are no file"),
    "empty": (lambda path: put(path, b""), "is not a whole ONNX model"),
    "cut short": (lambda path: put(path, path.read_bytes()[:1_000_000]), "is not a whole ONNX model"),
    "garbage": (lambda path: put(path, b"garbage" * 1000), "is not a whole ONNX model"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_model_that_breaks_while_it_is_in_use(start: Start, model: Path, environ: dict[str, str], name: str) -> None:
    spoil, reason = BREAKS[name]
    whole = model.read_bytes()
    with start(**environ) as pacs:
        pacs.wait_until_ready()
        before, during = images(2)
        pacs.result(pacs.upload(before))
        spoil(model)
        instance = pacs.upload(during)

        def explained() -> dict[str, Any] | None:
            status: dict[str, Any] = pacs.get("/chest-xray/status")
            return status if reason in status["reason"] and status["pending"] == 1 else None

        wait_for(explained, 60, pacs.log)  # the list follows a moment later
        waiting = pacs.get(f"/instances/{instance}/chest-xray")
        assert (waiting["state"], reason in waiting["reason"]) == ("pending", True)
        put(model, whole)
        assert pacs.result(instance, 120)["state"] == "done"
        wait_until_idle(pacs, 2)


@pytest.mark.parametrize("engine", ["onnx", pytest.param("torch-cpu", marks=has_torch)])
def test_a_model_that_is_replaced_is_used_from_the_next_image_on(
    start: Start, model: Path, environ: dict[str, str], engine: str
) -> None:
    with start({"ChestXRay": {"Engine": engine}}, **environ) as pacs:
        pacs.wait_until_ready()
        before, after = images(2)
        assert pacs.result(pacs.upload(before))["model"]["version"] != "next"
        put(model, renamed(model.read_bytes()))
        assert pacs.result(pacs.upload(after), 120)["model"]["version"] == "next"


def renamed(data: bytes) -> bytes:
    """The same model, said to be of another version."""
    exported = onnx.load_from_string(data)
    for entry in exported.metadata_props:
        if entry.key == "version":
            entry.value = "next"
    return bytes(exported.SerializeToString())


@has_torch
def test_what_prepares_a_model_ends_with_orthanc(start: Start, tmp_path: Path) -> None:
    """It takes half a minute at least, and asks nobody meanwhile."""
    with start(MODEL_FOLDER=str(tmp_path / "none")) as pacs:
        wait_for(lambda: any("plugin.weights" in one.cmdline() for one in pacs.family()) or None, 20, pacs.log)
        pacs.kill()  # which looks for what is left
        pacs.start()
