"""Everybody at once: uploaders by REST and C-STORE, and people who look meanwhile. Nobody may wait for the other."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest
import requests

from tests.faults.conftest import FULL, Start
from tests.faults.counting import expect_one_report_each
from tests.faults.images import images
from tests.pacs import Pacs

UPLOADERS = 8
EACH = 100 if FULL else 8
LONGEST = 2.0  # seconds that anybody may wait for an answer

Upload = Callable[[Pacs, bytes, Path], None]


def by_rest(pacs: Pacs, data: bytes, _file: Path) -> None:
    pacs.upload(data)


def by_c_store(pacs: Pacs, data: bytes, file: Path) -> None:
    file.write_bytes(data)
    subprocess.run(["storescu", "-xe", "127.0.0.1", str(pacs.dicom_port), str(file)], check=True)
    file.unlink()


class Onlookers:
    """Ask for the plugin's pages, over and over, and remember how long each answer took."""

    def __init__(self, pacs: Pacs) -> None:
        self.took: list[tuple[float, str]] = []
        self._pacs, self._end = pacs, threading.Event()
        self._threads = [threading.Thread(target=self._look, args=(paths,)) for paths in self._paths()]

    def __enter__(self) -> Onlookers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _paths(self) -> Sequence[Sequence[str]]:
        return (["/chest-xray/status", "/chest-xray/"], ["/chest-xray/results", "/chest-xray/results?format=csv"])

    def _look(self, paths: Sequence[str]) -> None:
        with requests.Session() as session:
            session.auth, session.trust_env = self._pacs.session.auth, False
            for path in cycle(paths):
                if self._end.wait(0.02):
                    return
                began = time.monotonic()
                answer = session.get(self._pacs.url + path, timeout=30)
                self.took.append((time.monotonic() - began, path))
                assert answer.ok


@pytest.mark.parametrize("ways", [[by_rest], [by_rest, by_c_store]], ids=["rest", "rest and c-store"])
def test_nobody_waits_for_anybody(start: Start, tmp_path: Path, ways: list[Upload]) -> None:
    files = list(images(UPLOADERS * EACH))

    def work(uploader: int) -> list[float]:
        upload, took = ways[uploader % len(ways)], []
        for data in files[uploader::UPLOADERS]:
            began = time.monotonic()
            upload(pacs, data, tmp_path / f"{uploader}.dcm")
            took.append(time.monotonic() - began)
        return took

    with start() as pacs, Onlookers(pacs) as onlookers:
        pacs.wait_until_ready()
        with ThreadPoolExecutor(UPLOADERS) as uploaders:
            uploads = [one for took in uploaders.map(work, range(UPLOADERS)) for one in took]
        expect_one_report_each(pacs, len(files))
    looks = sorted(onlookers.took)
    print(f"{len(uploads)} uploads, the longest {max(uploads):.2f} s; {len(looks)} looks, the longest {looks[-1]}")
    assert len(uploads) == len(files)
    assert max(uploads) < LONGEST
    assert looks[-1] < (LONGEST,)
