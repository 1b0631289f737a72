"""Weights are verified before they are opened, prepared once, and refused with one sentence."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import requests

from plugin import classifier, scratch, stand_in, weights
from plugin.weights import DEFAULT, KNOWN_SHA256, WeightsUnavailable, prepare, torchxrayvision
from tests import oracle
from tests.pacs import wait_for

URL = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"


class Bomb:
    """A pickle that creates a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(autouse=True)
def no_earlier_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes, length: int | None = None) -> list[str]:
    """Have TorchXRayVision's downloader receive `content`; returns the list of the addresses that it asks."""
    asked = []

    def get(url: str, **_: Any) -> requests.Response:
        asked.append(url)
        response = requests.Response()
        response.status_code = 200
        response.url = url
        response.headers["content-length"] = str(len(content) if length is None else length)
        response.raw = io.BytesIO(content)
        if length is not None:
            raise requests.exceptions.ChunkedEncodingError("Connection broken")
        return response

    monkeypatch.setattr(torchxrayvision().utils.requests, "get", get)
    return asked


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_released_name_is_downloaded_verified_and_exported(
    monkeypatch: pytest.MonkeyPatch, folder: Path, checkpoint: tuple[Path, str]
) -> None:
    asked = serve(monkeypatch, checkpoint[0].read_bytes())
    monkeypatch.setitem(KNOWN_SHA256, DEFAULT, checkpoint[1])
    path = prepare(DEFAULT, "", folder)
    assert asked == [
        URL + "nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
    ]
    model = classifier.load(path).model
    assert (model.name, model.weights_sha256, model.weights) == (DEFAULT, checkpoint[1], "trained")
    assert left_in(folder) == [path.name, asked[0].removeprefix(URL)]

    path.unlink()  # prepared again from the kept download
    assert prepare(DEFAULT, "", folder) == path
    assert len(asked) == 1


def test_a_model_with_fewer_labels(
    monkeypatch: pytest.MonkeyPatch, folder: Path, checkpoint: tuple[Path, str], tmp_path: Path
) -> None:
    serve(monkeypatch, checkpoint[0].read_bytes())
    name = "densenet121-res224-rsna"
    classify = classifier.load(prepare(name, checkpoint[1], folder))
    assert classify.model.name == name
    assert [label for label in classify.model.labels if label] == ["Pneumonia", "Lung Opacity"]
    scores = classify(stand_in.plausible_inputs(1)).scores[0]
    unknown = [not label for label in classify.model.labels]
    assert (scores[unknown] == 0.5).all()
    assert (scores[~np.array(unknown)] != 0.5).all()


def test_a_path_and_the_cache(folder: Path, checkpoint: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    shutil.copyfile(*map(str, (checkpoint[0], path)))
    prepared = prepare(str(path), checkpoint[1].upper(), folder)
    assert classifier.load(prepared).model.weights == "stand-in"  # the checkpoint itself says so
    path.unlink()
    assert prepare(str(path), checkpoint[1], folder) == prepared
    assert left_in(folder) == [prepared.name]


def test_a_prepared_model_is_found_without_torch(prepared_model: Path) -> None:
    program = f"""
import sys
import time
from pathlib import Path
from plugin.weights import main
status = main(["prepare", "--weights", "stand-in", "--folder", {str(prepared_model.parent)!r}])
sys.exit(status or "torch" in sys.modules or "onnxruntime" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{prepared_model}\n"


def test_the_exported_model_holds_no_program(prepared_model: Path) -> None:
    session = onnxruntime.InferenceSession(str(prepared_model))
    assert [tensor.name for tensor in session.get_outputs()] == ["scores", "activation"]
    assert b"torchxrayvision.models" not in prepared_model.read_bytes()


@pytest.mark.parametrize("name", ["densenet121-res224-nih", __file__])
def test_a_hash_is_required(folder: Path, name: str) -> None:
    with pytest.raises(WeightsUnavailable, match=rf"^WEIGHTS_SHA256 is required for {name}"):
        prepare(name, "", folder)


def test_what_is_neither_a_name_nor_a_file_is_said(folder: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"^The weights densnet are no file, no DenseNet of TorchXRayVision"):
        prepare("densnet", "", folder)


def test_a_folder_that_cannot_be_written_to_is_said_in_the_same_words_each_time() -> None:
    with pytest.raises(WeightsUnavailable, match=r"^/proc: [\w ]+\.$"):
        prepare(__file__, "ab" * 32, Path("/proc"))


def test_no_network(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(WeightsUnavailable, match=r"^The weights .* cannot be downloaded from github.com \(Proxy"):
        prepare(DEFAULT, "", folder)
    assert left_in(folder) == []


def test_a_download_that_breaks_off(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    serve(monkeypatch, b"half", length=28_382_008)
    with pytest.raises(WeightsUnavailable, match="ChunkedEncodingError"):
        prepare(DEFAULT, "", folder)
    assert left_in(folder) == []


def test_a_download_with_another_hash_is_not_opened_and_does_not_stay(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path, checkpoint: tuple[Path, str]
) -> None:
    serve(monkeypatch, pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(WeightsUnavailable, match=f"{URL}.* was not opened: .* not {KNOWN_SHA256[DEFAULT]}"):
        prepare(DEFAULT, "", folder)
    assert not (tmp_path / "exploded").exists()
    assert left_in(folder) == []

    serve(monkeypatch, checkpoint[0].read_bytes())  # the next try is a new one
    assert prepare(DEFAULT, checkpoint[1], folder).is_file()


def test_a_malicious_file_in_torchxrayvisions_own_cache_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path, checkpoint: tuple[Path, str]
) -> None:
    xrv = torchxrayvision()
    cached = Path(xrv.utils.get_cache_dir(), Path(xrv.models.model_urls[DEFAULT]["weights_url"]).name)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    serve(monkeypatch, checkpoint[0].read_bytes())
    assert prepare(DEFAULT, checkpoint[1], folder).is_file()
    assert not (tmp_path / "exploded").exists()


def test_a_path_with_another_hash_is_not_opened(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "malicious.pt"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(WeightsUnavailable, match=r"malicious\.pt was not opened: its \d+ bytes have the SHA-256"):
        prepare(str(path), "0" * 64, folder)
    assert not (tmp_path / "exploded").exists()
    assert left_in(folder) == []


def test_the_bomb_would_explode(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


def test_a_truncated_checkpoint(folder: Path, tmp_path: Path, checkpoint: tuple[Path, str]) -> None:
    path = tmp_path / "half.pt"
    path.write_bytes(checkpoint[0].read_bytes()[:14_000_000])
    with pytest.raises(WeightsUnavailable, match="was not opened: its 14000000 bytes"):
        prepare(str(path), checkpoint[1], folder)
    with pytest.raises(WeightsUnavailable, match="is not one of TorchXRayVision's DenseNet121"):
        prepare(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), folder)
    assert left_in(folder) == []


@pytest.mark.parametrize("name", ["nowhere.pt", "densenet121-res224-mars", "resnet50-res512-all"])
def test_weights_that_do_not_exist(folder: Path, name: str) -> None:
    with pytest.raises(WeightsUnavailable, match=f"weights {name}"):
        prepare(name, "0" * 64, folder)


def test_what_killed_preparations_left_goes_at_the_next_and_what_another_one_uses_stays(
    folder: Path, prepared_model: Path
) -> None:
    command = [sys.executable, "-m", "plugin.weights", "prepare", "--weights", "stand-in", "--folder", str(folder)]
    folder.mkdir()
    with subprocess.Popen(command) as killed:
        (left,) = wait_for(lambda: list(folder.glob(".preparing-*")) or None, 60, str)
        killed.kill()
    for model in prepared_model.parent.iterdir():
        shutil.copy(model, folder)
    with scratch.folder(".preparing-", folder) as in_use:
        for one in (left, in_use):
            os.utime(one, (0, time.time() - 3600))
        prepare(weights.STAND_IN, "", folder)  # which is there already
        assert (left.exists(), in_use.exists()) == (False, True)
    assert not list(folder.glob(".preparing-*"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsUnavailable, match="file"):
        prepare(DEFAULT, "", tmp_path / "file" / "models")


def test_torch_is_not_installed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def missing() -> None:
        raise ModuleNotFoundError("No module named 'torch'")

    torchxrayvision.cache_clear()
    monkeypatch.setattr(weights, "_import_torchvision", missing)
    with pytest.raises(WeightsUnavailable, match="install the extra 'prepare': No module named 'torch'"):
        prepare(DEFAULT, "", folder)
    torchxrayvision.cache_clear()


def test_an_export_that_differs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, folder: Path, checkpoint: tuple[Path, str]
) -> None:
    monkeypatch.setattr(weights, "TOLERANCE", 0.0)
    with pytest.raises(WeightsUnavailable, match="scores differ from TorchXRayVision's by"):
        prepare(str(checkpoint[0]), checkpoint[1], folder)
    assert left_in(folder) == []


def test_the_stand_in_is_the_same_each_time_and_reads_back(
    tmp_path: Path, checkpoint: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    path = tmp_path / "checkpoint.pt"
    assert weights.main(["stand-in", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == hashlib.sha256(path.read_bytes()).hexdigest()
    saved = torch.load(path, weights_only=False)
    assert type(saved) is torchxrayvision().models.DenseNet
    assert saved.stand_in
    images = stand_in.plausible_inputs(1)
    models = [oracle.load(file, tmp_path / "downloaded") for file in (path, checkpoint[0])]
    first, second = (oracle.scores(model, images[0]) for model in models)
    assert first == pytest.approx(second, abs=1e-5)


def test_the_stand_in_checkpoint_does_not_depend_on_its_name(tmp_path: Path, checkpoint: tuple[Path, str]) -> None:
    assert weights.write_stand_in(tmp_path / "another name.pt") == checkpoint[1]


def test_the_command_fails_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert weights.main(["prepare", "--weights", "mine.pt", "--folder", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("The weights mine.pt are no file")
    assert captured.err.count("\n") == 1
