"""Several Orthancs on one PostgreSQL: every image is classified once, whichever of them got it and whichever dies."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from demo.phantoms import radiograph, to_bytes
from tests.cluster.database import postgresql, shared
from tests.pacs import Pacs, wait_for

IMAGES = 120
TIME_LIMIT = 10


@pytest.fixture(scope="module")
def database() -> Iterator[int]:
    with postgresql() as port:
        yield port


@pytest.fixture
def pair(database: int, tmp_path: Path, prepared_model: Path) -> Iterator[tuple[Pacs, Pacs]]:
    """Two of them, ready."""
    folder = str(prepared_model.parent)
    settings = {"TimeLimit": TIME_LIMIT, "Workers": 1}
    options = [shared(name, database, tmp_path / "storage", **settings) for name in "ab"]
    a, b = (Pacs(tmp_path / name, one, MODEL_FOLDER=folder) for name, one in zip("ab", options, strict=True))
    with a, b:
        a.wait_until_ready()
        b.wait_until_ready()
        yield a, b


def revision(pacs: Pacs, instance: str) -> int:
    """How often the mark was written over: once for the claim that was there before, if the work was done once."""
    answer = pacs.session.get(f"{pacs.url}/instances/{instance}/metadata/4750", timeout=30)
    return int(answer.headers["ETag"].strip('"').split("-")[0])


def images(first: int, count: int) -> list[bytes]:
    return [to_bytes(radiograph(seed, rows=64, columns=64)) for seed in range(first, first + count)]


def upload(pair: tuple[Pacs, Pacs], files: list[bytes]) -> list[str]:
    """To both at random, four at once."""
    rng = random.Random(1)
    with ThreadPoolExecutor(4) as uploaders:
        return list(uploaders.map(lambda file: store(rng.choice(pair), file), files))


def store(pacs: Pacs, file: bytes) -> str:
    """Upload, once more if Orthanc was about to close the connection, as it does after an idle second."""
    try:
        return pacs.upload(file)
    except requests.ConnectionError:
        return pacs.upload(file)


def wait_until_idle(pacs: Pacs) -> None:
    wait_for(lambda: not pacs.get("/chest-xray/status")["pending"] or None, 30, pacs.log)


def test_both_share_the_work_and_none_is_done_twice(pair: tuple[Pacs, Pacs]) -> None:
    a, b = pair
    instances = upload(pair, images(0, IMAGES))
    results = [a.result(instance) for instance in instances]
    assert {result["state"] for result in results} == {"done"}
    assert all(b.result(instance) == result for instance, result in zip(instances, results, strict=True))
    assert all(len(a.reports_beside(instance)) == 1 for instance in instances)
    assert Counter(revision(a, instance) for instance in instances) == {1: IMAGES}
    for pacs in pair:
        wait_until_idle(pacs)
        assert pacs.get("/chest-xray/status")["done"] == IMAGES
    shares = Counter(result["server"] for result in results)
    assert len(shares) == 2
    assert min(shares.values()) > IMAGES // 5, shares
    again = instances[0]
    for _ in range(4):
        before = a.result(again)
        answer = requests.post(f"{b.url}/instances/{again}/chest-xray", auth=b.session.auth, timeout=30)
        assert answer.status_code == 202, answer.text
        assert a.result(again)["created"] > before["created"]
    assert len(a.reports_beside(again)) == 1


def test_one_is_killed_and_the_other_does_what_it_had_begun(pair: tuple[Pacs, Pacs]) -> None:
    a, b = pair
    instances = upload(pair, images(1000, IMAGES // 2))
    wait_for(lambda: b.get("/chest-xray/status")["done"] > IMAGES // 10 or None, 60, b.log)
    a.kill()
    instances += [store(b, file) for file in images(2000, IMAGES // 2)]
    results = [b.result(instance, 120) for instance in instances]
    assert {result["state"] for result in results} == {"done"}
    assert all(len(b.reports_beside(instance)) == 1 for instance in instances)
    written = Counter(revision(b, instance) for instance in instances)
    assert written[1] >= IMAGES - 1, written  # all but what a's one worker had begun
    assert written[1] + written[2] == IMAGES, written
    a.start()
    a.wait_until_ready()
    wait_until_idle(a)
    assert Counter(revision(b, instance) for instance in instances) == written
