"""`make serve`: Orthanc with the plugin on this machine, without Docker, reachable from this machine alone."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import psutil

from plugin.settings import SECTION, BadSetting, Settings

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ("libOrthancPython.so", "libOrthancDicomWeb.so", "libOrthancGdcm.so")
PLUGIN_FOLDER = Path("/usr/share/orthanc/plugins")
PORTS = {"HTTP_PORT": 8042, "DICOM_PORT": 4242}
DEFAULTS: Mapping[str, Any] = {"RegisteredUsers": {}, "Plugins": [], "PythonScript": "plugin/main.py"}
"""Of the keys of orthanc.json to which something is added here."""


class CannotServe(Exception):
    """A sentence that says what is in the way and what to do."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who may use the server; `kept` says where a password is that was made up, `is_new` that this was just now."""

    user: str
    password: str
    kept: Path | None = None
    is_new: bool = False

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        """With the password that is given, else with the one that was made up, else with one made up now.

        That one is to be kept (`keep`) as soon as nothing is in the way of a start: it is printed at the first alone.

        :raises CannotServe: if the one that is given or kept cannot be used.
        """
        user = environ.get("CHEST_XRAY_USER") or "chest-xray"
        if password := given_password(environ):
            if "${" in password:
                raise CannotServe("The password contains ${, which Orthanc takes for a variable: choose another")
            return cls(user, password)
        kept = password_file(environ)
        if kept.exists() and (password := text_of(kept, "The password's file").strip()):
            return cls(user, password, kept)
        return cls(user, secrets.token_urlsafe(12), kept, is_new=True)

    def keep(self) -> None:
        """Write a password that was made up where it is found the next time.

        :raises CannotServe: if that cannot be done.
        """
        if not (self.is_new and self.kept):
            return
        try:
            write_secret(self.kept, self.password + "\n")
        except OSError as problem:
            raise CannotServe(f"The password cannot be kept in {self.kept}: {problem.strerror}") from None


def given_password(environ: Mapping[str, str]) -> str:
    """CHEST_XRAY_PASSWORD, or what stands in the file that CHEST_XRAY_PASSWORD_FILE names; empty if neither says one.

    :raises CannotServe: if that file cannot be read, or has no password in it.
    """
    file = environ.get("CHEST_XRAY_PASSWORD_FILE")
    if environ.get("CHEST_XRAY_PASSWORD") or not file:
        return environ.get("CHEST_XRAY_PASSWORD", "")
    if password := text_of(Path(file), "CHEST_XRAY_PASSWORD_FILE").rstrip("\r\n"):
        return password
    raise CannotServe(f"CHEST_XRAY_PASSWORD_FILE is {file}, which is empty: write the password into it")


def text_of(file: Path, what: str) -> str:
    """What stands in a file of the operator's.

    :raises CannotServe: if it cannot be read or is no text, calling the file what it is.
    """
    try:
        return file.read_text(encoding="utf-8")
    except OSError as problem:
        raise CannotServe(f"{what} is {file}, which cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise CannotServe(f"{what} is {file}, which is no text in UTF-8: save it as that") from None


def password_file(environ: Mapping[str, str]) -> Path:
    """Where a password that was made up is kept: outside of the repository."""
    home = environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "orthanc-chest-xray" / "password"


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can ever read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def storage_folder(environ: Mapping[str, str]) -> Path:
    """STORAGE, or a folder of the user's: radiographs do not belong in the repository."""
    home = Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return Path(environ.get("STORAGE") or home / "orthanc-chest-xray").resolve()


def configuration(environ: Mapping[str, str], account: Account) -> dict[str, Any]:
    """orthanc.json with what differs on this machine: addresses, folders, plugins and the account.

    :raises CannotServe: if a port is not a number, or orthanc.json cannot be read.
    """
    settings = own_configuration((ROOT / "orthanc.json").resolve())
    storage = str(storage_folder(environ))
    settings.update(
        RemoteAccessAllowed=False,
        HttpBindAddresses=["127.0.0.1"],  # Orthanc 1.10 does not know it, and answers other machines with 401
        HttpPort=port(environ, "HTTP_PORT"),
        DicomPort=port(environ, "DICOM_PORT"),
        StorageDirectory=storage,
        IndexDirectory=storage,
        RegisteredUsers={**settings["RegisteredUsers"], account.user: account.password},
        PythonScript=str(ROOT / settings["PythonScript"]),
        Plugins=[*(str(PLUGIN_FOLDER / name) for name in PLUGINS), *settings["Plugins"]],
    )
    section = settings.setdefault(SECTION, {})
    if isinstance(section, dict):  # else `Settings.read` says so
        section.setdefault("Python", sys.executable)
    return settings


def own_configuration(file: Path) -> dict[str, Any]:
    """What the operator has written for Orthanc: plain JSON, without the comments that Orthanc itself would take.

    :raises CannotServe: if it is something else, naming the file, the line and what is wrong there.
    """
    text = text_of(file, "The configuration")
    try:
        settings = json.loads(text)
    except json.JSONDecodeError as problem:
        raise CannotServe(f"{file}, line {problem.lineno}: {what_is_wrong(text, problem)}") from None
    if not isinstance(settings, dict):
        raise CannotServe(f"{file}: the whole must be a section in braces")
    for key, kind, allowed in (
        ("RegisteredUsers", dict, "a section in braces"),
        ("Plugins", list, "a list in brackets"),
        ("PythonScript", str, "a text in quotation marks"),
    ):
        if not isinstance(settings.setdefault(key, DEFAULTS[key]), kind):
            raise CannotServe(f"{file}: {key} is {settings[key]!r}; it must be {allowed}")
    return settings


def what_is_wrong(text: str, problem: json.JSONDecodeError) -> str:
    """In words for the two slips that are most common, else in the parser's."""
    rest, before = text[problem.pos :], text[: problem.pos].rstrip()
    if rest.startswith(("//", "/*", "#")):
        return "comments are not allowed in this file; remove it"
    # From 3.13 on, Python points to the comma itself.
    if (before.endswith(",") and rest.startswith(("}", "]", ","))) or "trailing comma" in problem.msg:
        return "there is a comma too many"
    return f"{problem.msg}, column {problem.colno}"


def port(environ: Mapping[str, str], name: str) -> int:
    """:raises CannotServe: if the variable is not a port's number."""
    text = environ.get(name) or str(PORTS[name])
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise CannotServe(f"{name} is {text!r}; it must be a number from 1 to 65535")
    return int(text)


def check_ports(environ: Mapping[str, str]) -> None:
    """:raises CannotServe: if a port cannot be had, naming the program that has it already where that can be seen."""
    wanted = {variable: port(environ, variable) for variable in PORTS}
    if len(set(wanted.values())) < len(wanted):
        raise CannotServe(f"HTTP_PORT and DICOM_PORT are both {wanted['HTTP_PORT']}; they must differ")
    for variable, number in wanted.items():
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", number))
        except PermissionError:
            raise CannotServe(f"{variable} is {number}: ports below 1024 are for root alone") from None
        except OSError:
            raise CannotServe(
                f"Port {number} is taken by {listener(number)}: choose another one with {variable}=..., or end that"
                " program (Debian's own Orthanc service: systemctl disable --now orthanc)"
            ) from None


def listener(number: int) -> str:
    """The program that listens on a port, as far as this user may know."""
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr[1:] == (number,) and one.pid:
            return f"{psutil.Process(one.pid).name()} (process {one.pid})"
    return "another program"


def orthanc_command(environ: Mapping[str, str], account: Account) -> list[str]:
    """Check everything, write the effective configuration, and give the command that starts Orthanc.

    :raises CannotServe: if something is missing or in the way.
    """
    program = shutil.which("Orthanc", path=f"{environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    missing = [name for name in PLUGINS if not (PLUGIN_FOLDER / name).exists()]
    if not program or missing:
        raise CannotServe(
            "Orthanc or one of its plugins is not installed: `make system` installs them on Debian and Ubuntu"
        )
    settings = configuration(environ, account)
    try:
        Settings.read(settings[SECTION], environ)
    except BadSetting as sentence:
        raise CannotServe(str(sentence)) from None
    check_ports(environ)
    file = Path(settings["StorageDirectory"]) / "orthanc.json"
    write_secret(file, json.dumps(settings, indent=2))
    return [program, str(file)]


def claim(storage: Path) -> None:
    """Keep a folder for this process, and for Orthanc which takes its place: two of them on one would harm it.

    :raises CannotServe: if another one has it, or it cannot be written to.
    """
    try:
        storage.mkdir(parents=True, exist_ok=True)
        lock = os.open(storage / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        os.set_inheritable(lock, True)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotServe(f"Another server is using {storage}: choose another folder with STORAGE=...") from None
    except OSError as problem:
        raise CannotServe(f"STORAGE is {storage}, which cannot be used: {problem.strerror}") from None


def environ_for_orthanc(environ: Mapping[str, str]) -> dict[str, str]:
    """Without the password, which is no affair of the processes that open files, and with what keeps Orthanc small.

    What a radiograph took goes back to the system at once, and comes in pages of 2 MB, so that getting it again is
    cheap; what a CT slice took is kept for the next.
    """
    malloc = {"hugetlb": 1, "mmap_threshold": 1 << 20, "trim_threshold": 16 << 20}
    tunables = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in malloc.items())}
    return tunables | {name: value for name, value in environ.items() if not name.startswith("CHEST_XRAY_PASSWORD")}


def announce(settings_environ: Mapping[str, str], account: Account) -> None:
    """Say where the pages are and who may see them; a password is printed only when it is new."""
    print(f"Orthanc:  http://localhost:{port(settings_environ, 'HTTP_PORT')}/  (results: /chest-xray/)")
    print(f"DICOM:    port {port(settings_environ, 'DICOM_PORT')}")
    if account.is_new:
        print(f"Account:  {account.user}, password {account.password} (printed this once)")
    if account.kept:
        print(f"The password of {account.user} is kept in {account.kept}")
    print("Not a medical device; not for diagnosis.", flush=True)


def main() -> NoReturn:
    """Become Orthanc, in the foreground."""
    try:
        claim(storage_folder(os.environ))
        account = Account.find(os.environ)
        command = orthanc_command(os.environ, account)
        account.keep()
        announce(os.environ, account)
    except CannotServe as sentence:
        print(sentence, file=sys.stderr)
        sys.exit(2)
    # Replaced by Orthanc, so that signals and the exit status are its own.
    os.execve(command[0], command, environ_for_orthanc(os.environ))


if __name__ == "__main__":
    main()
