"""`make verify` tells right scores from wrong ones, and both from those that it cannot have."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import imagecodecs
import pytest

from plugin import verify
from plugin.report import Model
from plugin.weights import DEFAULT, KNOWN_SHA256, torchxrayvision
from tests import images, oracle

NAME = "00000001_000.png"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def website(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands in for TorchXRayVision's repository, with a sample image of another patient."""
    folder = tmp_path / "website"
    folder.mkdir()
    png = imagecodecs.png_encode(images.pattern(300, 300, 8, content="collimated"))
    (folder / NAME).write_bytes(png)
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(verify, "SAMPLE", f"http://127.0.0.1:{server.server_port}/{NAME}")
    monkeypatch.setattr(verify, "SAMPLE_SHA256", hashlib.sha256(png).hexdigest())
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def environ(tmp_path: Path, prepared_model: Path, checkpoint: tuple[Path, str], monkeypatch: Any) -> Mapping[str, str]:
    """The stand-in weights, taken for the released ones and prepared already."""
    monkeypatch.setitem(KNOWN_SHA256, DEFAULT, checkpoint[1])
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / prepared_model.name).symlink_to(prepared_model)
    return {"MODEL_FOLDER": str(folder)}


@pytest.fixture
def published(website: Path, densenet: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What TorchXRayVision's own `process_image.py -resize` makes of the sample image."""
    image = torchxrayvision().utils.load_image(str(website / NAME))
    scores = dict(zip(densenet.targets, oracle.scores(densenet, oracle.resize(image)).tolist(), strict=True))
    monkeypatch.setattr(verify, "PUBLISHED", scores)
    return scores


def test_the_published_scores_are_of_the_models_labels(classify: Any) -> None:
    model: Model = classify.model
    assert sorted(verify.PUBLISHED) == sorted(model.labels)


def test_right_scores(
    environ: Mapping[str, str], published: dict[str, float], website: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main(environ) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1 + 18 + 1
    assert "downloaded the first time" in lines[0]
    assert lines[2].split()[:2] == ["Atelectasis", f"{published['Atelectasis']:.7f}"]
    assert lines[-1].endswith("which is within 1e-03.")

    (website / NAME).unlink()  # the second time, nothing is asked of the Internet
    assert verify.main(environ) == 0


def test_wrong_scores(
    environ: Mapping[str, str], published: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    published["Mass"] += 0.002
    assert verify.main(environ) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "The largest difference is 2.0e-03, which is NOT within 1e-03."


def test_another_sample_image_is_not_looked_at(
    environ: Mapping[str, str], website: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (website / NAME).write_bytes(b"another")
    assert verify.main(environ) == 2
    assert sentence(capsys).startswith(f"The sample image {NAME} has the SHA-256 ")
    assert not Path(environ["MODEL_FOLDER"], NAME).exists()


def test_no_sample_image(environ: Mapping[str, str], website: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (website / NAME).unlink()
    assert verify.main(environ) == 2
    assert sentence(capsys).startswith(f"TorchXRayVision's sample image cannot be had from {verify.SAMPLE} (HTTP Error")


def test_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert verify.main({"MODEL_FOLDER": str(tmp_path)}) == 2
    assert sentence(capsys).startswith(f"The weights {DEFAULT} cannot be downloaded from github.com")


def test_other_weights(prepared_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main({"WEIGHTS": "stand-in", "MODEL_FOLDER": str(prepared_model.parent)}) == 2
    assert sentence(capsys) == "There are published scores for densenet121-res224-all alone, not for stand-in."


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1, io.StringIO(captured).readlines()
    return captured.strip()
