"""The README says what the program does."""

from __future__ import annotations

import re

from demo.serve import ROOT

README = (ROOT / "README.md").read_text()


def test_every_command_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ((?:[a-z-]+ ?)+)", README, re.MULTILINE):
        for name in target.split():
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_every_file_that_is_linked_exists() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path
