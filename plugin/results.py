"""Results as a table: what a run says, and how two runs differ. `python -m plugin.results RUN [OTHER] [--json]`.

A run is a folder that `upload.py --results` wrote, a file of JSON lines as `/chest-xray/results` gives them, one
result's JSON, or a CSV of either. Needs pandas (the extra `analysis` of pyproject.toml); `read` is for notebooks too.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

try:
    import pandas as pd
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    print("python -m plugin.results needs pandas: pip install '.[analysis]'", file=sys.stderr)
    sys.exit(2)

from plugin.report import DISCLAIMER, OPERATING_POINT

ANSWER: Final = ("state", "reason", "instance", "created", "warnings")
IMAGE: Final = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "StudyDate", "ViewPosition")
MODEL: Final = ("model_name", "model_version", "model_weights", "model_weights_sha256")
PIXELS: Final = "pixels_sha256"
DESCRIBING: Final = (*ANSWER, *IMAGE, *MODEL, PIXELS)
"""All columns but the findings'; `pixels_sha256` is empty in a run that was read from CSV."""

FORMULA: Final = r"^'(?=[=+\-@\t\r])"
"""The quotation mark that keeps spreadsheets from taking a text for a formula."""


class CannotRead(Exception):
    """A sentence that names the file and what is wrong with it."""


def read(path: Path) -> pd.DataFrame:
    """A run as a table, its index `instance`, Orthanc's id, which only depends on the image's identifiers.

    Columns are `DESCRIBING`, texts, and one for each finding: scores in 0..1, NaN where there is none.

    :raises CannotRead: if this is no run.
    """
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else pd.DataFrame(map(_row, _answers(path)))
    except OSError as problem:
        raise CannotRead(f"{path} holds no results: {problem.strerror}") from None
    except json.JSONDecodeError:
        raise CannotRead(f"{path} holds no results: not all of it is JSON") from None
    except (ValueError, AttributeError, TypeError) as problem:
        raise CannotRead(f"{path} holds no results: {problem}") from None
    if not {"state", "instance"} <= set(table.columns):
        raise CannotRead(f"{path} holds no results: there is no state or no instance in it")
    labels = [name for name in table.columns if name not in DESCRIBING]
    table = table.reindex(columns=[*DESCRIBING, *labels])
    for name in DESCRIBING:
        table[name] = [str(value) if pd.notna(value) else "" for value in table[name]]
    return table.drop_duplicates("instance", keep="last").set_index("instance", drop=False)


def _read_csv(path: Path) -> pd.DataFrame:
    texts = dict.fromkeys(DESCRIBING, str)  # or 20260114 and 007 were numbers
    table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={})
    for name in table.columns:
        if name in DESCRIBING:
            table[name] = table[name].str.replace(FORMULA, "", regex=True)
        else:
            table[name] = pd.to_numeric(table[name])
    return table


def _answers(path: Path) -> Iterator[Mapping[str, Any]]:
    """The results in a folder's JSON files, or in one file as a whole or line by line."""
    if path.is_dir():
        answers = (json.loads(file.read_bytes()) for file in sorted(path.glob("*.json")))
        yield from (answer for answer in answers if "state" in answer)  # the schema stands there too
        return
    text = path.read_text(encoding="utf-8")
    try:
        yield json.loads(text)
    except ValueError:
        yield from (json.loads(line) for line in text.splitlines() if line.strip())


def _row(answer: Mapping[str, Any]) -> dict[str, Any]:
    image, model = answer.get("image", {}), answer.get("model", {})
    return {
        **{name: answer.get(name) for name in ANSWER},
        "warnings": " ".join(answer.get("warnings", ())),
        **{name: image.get(name) for name in (*IMAGE, PIXELS)},
        **{name: model.get(name.removeprefix("model_")) for name in MODEL},
        **answer.get("scores", {}),
    }


def labels_of(run: pd.DataFrame) -> list[str]:
    """The findings that have a column, in the model's order."""
    return [name for name in run.columns if name not in DESCRIBING]


def summary(run: pd.DataFrame) -> dict[str, Any]:
    """How many images are in which state, which models made them, and each finding's scores."""
    done = run[run["state"] == "done"]
    findings = {
        label: {
            "mean": _number(done[label].mean()),
            "smallest": _number(done[label].min()),
            "largest": _number(done[label].max()),
            "present": int((done[label] >= OPERATING_POINT).sum()),
        }
        for label in labels_of(run)
    }
    return {"images": len(run), "states": _counts(run["state"]), "models": _models(done), "findings": findings}


def comparison(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, Any]:
    """How the second run's scores differ from the first's, on the images that both have.

    A flip is a score that lies on the other side of the operating point. Differences are second minus first.
    """
    both = first.index.intersection(second.index)
    a, b = first.loc[both], second.loc[both]
    labels = [label for label in labels_of(first) if label in set(labels_of(second))]
    other_pixels = (a[PIXELS] != b[PIXELS]) & (a[PIXELS] != "") & (b[PIXELS] != "")
    return {
        "images": {
            "in_both": len(both),
            "only_in_first": _identifiers(first.drop(both)),
            "only_in_second": _identifiers(second.drop(both)),
            "in_another_state": _identifiers(a[a["state"] != b["state"]]),
            "with_other_pixels": _identifiers(a[other_pixels]),
        },
        "models": {"first": _models(first), "second": _models(second), "same": _models(first) == _models(second)},
        "findings_only_in_one": sorted(set(labels_of(first)) ^ set(labels_of(second))),
        "findings": {label: _difference(a[label], b[label]) for label in labels},
        "flips": [flip for label in labels for flip in _flips(label, a, b)],
    }


def _difference(first: pd.Series[float], second: pd.Series[float]) -> dict[str, Any]:
    difference = (second - first).dropna()
    if difference.empty:
        return {"images": 0, "mean_difference": None, "largest_difference": None, "largest_in": None, "flips": 0}
    largest = difference.abs().idxmax()
    return {
        "images": len(difference),
        "mean_difference": _number(difference.mean()),
        "largest_difference": _number(difference[largest]),
        "largest_in": str(largest),
        "flips": int(_flipped(first, second).sum()),
    }


def _flipped(first: pd.Series[float], second: pd.Series[float]) -> pd.Series[bool]:
    there = first.notna() & second.notna()
    return there & ((first >= OPERATING_POINT) != (second >= OPERATING_POINT))


def _flips(label: str, first: pd.DataFrame, second: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "instance": str(instance),
            "SOPInstanceUID": str(first.at[instance, "SOPInstanceUID"]),
            "finding": label,
            "first": _number(first.at[instance, label]),
            "second": _number(second.at[instance, label]),
        }
        for instance in first.index[_flipped(first[label], second[label])]
    ]


def _models(run: pd.DataFrame) -> list[dict[str, str]]:
    rows = run[run["model_name"] != ""][list(MODEL)].drop_duplicates().sort_values(list(MODEL))
    return [{name.removeprefix("model_"): str(row[name]) for name in MODEL} for _, row in rows.iterrows()]


def _identifiers(run: pd.DataFrame) -> list[str]:
    return [uid or instance for instance, uid in run["SOPInstanceUID"].items()]


def _counts(values: pd.Series[str]) -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items()}


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 if a run cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m plugin.results", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a folder of results, JSON lines, or CSV")
    parser.add_argument("other", type=Path, nargs="?", help="a second run, to be compared with it")
    parser.add_argument("--json", action="store_true", help="for programs: the same as JSON, unrounded")
    options = parser.parse_args(arguments)
    try:
        first = read(options.run)
        second = read(options.other) if options.other else None
    except CannotRead as sentence:
        print(sentence, file=sys.stderr)
        return 2
    found = summary(first) if second is None else comparison(first, second)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_summary_lines(found) if second is None else _comparison_lines(found)))
    return 0


def _summary_lines(found: Mapping[str, Any]) -> list[str]:
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    columns = {"mean": "mean", "smallest": "smallest", "largest": "largest", "present": f"{OPERATING_POINT} or more"}
    return [
        f"{found['images']} images: {states}",
        *(f"Model: {_model_line(model)}" for model in found["models"]),
        "",
        _table(found["findings"], columns),
        "",
        DISCLAIMER,
    ]


def _few(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more (--json has them all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _comparison_lines(found: Mapping[str, Any]) -> list[str]:
    images, models = found["images"], found["models"]
    columns = {
        "images": "images",
        "mean_difference": "mean difference",
        "largest_difference": "largest",
        "flips": "flips",
    }
    lists = ("only_in_first", "only_in_second", "in_another_state", "with_other_pixels")
    return [
        f"{images['in_both']} images in both runs",
        *(f"{name.replace('_', ' ')}: {_few(images[name])}" for name in lists if images[name]),
        *([] if models["same"] else ["DIFFERENT MODELS OR WEIGHTS:"]),
        *(f"  {which}: {_model_line(model)}" for which in ("first", "second") for model in models[which]),
        *(f"Finding in one run only: {label}" for label in found["findings_only_in_one"]),
        "",
        _table(found["findings"], columns) if images["in_both"] else "There is nothing to compare.",
        "",
        *(
            f"{flip['finding']} flips in {flip['SOPInstanceUID'] or flip['instance']}: "
            f"{flip['first']:.4f} -> {flip['second']:.4f}"
            for flip in found["flips"]
        ),
        DISCLAIMER,
    ]


def _model_line(model: Mapping[str, str]) -> str:
    line = f"{model['name']} {model['version']}, {model['weights']} weights {model['weights_sha256'][:12]}"
    return line if model["weights"] == "trained" else f"{line}: THESE SCORES MEAN NOTHING"


def _table(findings: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    if not findings:
        return "No scores."
    table = pd.DataFrame.from_dict(findings, orient="index")[list(columns)].rename(columns=dict(columns))
    return str(table.to_string(float_format=lambda value: f"{value:.4f}", na_rep="-"))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` ends us quietly, as it does other programs
    sys.exit(main())
