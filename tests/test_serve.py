"""What is found out before Orthanc is started natively: the account, the ports, and in which order."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from demo import demo, serve
from demo.serve import ROOT, Account, CannotServe, announce, check_ports, environ_for_orthanc
from tests.pacs import free_port


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Of a user who has chosen nothing yet."""
    ports = {"HTTP_PORT": str(free_port()), "DICOM_PORT": str(free_port())}
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "STORAGE": str(tmp_path / "storage"), **ports}


def test_a_password_is_made_up_once(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    first = Account.find(environ)
    first.keep()
    second = Account.find(environ)
    second.keep()
    assert (first.user, first.password) == (second.user, second.password) == ("chest-xray", first.password)
    assert (first.is_new, second.is_new) == (True, False)
    announce(environ, first)
    assert first.password in capsys.readouterr().out
    announce(environ, second)
    assert first.password not in (said := capsys.readouterr().out) and str(second.kept) in said
    assert second.kept and second.kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("written", "password"), [("12345678\n", "12345678"), ('p"a$ b\r\n', 'p"a$ b'), (" käse\t", " käse\t")]
)
def test_a_password_from_a_file(environ: dict[str, str], tmp_path: Path, written: str, password: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(written.encode())
    environ["CHEST_XRAY_PASSWORD_FILE"] = str(file)
    assert Account.find(environ) == Account("chest-xray", password)
    assert Account.find(environ | {"CHEST_XRAY_PASSWORD": "this one"}).password == "this one"
    given = environ | {"CHEST_XRAY_PASSWORD": "this one"}
    assert not any(name.startswith("CHEST_XRAY_PASSWORD") for name in environ_for_orthanc(given))


def test_a_password_that_cannot_be_used(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match=r"^CHEST_XRAY_PASSWORD_FILE is /absent, .* No such file"):
        Account.find(environ | {"CHEST_XRAY_PASSWORD_FILE": "/absent"})
    (tmp_path / "password").write_text("${HOME}")
    with pytest.raises(CannotServe, match="takes for a variable"):
        Account.find(environ | {"CHEST_XRAY_PASSWORD_FILE": str(tmp_path / "password")})
    (tmp_path / "password").write_text("\n")
    with pytest.raises(CannotServe, match=r"^CHEST_XRAY_PASSWORD_FILE is .*, which is empty"):
        Account.find(environ | {"CHEST_XRAY_PASSWORD_FILE": str(tmp_path / "password")})
    (tmp_path / "password").write_bytes(b"k\xe4se\n")
    with pytest.raises(CannotServe, match=r"^CHEST_XRAY_PASSWORD_FILE is .*, which is no text in UTF-8"):
        Account.find(environ | {"CHEST_XRAY_PASSWORD_FILE": str(tmp_path / "password")})
    assert not (tmp_path / "config").exists()


def test_a_password_that_was_made_up_is_kept_when_nothing_is_in_the_way(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is printed at the first start alone, which so must not be one that fails."""
    for name, value in (environ | {"HTTP_PORT": "99999"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CHEST_XRAY_PASSWORD", raising=False)
    monkeypatch.delenv("CHEST_XRAY_PASSWORD_FILE", raising=False)
    with pytest.raises(SystemExit, match="2"):
        serve.main()
    monkeypatch.setenv("HTTP_PORT", environ["HTTP_PORT"])
    monkeypatch.setattr(serve, "orthanc_command", lambda *_: ["Orthanc"])
    monkeypatch.setattr(serve, "claim", lambda _: None)  # this process has it
    monkeypatch.setattr(os, "execve", lambda *_: None)
    serve.main()
    kept = serve.password_file(environ).read_text().strip()
    assert kept and f"password {kept} (printed this once)" in capsys.readouterr().out


def test_an_empty_file_of_a_kept_password_is_written_anew(environ: dict[str, str]) -> None:
    """A full disk may leave one."""
    file = serve.password_file(environ)
    file.parent.mkdir(parents=True)
    file.touch()
    (made := Account.find(environ)).keep()
    assert made.is_new and Account.find(environ).password == made.password
    file.write_bytes(b"k\xe4se")
    with pytest.raises(CannotServe, match=r"password's file is .*no text in UTF-8"):
        Account.find(environ)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{\n "Name": "a",\n}', ", line [23]: there is a comma too many"),
        ('{\n "Plugins": ["a", ]}', ", line 2: there is a comma too many"),
        ('{\n "Name": "a" // ours\n}', ", line 2: comments are not allowed"),
        ('/* ours */ {"Name": "a"}', ", line 1: comments are not allowed"),
        ('{\n "Name" "a"}', ", line 2: Expecting ':' delimiter, column 9"),
        ('{"Name": , "Plugins": []}', ", line 1: Expecting value, column 10"),
        ("", ", line 1: Expecting value, column 1"),
        ("[]", ": the whole must be a section in braces"),
        ('{"RegisteredUsers": []}', r": RegisteredUsers is \[\]; it must be a section"),
        ('{"Plugins": "/a.so"}', ": Plugins is '/a.so'; it must be a list"),
        ('{"PythonScript": null}', ": PythonScript is None; it must be a text"),
        ('{"ChestXRay": []}', r"^ChestXRay in orthanc.json is \[\]; it must be a section"),
        ('{"ChestXRay": {"Wörkers": 4}}', "^ChestXRay.Wörkers is not a setting"),
    ],
)
def test_a_slip_in_the_configuration(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    """A sentence with the file, through whatever link, and the line; `main` ends with status 2 for it."""
    (tmp_path / "own.json").write_text(text)
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone/orthanc.json").symlink_to(tmp_path / "own.json")
    monkeypatch.setattr(serve, "ROOT", tmp_path / "clone")
    expected = sentence if sentence.startswith("^") else f"^{re.escape(str(tmp_path / 'own.json'))}{sentence}"
    with pytest.raises(CannotServe, match=expected):
        serve.orthanc_command(environ, Account("a", "b"))


def test_a_configuration_that_cannot_be_read(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "ROOT", tmp_path)
    with pytest.raises(CannotServe, match=r"^The configuration is .*orthanc.json, which cannot be read: No such"):
        serve.configuration(environ, Account("a", "b"))
    (tmp_path / "orthanc.json").write_bytes(b'{"Name": "R\xf6ntgen"}')
    with pytest.raises(CannotServe, match=r"orthanc.json, which is no text in UTF-8"):
        serve.configuration(environ, Account("a", "b"))


def test_systemd_does_not_start_again_what_a_setting_stops() -> None:
    assert "\nRestartPreventExitStatus=2\n" in (ROOT / "packaging/orthanc-chest-xray.service").read_text()


def test_ports(environ: dict[str, str]) -> None:
    check_ports(environ)
    with pytest.raises(CannotServe, match="must differ"):
        check_ports(environ | {"DICOM_PORT": environ["HTTP_PORT"]})
    with pytest.raises(CannotServe, match=r"^DICOM_PORT is 'x'; it must be a number"):
        check_ports(environ | {"DICOM_PORT": "x"})
    taken = pytest.raises(CannotServe, match=rf"^Port {environ['HTTP_PORT']} is taken by \w+")
    with socket.create_server(("127.0.0.1", int(environ["HTTP_PORT"]))), taken:
        check_ports(environ)


def test_the_demo_wants_something_to_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DICOM", str(tmp_path / "absent"))
    assert demo.main() == 2
    assert capsys.readouterr().err == f"There is no {tmp_path / 'absent'} to upload\n"


def test_the_demo_finds_a_port_taken_before_it_prepares_the_model(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(demo, "choose_weights", lambda: pytest.fail("minutes later"))
    with socket.create_server(("127.0.0.1", int(environ["DICOM_PORT"]))):
        assert demo.main() == 2
    assert f"Port {environ['DICOM_PORT']} is taken" in capsys.readouterr().err


def test_what_make_leaves_empty_is_not_set() -> None:
    """It exports every variable that it knows, so that programs see empty ones."""
    exported = re.findall(r"^export (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
    programs = "import bench.soak, demo.demo, tests.pacs, tests.faults.conftest; print(bench.soak.IMAGES)"
    empty = os.environ | dict.fromkeys(exported, "")
    done = subprocess.run([sys.executable, "-c", programs], cwd=ROOT, env=empty, text=True, capture_output=True)
    assert done.stdout == "3000\n", done.stderr
