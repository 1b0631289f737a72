"""results/ as a data set: its schema, its CSV, and the command that reads and compares runs."""

from __future__ import annotations

import copy
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jsonschema import Draft202012Validator

from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from plugin import analysis, marks, pixels, results
from tests.pacs import Pacs

FOLDER = ROOT / "results"
SCHEMA = json.loads((FOLDER / "schema.json").read_text())
FILES = sorted(file for file in FOLDER.glob("*.json") if file.name != "schema.json")


def complaints(answer: Any) -> list[str]:
    return [problem.message for problem in Draft202012Validator(SCHEMA).iter_errors(answer)]


def done() -> dict[str, Any]:
    return dict(json.loads(FILES[0].read_text()))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_the_published_results_follow_it(file: Path) -> None:
    answer = json.loads(file.read_text())
    assert complaints(answer) == []
    assert answer["image"]["SOPInstanceUID"] == file.stem
    assert answer["model"]["weights"] == "stand-in"  # README.md there says so


def test_they_are_those_of_the_samples() -> None:
    """Else remove them, and `make demo WEIGHTS=stand-in`."""
    images = [analysis.parse(file.read_bytes()) for file in (ROOT / "samples").iterdir()]
    published = [json.loads(file.read_text())["image"] for file in FILES]
    assert {image["SOPInstanceUID"]: image["pixels_sha256"] for image in published} == {
        image.SOPInstanceUID: pixels.fingerprint(image) for image in images
    }


@pytest.mark.parametrize(
    "path, value",
    [
        ("state", "finished"),
        ("instance", "1.2.3"),
        ("scores", {}),
        ("scores.Mass", 1.01),
        ("scores.Mass", "0.5"),
        ("findings", [1]),
        ("operating_point", 0.4),
        ("image.SOPInstanceUID", 5),
        ("image.pixels_sha256", "abc"),
        ("image.Colour", "red"),
        ("model.weights", "random"),
        ("model.weights_sha256", None),
        ("activation.shape", [18, 7]),
        ("activation.float16", "not base64!"),
        ("activation.crop.size", 0),
        ("warnings", "one"),
        ("sr.instance", ""),
        ("milliseconds.model", -1),
        ("probability", 0.5),
        ("reason", "it is done all the same"),
    ],
)
def test_the_schema_rejects_what_is_wrong(path: str, value: object) -> None:
    answer = done()
    *parents, name = path.split(".")
    place = answer
    for parent in parents:
        place = place[parent]
    place[name] = value
    assert complaints(answer)


def test_the_schema_rejects_what_is_missing() -> None:
    for name in done():
        assert complaints({key: value for key, value in done().items() if key != name}), name
    for state in ("skipped", "failed", "pending"):
        assert complaints({"state": state, "instance": done()["instance"]})
        assert complaints({"state": state, "instance": done()["instance"], "reason": "Why.", "scores": {}})


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    with Pacs(tmp_path_factory.mktemp("pacs")) as running:
        running.wait_until_ready()
        yield running


def test_every_kind_of_answer_of_a_real_run_follows_it(pacs: Pacs, tmp_path: Path) -> None:
    broken = radiograph(3, rows=64, columns=64)
    broken.PixelData = broken.PixelData[:100]
    images = {
        "done": radiograph(1, rows=64, columns=64),
        "skipped": radiograph(2, rows=64, columns=64, BodyPartExamined="KNEE"),
        "failed": broken,
        "not ours": radiograph(4, rows=64, columns=64, Modality="CT"),
    }
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, ds in images.items():
        (scans / name).write_bytes(to_bytes(ds))
    account = {"CHEST_XRAY_USER": pacs.user, "CHEST_XRAY_PASSWORD": pacs.password}
    command = [sys.executable, "upload.py", str(scans), "--url", pacs.url, "--results", str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, env=os.environ | account, check=False)

    written = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    answers = [pacs.get(f"/instances/{instance}/chest-xray") for instance in pacs.get("/instances")]
    lines = pacs.session.get(f"{pacs.url}/chest-xray/results", timeout=30).text
    (tmp_path / "run.jsonl").write_text(lines)
    assert {answer["state"] for answer in written} == {"done", "skipped", "failed"}
    for answer in (*written, *answers, *map(json.loads, lines.splitlines())):
        assert complaints(answer) == []
    # the folder, its CSV and the server's lines are the same run
    folder, table, served = (results.read(tmp_path / name) for name in ("out", "out/results.csv", "run.jsonl"))
    for other in (table, served):
        assert results.comparison(folder, other)["images"] == {
            "in_both": 3,
            "only_in_first": [],
            "only_in_second": [],
            "in_another_state": [],
            "with_other_pixels": [],
        }
    assert results.summary(folder) == results.summary(table) == results.summary(served)


def test_marks_of_a_worker_that_died_and_pending_answers_follow_it() -> None:
    instance = done()["instance"]
    assert complaints(json.loads(marks.mark("failed", instance, reason="Given up after 3 tries: it hung"))) == []
    assert complaints({"state": "pending", "instance": instance, "reason": "It is waiting to be classified"}) == []


def test_the_csv_is_one_that_every_reader_takes() -> None:
    data = (FOLDER / "results.csv").read_bytes()
    assert not data.startswith(b"\xef\xbb\xbf")  # see results/README.md
    assert data.count(b"\r\n") == data.count(b"\n") == len(FILES) + 1  # RFC 4180
    dialect = csv.Sniffer().sniff(data.decode())
    assert (dialect.delimiter, dialect.quotechar) == (",", '"')
    rows = list(csv.DictReader(data.decode().splitlines()))
    assert {row["SOPInstanceUID"] for row in rows} == {file.stem for file in FILES}
    assert len({len(row) for row in rows}) == 1
    table = pd.read_csv(FOLDER / "results.csv")
    assert table["Lung Opacity"].between(0, 1).all()


def write(folder: Path, *answers: dict[str, Any]) -> Path:
    folder.mkdir()
    for number, answer in enumerate(answers):
        (folder / f"{number}.json").write_text(json.dumps(answer))
    return folder


def answer(instance: str, mass: float, **model: str) -> dict[str, Any]:
    found = copy.deepcopy(done())
    found["instance"] = found["image"]["SOPInstanceUID"] = instance
    found["scores"] = {"Mass": mass, "Hernia": 0.25}
    found["model"] |= model
    return found


def test_two_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "first", answer("1.1", 0.45), answer("1.2", 0.5), answer("1.3", 0.9))
    moved = answer("1.2", 0.4)
    moved["image"]["pixels_sha256"] = "0" * 64
    second = write(tmp_path / "second", answer("1.1", 0.75), moved, answer("1.4", 0.1))
    assert results.main([str(first), str(second), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == {
        "in_both": 2,
        "only_in_first": ["1.3"],
        "only_in_second": ["1.4"],
        "in_another_state": [],
        "with_other_pixels": ["1.2"],
    }
    assert found["models"]["same"]
    mass = found["findings"]["Mass"]
    assert (mass["images"], mass["flips"], mass["largest_in"]) == (2, 2, "1.1")
    assert mass["mean_difference"] == pytest.approx(0.1)
    assert mass["largest_difference"] == pytest.approx(0.3)
    assert found["findings"]["Hernia"]["largest_difference"] == 0
    assert [(flip["SOPInstanceUID"], flip["first"], flip["second"]) for flip in found["flips"]] == [
        ("1.1", 0.45, 0.75),
        ("1.2", 0.5, 0.4),
    ]
    assert results.main([str(first), str(second)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "2 images in both runs",
        "only in first: 1.3",
        "only in second: 1.4",
        "with other pixels: 1.2",
    ]
    assert "Mass         2           0.1000   0.3000      2" in lines
    assert "Mass flips in 1.2: 0.5000 -> 0.4000" in lines
    assert lines[-1].startswith("Not a medical device")


def test_other_weights_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "first", answer("1.1", 0.45))
    second = write(tmp_path / "second", answer("1.1", 0.45, weights="trained", weights_sha256="5" * 64))
    assert results.main([str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert "DIFFERENT MODELS OR WEIGHTS:" in printed
    assert "THESE SCORES MEAN NOTHING" in printed
    assert "trained weights 555555555555\n" in printed


def test_runs_with_nothing_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "first", answer("1.1", 0.45))
    second = write(tmp_path / "second", *(answer(f"2.{number}", 0.45) for number in range(30)))
    assert results.main([str(first), str(second)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 images in both runs"
    assert lines[2].startswith("only in second: 2.0, ")
    assert lines[2].endswith(" and 20 more (--json has them all)")
    assert "There is nothing to compare." in lines


def test_a_summary_of_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main([str(FOLDER)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("8 images: 8 done\n")
    assert results.main([str(FOLDER), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["states"] == {"done": 8}
    scores = [json.loads(file.read_text())["scores"]["Mass"] for file in FILES]
    assert found["findings"]["Mass"]["mean"] == pytest.approx(sum(scores) / 8)
    assert found["findings"]["Mass"]["present"] == sum(score >= 0.5 for score in scores)


def test_texts_that_look_like_formulas_or_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    file.write_text("state,instance,PatientID,StudyDate,Mass\ndone,a,'=1+1,20260114,0.5\nskipped,b,007,NA,\n")
    run = results.read(file)
    assert list(run["PatientID"]) == ["=1+1", "007"]
    assert list(run["StudyDate"]) == ["20260114", "NA"]
    assert run["Mass"].isna().tolist() == [False, True]


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").mkdir()
    for name in ("a.txt", "a.csv", "empty", "gone"):
        assert results.main([str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.startswith(f"{tmp_path}/{name} holds no results: ")
