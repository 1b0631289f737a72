"""The image's own programs, without an image: the account that they declare, and the health check."""

from __future__ import annotations

import json
import os
import runpy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo.serve import ROOT

ENTRYPOINT = runpy.run_path(str(ROOT / "docker/entrypoint.py"))
HEALTHCHECK = runpy.run_path(str(ROOT / "docker/healthcheck.py"))
BASE = runpy.run_path(str(ROOT / "tests/image/base/docker-entrypoint.py"))


def configured(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the base image makes of the variables that our entry point hands it."""
    found: dict[str, Any] = {}
    for name, value in {**environ, **ENTRYPOINT["declared"](environ)}.items():
        if name.startswith("ORTHANC__"):
            found = BASE["merged"](found, BASE["nested"](name, value))
    return found


@pytest.mark.parametrize("password", ["12345678", "007", "1e5", "true", "null", "[1]", '{"a": 1}', 'p"a#d\\e', "käse"])
def test_a_password_stays_text(password: str, tmp_path: Path) -> None:
    """The base image reads a variable as JSON, if it is any: digits as a number, which is no password to Orthanc."""
    users = {"chest-xray": password}
    assert configured({"CHEST_XRAY_PASSWORD": password})["RegisteredUsers"] == users
    (tmp_path / "password").write_text(password + "\n")
    assert configured({"CHEST_XRAY_PASSWORD_FILE": str(tmp_path / "password")})["RegisteredUsers"] == users
    given = {
        "CHEST_XRAY_PASSWORD": "x",
        "ORTHANC__POSTGRESQL__PASSWORD": password,
        "ORTHANC__AWS_S3_STORAGE__SECRET_KEY": password,
    }
    made = configured(given)
    assert made["PostgreSQL"]["Password"] == made["AwsS3Storage"]["SecretKey"] == password


def test_a_password_that_orthanc_would_alter_is_refused() -> None:
    with pytest.raises(ENTRYPOINT["BadPassword"], match="takes for a variable"):
        configured({"CHEST_XRAY_PASSWORD": "a${HOME}b"})


def test_a_password_file_that_holds_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is made up only where none was chosen: compose.yaml hands on /dev/null then."""
    file, kept = tmp_path / "password", tmp_path / "kept"
    monkeypatch.setitem(ENTRYPOINT["account"].__globals__, "made_up", lambda: ENTRYPOINT["made_up"](kept))
    monkeypatch.setattr(os, "umask", lambda _: 0)
    for written, sentence in ((b"", "is empty"), (b"\n", "is empty"), (b"k\xe4se\n", "no text in UTF-8")):
        file.write_bytes(written)
        with pytest.raises(ENTRYPOINT["BadPassword"], match=sentence):
            configured({"CHEST_XRAY_PASSWORD_FILE": str(file)})
        monkeypatch.setenv("CHEST_XRAY_PASSWORD_FILE", str(file))
        with pytest.raises(SystemExit, match="2"):
            ENTRYPOINT["main"]()
    assert not kept.exists()
    kept.touch()  # as a full disk may leave it
    made = configured({"CHEST_XRAY_PASSWORD_FILE": "/dev/null"})["RegisteredUsers"]
    assert made == {"chest-xray": kept.read_text().strip()} != {"chest-xray": ""}


def test_other_accounts_stay() -> None:
    environ = {"CHEST_XRAY_PASSWORD": "1", "CHEST_XRAY_USER": "2", "ORTHANC__REGISTERED_USERS": '{"anna": "3"}'}
    assert configured(environ)["RegisteredUsers"] == {"anna": "3", "2": "1"}


@contextmanager
def answering(status: int, body: str) -> Iterator[int]:
    """A server in Orthanc's place; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/chest-xray/status" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "ready", "alive"),
    [
        (200, '{"ready": true, "reason": ""}', 0, 0),
        (200, '{"ready": false, "reason": "no inference server answers"}', 1, 0),
        (401, "", 1, 1),
        (404, "", 1, 1),
    ],
)
def test_health(
    status: int, body: str, ready: int, alive: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that cannot classify yet is alive: what arrives waits, and nobody who depends on it has to."""
    file = tmp_path / "orthanc.json"
    with answering(status, body) as port:
        file.write_text(json.dumps({"HttpPort": port, "RegisteredUsers": {"a": "1"}}))
        assert HEALTHCHECK["main"]([str(file)]) == ready
        assert HEALTHCHECK["main"](["--alive", str(file)]) == alive
    assert HEALTHCHECK["main"](["--alive", str(file)]) == 1
    assert all("ready" in json.loads(line) for line in capsys.readouterr().out.splitlines())


def test_no_configuration_yet_is_not_alive(tmp_path: Path) -> None:
    assert HEALTHCHECK["main"](["--alive", str(tmp_path / "absent.json")]) == 1
    (tmp_path / "half.json").write_text('{"HttpPort": ')
    assert HEALTHCHECK["main"](["--alive", str(tmp_path / "half.json")]) == 1
