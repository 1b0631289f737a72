"""What is said about configuring and releasing agrees with the program: the reference, the versions, the locks."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from demo import serve
from demo.serve import ROOT
from plugin import __version__, reference

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == reference.page(), "python -m plugin.reference makes it"


def test_every_variable_of_the_reference_is_read_somewhere() -> None:
    names = ("demo/serve.py", "docker/entrypoint.py", "docker/services.yaml", "plugin/settings.py")
    files = [ROOT / name for name in names]
    sources = "".join(file.read_text() for file in (*files, *ROOT.glob("compose*.yaml")))
    for variable in set(re.findall(r"`([A-Z][A-Z0-9_]{3,})`", reference.page())):
        assert variable.startswith("ORTHANC__") or variable in sources, variable


@pytest.mark.parametrize("file", ["Makefile", "compose.yaml", "packaging/install.sh"])
def test_whoever_starts_it_can_name_the_weights_and_the_outputs(file: str) -> None:
    words = set(re.findall(r"[A-Z_0-9]+", (ROOT / file).read_text()))
    assert {"WEIGHTS", "WEIGHTS_SHA256", "OUTPUTS"} <= words


@pytest.mark.parametrize(
    ("key", "variable"),
    [("TimeLimit", "ORTHANC__CHEST_X_RAY__TIME_LIMIT"), ("WeightsSha256", "ORTHANC__CHEST_X_RAY__WEIGHTS_SHA256")],
)
def test_the_base_images_name_of_a_key(key: str, variable: str) -> None:
    assert reference.image_variable(key) == variable


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## \[([0-9.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == __version__ == PROJECT["version"]
    assert f'image.version="{__version__}"' in (ROOT / "Dockerfile").read_text()
    files = ("docker/services.yaml", "compose.gpu.yaml", "compose.cluster.yaml")
    images = re.findall(
        r"image: orthanc-chest-xray:([0-9a-z.-]+)", "".join((ROOT / file).read_text() for file in files)
    )
    assert images == [__version__, f"{__version__}-gpu", f"{__version__}-servers"]


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("cpu", ["tools"]), ("gpu", ["tools", "gpu"]), ("servers", ["tools", "servers"]), ("prepare", ["prepare"])],
)
def test_the_image_installs_what_the_project_asks_for(lock: str, extras: list[str]) -> None:
    locked = (ROOT / f"docker/requirements-{lock}.txt").read_text()
    pins = [*PROJECT["dependencies"], *(pin for name in extras for pin in PROJECT["optional-dependencies"][name])]
    for pin in (re.sub(r"\[.+\]", "", pin) for pin in pins):
        assert re.search(rf"^{re.escape(pin)}(\+cpu)? \\$", locked, re.MULTILINE), f"{pin}: make lock"
    assert len(re.findall(r"^[a-z]", locked, re.MULTILINE)) == len(re.findall(r"\\\n +--hash", locked)) - len(
        re.findall(r"--hash=\S+ \\$", locked, re.MULTILINE)
    )


def test_what_the_operator_has_in_orthanc_json_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"RegisteredUsers": {"anna": "a"}, "Plugins": ["/own.so"]}
    (tmp_path / "orthanc.json").write_text(json.dumps(json.loads((ROOT / "orthanc.json").read_text()) | own))
    monkeypatch.setattr(serve, "ROOT", tmp_path)
    made = serve.configuration({"STORAGE": str(tmp_path)}, serve.Account("u", "p"))
    assert made["RegisteredUsers"] == {"anna": "a", "u": "p"}
    assert [Path(one).name for one in made["Plugins"]] == [*serve.PLUGINS, "own.so"]
