"""The README says what the program does."""

from __future__ import annotations

import dataclasses
import json
import re

from demo.serve import ROOT
from plugin.settings import Settings

README = (ROOT / "README.md").read_text()


def test_every_setting_stands_in_the_table() -> None:
    for setting in dataclasses.fields(Settings):
        default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        row = f"| `{setting.name}` | `{json.dumps(default)}` | {setting.metadata['about']} |"
        assert row in README


def test_every_command_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ((?:[a-z-]+ ?)+)", README, re.MULTILINE):
        for name in target.split():
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_every_file_that_is_linked_exists() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
