"""What a worker process keeps between two images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugin import classifier, worker
from plugin.settings import Settings


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads of every model that this process loads, as a worker of a model file without a model in it."""
    threads: list[int] = []
    model = tmp_path / "model.onnx"
    model.touch()
    monkeypatch.setattr(worker, "_settings", Settings(), raising=False)
    monkeypatch.setattr(worker, "_engine", "", raising=False)
    monkeypatch.setattr(worker, "_model_path", model, raising=False)
    monkeypatch.setattr(classifier, "load", lambda _, number: threads.append(number))
    return threads


def test_the_model_is_loaded_once_for_one_thread_and_once_for_all(loaded: list[int]) -> None:
    for threads in (1, 2, 1, 1, 2):
        worker._current_model(threads)
    assert loaded == [1, 2]


def test_an_image_has_as_many_threads_as_it_may(loaded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_all_cores", 3, raising=False)
    monkeypatch.setattr(worker, "_server", "", raising=False)
    monkeypatch.setattr(worker, "_classify", lambda *_: worker.Outcome("done"))
    for all_cores in (True, False):
        worker.classify([("instance", "study")], all_cores)
    assert loaded == [3, 1]


def test_both_are_loaded_again_when_the_file_is_another(loaded: list[int]) -> None:
    for nanoseconds in (10**18, 2 * 10**18):
        os.utime(worker._model_path, ns=(nanoseconds, nanoseconds))
        for threads in (1, 2, 1, 2):
            worker._current_model(threads)
    assert loaded == [1, 2, 1, 2]


def test_a_model_that_runs_elsewhere_is_one_for_all(loaded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from plugin import servers

    monkeypatch.setattr(worker, "_settings", Settings(Servers=("grpc://a:1",)))
    monkeypatch.setattr(servers, "load", lambda *_: object())
    assert worker._current_model(1) is worker._current_model(2)
    assert loaded == []
