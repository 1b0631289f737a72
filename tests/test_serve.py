"""What is found out before Orthanc is started natively: the account, the ports, and in which order."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from demo import demo
from demo.serve import Account, CannotServe, announce, check_ports, environ_for_orthanc
from tests.pacs import free_port


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Of a user who has chosen nothing yet."""
    ports = {"HTTP_PORT": str(free_port()), "DICOM_PORT": str(free_port())}
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "STORAGE": str(tmp_path / "storage"), **ports}


def test_a_password_is_made_up_once(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Account.find(environ), Account.find(environ)
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
    assert not (tmp_path / "config").exists()


def test_ports(environ: dict[str, str]) -> None:
    check_ports(environ)
    with pytest.raises(CannotServe, match="must differ"):
        check_ports(environ | {"DICOM_PORT": environ["HTTP_PORT"]})
    with pytest.raises(CannotServe, match=r"^DICOM_PORT is 'x'; it must be a number"):
        check_ports(environ | {"DICOM_PORT": "x"})
    taken = pytest.raises(CannotServe, match=rf"^Port {environ['HTTP_PORT']} is taken by \w+")
    with socket.create_server(("127.0.0.1", int(environ["HTTP_PORT"]))), taken:
        check_ports(environ)


def test_the_demo_finds_a_port_taken_before_it_prepares_the_model(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(demo, "choose_weights", lambda: pytest.fail("minutes later"))
    with socket.create_server(("127.0.0.1", int(environ["DICOM_PORT"]))):
        assert demo.main() == 2
    assert f"Port {environ['DICOM_PORT']} is taken" in capsys.readouterr().err
