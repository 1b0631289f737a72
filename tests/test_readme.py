"""The READMEs say what the program does, and both the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from demo.serve import ROOT

ENGLISH, PORTUGUESE = ((ROOT / name).read_text() for name in ("README.md", "README.pt-BR.md"))
PAGES = [ROOT / "SECURITY.md", *ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("readme", [ENGLISH, PORTUGUESE], ids=["English", "Portuguese"])
def test_every_command_exists(readme: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ((?:[a-z-]+ ?)+)", readme, re.MULTILINE):
        for name in target.split():
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_file_and_heading_that_is_linked_exists(page: Path) -> None:
    for path, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / path if path else page
        assert file.exists(), path
        assert not heading or heading in headings(file.read_text()), (path, heading)


def headings(text: str) -> list[str]:
    """As they are called in addresses."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_both_have_the_same_sections() -> None:
    english, portuguese = (re.findall(r"^(#+) ", readme, re.MULTILINE) for readme in (ENGLISH, PORTUGUESE))
    assert english == portuguese


def test_both_have_the_same_commands() -> None:
    assert commands(ENGLISH) == commands(PORTUGUESE)


def test_both_name_the_same_things_in_each_section() -> None:
    for english, portuguese in zip(sections(ENGLISH), sections(PORTUGUESE), strict=True):
        for pattern in (r"(?<!`)`([^`\n]+)`(?!`)", r"\]\(((?!README)[^)]+)\)", r"<(http[^>]+)>"):
            assert sorted(re.findall(pattern, english)) == sorted(re.findall(pattern, portuguese)), english[:40]


def sections(readme: str) -> list[str]:
    return re.split(r"^## ", re.sub(r"^ *```.*?^ *```", "", readme, flags=re.MULTILINE | re.DOTALL), flags=re.MULTILINE)


def commands(readme: str) -> list[str]:
    """The lines of the blocks of shell and JSON, without their comments."""
    blocks = re.findall(r"^ *```(?:sh|json)\n(.*?)^ *```", readme, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
