"""What is made of Orthanc's answers at moments that a real one cannot be held at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from plugin.archive import Archive, ArchiveUnavailable, Gone
from plugin.settings import Connection


class Answer:
    """To one request."""

    data = b"[]"

    def json(self) -> Any:
        return [] if self.data == b"[]" else {"FileUuid": "1"}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Archive]:
    """Makes an archive that answers requests in turn; what is an exception is raised."""

    def make(*answers: Answer | Exception) -> Archive:
        left = [*answers]

        def ask(*_: Any, **__: Any) -> Answer:
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        archive = Archive(Connection("http://127.0.0.1:1", "nobody"))
        monkeypatch.setattr(archive, "_ask", ask)
        return archive

    return make


def test_what_is_deleted_while_it_is_looked_up_is_left_out(answering: Callable[..., Archive]) -> None:
    assert answering(Gone("a"), Gone("b"), Answer()).instances(["a", "b", "c"]) == []
    with pytest.raises(ArchiveUnavailable):
        answering(*[Gone("a")] * 5).series(["a"])


def test_an_instance_without_its_file_is_not_gone(answering: Callable[..., Archive]) -> None:
    there = Answer()
    there.data = b"{}"
    with pytest.raises(ArchiveUnavailable, match="Orthanc has the instance a and not its file"):
        answering(Gone("a"), there).file("a")
    with pytest.raises(Gone):
        answering(Gone("a"), Gone("a")).file("a")
