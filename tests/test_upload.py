"""upload.py against a real Orthanc, against one that drops connections, and against a stand-in for the plugin."""

import contextlib
import csv
import gzip
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

import upload
from demo.phantoms import radiograph, to_bytes

ROOT = Path(__file__).parents[1]
FILTER = "function ReceivedInstanceFilter(dicom) return dicom.PatientID ~= 'UNWANTED' end"


def image(seed: int, **arguments: Any) -> bytes:
    return to_bytes(radiograph(seed, rows=32, columns=32, **arguments))


@contextmanager
def orthanc(folder: Path, **settings: Any) -> Iterator[str]:
    """Orthanc alone, without our plugin."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "filter.lua").write_text(FILTER)
    configuration = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": False,
        "LuaScripts": [str(folder / "filter.lua")],
        "Plugins": [],
        **settings,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(url))
        yield url
    finally:
        process.kill()  # it takes seconds to end in peace, and nothing of it is needed
        process.wait(timeout=20)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/system", timeout=2).status_code in (200, 401)
    except requests.ConnectionError:
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as url:
        yield url


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(upload, "BACKOFF", 0.01)
    for variable in ("CHEST_XRAY_USER", "CHEST_XRAY_PASSWORD", "ORTHANC_URL", "NETRC"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_folder_with_everything_in_it(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = tmp_path / "scans"
    (scans / "deep" / "er").mkdir(parents=True)
    (scans / "deep" / "er" / "one.dcm").write_bytes(image(1))
    (scans / "two").write_bytes(image(2))
    (scans / "headerless.dcm").write_bytes(image(3)[132:])
    (scans / "notes.txt").write_text("no radiograph")
    (scans / "empty").touch()
    (scans / "cut.dcm").write_bytes(image(4)[:700])
    (scans / "unwanted.dcm").write_bytes(image(5, patient_id="UNWANTED"))
    (scans / "DICOMDIR").write_bytes(image(6, SOPClassUID="1.2.840.10008.1.3.10"))

    assert upload.main(["--url", server, str(scans)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines[:-1]) == [
        f"not DICOM: {scans}/empty",
        f"not DICOM: {scans}/notes.txt",
        f"refused: {scans}/cut.dcm: Cannot parse an invalid DICOM file (size: 700 bytes) (HTTP 400)",
        f"refused: {scans}/unwanted.dcm: a filter in Orthanc's configuration does not want it",
    ]
    assert lines[-1] == "8 files: 3 new, 0 already there, 2 refused, 2 not DICOM, 1 DICOMDIR"
    assert len(requests.get(f"{server}/instances", timeout=5).json()) == 3

    assert upload.main(["--url", server, "--recursive", str(scans / "deep"), str(scans / "two")]) == 0
    assert capsys.readouterr().out == "2 files: 0 new, 2 already there, 0 refused, 0 not DICOM\n"


def test_a_zip_is_sent_member_by_member(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        archive.writestr("folder/good.dcm", image(11))
        archive.writestr("cut.dcm", image(12)[:600])
        archive.writestr("read.me", "text")
        archive.writestr("huge.dcm", image(13) + bytes(2_000_000))
    damaged = bytearray((tmp_path / "a.zip").read_bytes())
    damaged[80:120] = bytes(40)
    (tmp_path / "damaged.zip").write_bytes(damaged)
    (tmp_path / "half.zip").write_bytes(damaged[:500])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload, "LARGEST_MEMBER", 1 << 20)
        assert upload.main(["--url", server, str(tmp_path / "a.zip")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"refused: {tmp_path}/a.zip/cut.dcm: "
        "Inexistent tag, an identifier such as StudyInstanceUID is missing (HTTP 404)",
        f"not DICOM: {tmp_path}/a.zip/read.me",
        f"refused: {tmp_path}/a.zip/huge.dcm: cannot be unpacked: it is larger than 1 MiB",
        "4 files: 1 new, 0 already there, 2 refused, 1 not DICOM",
    ]
    assert upload.main(["--url", server, str(tmp_path / "damaged.zip"), str(tmp_path / "half.zip")]) == 1
    printed = capsys.readouterr().out
    assert f"refused: {tmp_path}/damaged.zip/folder/good.dcm: cannot be unpacked: " in printed
    assert f"refused: {tmp_path}/half.zip: cannot be unpacked: File is not a zip file\n" in printed


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, BytesIO(data))
    return packed.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def test_tars_of_all_kinds_and_archives_in_archives(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, mode in enumerate(("w", "w:gz", "w:bz2", "w:xz")):
        (tmp_path / f"{number}.tar").write_bytes(tarred({"read.me": b"text", "a/b.dcm": image(400 + number)}, mode))
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"something else"))
    inside = tarred({"one.zip": zipped({"two.dcm": image(410)}), "large.dcm": image(411) + bytes(upload.IN_MEMORY)})
    (tmp_path / "outer.zip").write_bytes(zipped({"inside.tar": inside}))
    assert upload.main(["--url", server, str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sorted(printed[:-1]) == [
        *(f"not DICOM: {tmp_path}/{number}.tar/read.me" for number in range(4)),
        f"not DICOM: {tmp_path}/other.gz",
    ]
    assert printed[-1] == "11 files: 6 new, 0 already there, 0 refused, 5 not DICOM"


def test_bombs_are_bounded(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        assert upload.main(["--url", server, str(tmp_path / name)]) == 1
        (line, *_) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("refused"))
        return line

    nested = image(420)
    for _ in range(5):
        nested = zipped({"a": nested})
    assert refusal("deep.zip", nested) == (
        f"refused: {tmp_path}/deep.zip/a/a/a: cannot be unpacked: it is inside of too many others"
    )
    monkeypatch.setattr(upload, "LARGEST_MEMBER", 1 << 20)
    monkeypatch.setattr(upload, "RATIO", 2)
    wide = zipped({f"{number}.zip": zipped({"zeros": bytes(600_000)}) for number in range(3)})
    assert "cannot be unpacked: it unpacks to more than 2 times its size" in refusal("wide.zip", wide)
    assert "it unpacks to more than 2 times its size" in refusal("long.tgz", tarred({"a": bytes(3 << 20)}, "w:gz"))
    names = tarfile.TarInfo("a")
    names.pax_headers = {"comment": "a" * 2_000_000}
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("first"))
        archive.addfile(names)
    assert "one of its headers is too large" in refusal("names.tgz", packed.getvalue())


@pytest.mark.parametrize(
    "data, said",
    [
        (image(430), "1 file: 1 new"),
        (zipped({"a": image(431), "b": image(432)}), "2 files: 2 new"),
        (tarred({"a": image(433), "b": image(434)}, "w:gz"), "2 files: 2 new"),
        (b"words", "not DICOM: standard input"),
        (b"", "not DICOM: standard input"),
    ],
    ids=["a file", "a ZIP", "a tar", "words", "nothing"],
)
def test_standard_input(server: str, data: bytes, said: str) -> None:
    printed = run_with_input(data, "-", "--url", server, status=int("not DICOM" in said))
    assert printed.startswith(said)


def run_with_input(data: bytes, *options: str, status: int = 0) -> str:
    command = [sys.executable, str(ROOT / "upload.py"), *options]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == status
    return done.stdout.decode()


def test_paths_from_a_list(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("one.dcm", "with space.dcm")]
    for number, path in enumerate(paths):
        path.write_bytes(image(440 + number))
    (tmp_path / "list").write_text(f"{paths[0]}\n{paths[1]}\n{tmp_path}/gone.dcm\n")
    assert upload.main(["--url", server, "--files-from", str(tmp_path / "list")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"refused: {tmp_path}/gone.dcm: is not there",
        "3 files: 2 new, 0 already there, 1 refused, 0 not DICOM",
    ]
    listed = b"".join(bytes(path) + b"\0" for path in paths)
    printed = run_with_input(listed, "--files-from", "-", "--url", server)
    assert printed == "2 files: 0 new, 2 already there, 0 refused, 0 not DICOM\n"


def dicomdir(*names: list[str]) -> bytes:
    records = []
    for name in names:
        record = pydicom.Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        records.append(record)
    ds = radiograph(1, rows=32, columns=32, SOPClassUID="1.2.840.10008.1.3.10")
    ds.DirectoryRecordSequence = records
    return to_bytes(ds)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_a_dicomdir_stands_for_what_it_names(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "disc" / "images").mkdir(parents=True)
    (tmp_path / "disc" / "images" / "im1").write_bytes(image(450))
    (tmp_path / "disc" / "IM2").write_bytes(image(451))
    (tmp_path / "disc" / "unnamed").write_bytes(image(452))
    index = tmp_path / "disc" / "DICOMDIR"
    index.write_bytes(dicomdir(["IMAGES", "IM1"], ["IM2"], ["IM3"]))
    assert upload.main(["--url", server, str(index)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"refused: {tmp_path}/disc/IM3: cannot be read: No such file or directory",
        "4 files: 2 new, 0 already there, 1 refused, 0 not DICOM, 1 DICOMDIR",
    ]
    assert upload.main(["--url", server, str(index.parent)]) == 0
    assert capsys.readouterr().out == "4 files: 1 new, 2 already there, 0 refused, 0 not DICOM, 1 DICOMDIR\n"

    index.write_bytes(dicomdir(["..", "secret"]))
    assert upload.main(["--url", server, str(index)]) == 1
    assert "this DICOMDIR cannot be read: it names " in capsys.readouterr().out


def test_a_dry_run_sends_nothing_and_knows_what_is_there(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").write_bytes(image(460))
    assert upload.main(["--url", server, str(tmp_path)]) == 0
    (tmp_path / "absent").write_bytes(image(461))
    capsys.readouterr()
    for _ in range(2):
        assert upload.main(["--url", server, str(tmp_path), "--dry-run", "--results", str(tmp_path / "out")]) == 0
        assert capsys.readouterr().out == (
            "Nothing was sent. Of 2 files: 1 new, 1 already there, 0 refused, 0 not DICOM\n"
        )
    assert not (tmp_path / "out").exists()


def test_a_summary_for_programs(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.dcm").write_bytes(image(470))
    (tmp_path / "b.txt").write_text("words")

    def summary() -> dict[str, Any]:
        upload.main(["--url", server, str(tmp_path), "--json"])
        printed = capsys.readouterr()
        assert f"not DICOM: {tmp_path}/b.txt\n" in printed.err
        return dict(json.loads(printed.out))

    first, second = summary(), summary()
    assert first.pop("seconds") > 0
    assert first == {
        "url": server,
        "dry_run": False,
        "bytes": len(image(470)),
        "files": 2,
        "new": 1,
        "already_there": 0,
        "replaced": 0,
        "other_content": 0,
        "refused": 0,
        "not_dicom": 1,
        "dicomdir": 0,
        "problems": [{"name": f"{tmp_path}/b.txt", "status": "not DICOM", "reason": ""}],
        "results": dict.fromkeys(("done", "failed", "pending", "skipped", "not_a_radiograph"), 0),
    }
    assert (second["already_there"], second["bytes"]) == (1, 0)  # what is there is not sent again
    for field in first:
        assert field in upload.EPILOG

    assert upload.main(["--url", "http://127.0.0.1:9", str(tmp_path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == {
        "url": "http://127.0.0.1:9",
        "error": "no answer from http://127.0.0.1:9: Connection refused",
    }


@pytest.mark.parametrize(
    "overwrite, status, said",
    [(False, "other content", "Orthanc keeps"), (True, "replaced", "it took the place of")],
)
def test_files_that_share_their_identifiers_are_told_apart_by_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overwrite: bool, status: str, said: str
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    paths = [scans / name for name in ("a", "b", "c")]
    for path, content in zip(paths, (image(480), image(480)[:-1] + b"\7", image(480)), strict=True):
        path.write_bytes(content)
    with orthanc(tmp_path, OverwriteInstances=overwrite) as url:
        assert upload.main(["--url", url, str(paths[0]), str(paths[1])]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{status}: {paths[1]}: {said} another file with the same identifiers: {paths[0]}",
            f"2 files: 1 new, 0 already there, 1 {status}, 0 refused, 0 not DICOM",
        ]
        assert upload.main(["--url", url, str(paths[2])]) == 0  # what the first said, again
        printed = capsys.readouterr().out.splitlines()
        if overwrite:
            assert printed[0] == f"replaced: {paths[2]}: {said} another file with the same identifiers"
        else:
            assert printed == ["1 file: 0 new, 1 already there, 0 refused, 0 not DICOM"]


def test_the_account(tmp_path: Path) -> None:
    (tmp_path / "one.dcm").write_bytes(image(1))
    (tmp_path / "password").write_text("käse:1\n")
    users = {"anna": "käse:1", "bert": "plain", "chest-xray": "ours"}
    with orthanc(tmp_path, RegisteredUsers=users, AuthenticationEnabled=True) as url:

        def run(*options: str, **environment: str) -> tuple[int, str]:
            command = [sys.executable, str(ROOT / "upload.py"), str(tmp_path / "one.dcm"), "--url", url, *options]
            env = {**os.environ, **environment}
            done = subprocess.run(
                command, env=env, text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False
            )
            assert "käse" not in done.stdout + done.stderr
            return done.returncode, done.stderr

        for nobody in ({}, {"CHEST_XRAY_USER": "", "CHEST_XRAY_PASSWORD": ""}):
            assert run(**nobody) == (
                2,
                f"upload.py: {url} wants a password: set CHEST_XRAY_PASSWORD or give --password-file\n",
            )
        assert run(CHEST_XRAY_PASSWORD="ours") == (0, "")  # of the account that the server has unless told otherwise
        assert run("--user", "anna") == (
            2,
            "upload.py: no password for anna: set CHEST_XRAY_PASSWORD or give --password-file\n",
        )
        assert run("--user", "anna", CHEST_XRAY_PASSWORD="käse:2") == (
            2,
            f"upload.py: {url} does not accept this password of anna\n",
        )
        assert run("--user", "anna", CHEST_XRAY_PASSWORD="käse:1") == (0, "")
        assert run(CHEST_XRAY_USER="anna", CHEST_XRAY_PASSWORD="käse:1") == (0, "")
        assert run("--user", "anna", "--password-file", str(tmp_path / "password")) == (0, "")
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login bert password wrong")
        assert run()[0] == 2
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login bert password plain")
        assert run() == (0, "")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An Orthanc that nobody may use without a password."""
    users = {"chest-xray": "ours", "anna": "käse"}
    with orthanc(tmp_path_factory.mktemp("guarded"), RegisteredUsers=users, AuthenticationEnabled=True) as url:
        yield url


@pytest.mark.parametrize(
    "options, typed, status, said",
    [
        ([], "ours\n", 0, "1 file: "),
        (["--user", "anna"], "käse\n", 0, "1 file: "),
        ([], "other\n", 2, "upload.py: {url} does not accept this password of chest-xray\n"),
        ([], "\4", 2, "upload.py: no password for chest-xray\n"),  # Ctrl-D
    ],
)
def test_at_a_terminal_the_password_is_asked_for(
    guarded: str, tmp_path: Path, options: list[str], typed: str, status: int, said: str
) -> None:
    (tmp_path / "one.dcm").write_bytes(image(1))
    leader, follower = pty.openpty()
    command = [sys.executable, str(ROOT / "upload.py"), str(tmp_path), "--url", guarded, *options]
    pipes: dict[str, Any] = {"stdin": follower, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        os.close(follower)
        question = f"Password of {options[1] if options else 'chest-xray'} at {guarded}: "
        assert process.stdout and process.stdout.read(len(question)).decode() == question
        os.write(leader, typed.encode())
        assert said.format(url=guarded) in process.stdout.read().decode()
    os.close(leader)
    assert process.returncode == status


def test_an_address_without_orthanc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for url, sentence in {
        f"http://127.0.0.1:{port}": f"no answer from http://127.0.0.1:{port}: Connection refused",
        "localhost:8042": "localhost:8042 is no address like http://localhost:8042",
        "http://a:secret@localhost": "the account belongs into --user and CHEST_XRAY_PASSWORD, not into the address",
    }.items():
        assert upload.main(["--url", url, str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"upload.py: {sentence}\n"


@pytest.mark.parametrize(
    "options, sentence",
    [(["nowhere"], "there is no nowhere"), ([".", "--connections", "0"], "0 is not a whole number above 0")],
)
def test_wrong_options(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        upload.main(options)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_password_over_plain_http_is_worth_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(upload.Stop, match="no answer"):
        upload.connect("http://nowhere.invalid", ("anna", "secret"), 1)
    printed = capsys.readouterr().err
    assert "the password goes to nowhere.invalid unencrypted" in printed
    assert "secret" not in printed


@contextmanager
def flaky(url: str, drop: Callable[[int], str]) -> Iterator[tuple[str, list[str]]]:
    """A proxy that drops connections: `drop(n)` is `before` or `after` the nth request was passed on,
    `cut` in its answer, `stale` behind it, or empty.
    """
    target = ("127.0.0.1", int(url.rpartition(":")[2]))
    listener = socket.create_server(("127.0.0.1", 0))
    dropped: list[str] = []
    lock, requests_seen = threading.Lock(), iter(range(10**9))

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(target) as upstream:
            while request := whole_message(client):
                with lock:
                    kind = drop(next(requests_seen))
                    dropped.extend([kind] if kind else [])
                if kind == "before":
                    return
                upstream.sendall(request)
                answer = whole_message(upstream)
                if kind == "after":
                    return
                client.sendall(answer[:-20] if kind == "cut" else answer)
                if kind == "cut":  # in the middle of the answer
                    return
                if kind == "stale":  # answered, and then closed while the client thinks that it is kept
                    return

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", dropped
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def whole_message(connection: socket.socket) -> bytes:
    """One HTTP message with a Content-Length, or nothing where the peer has closed."""
    message = b""
    while b"\r\n\r\n" not in message:
        if not (more := connection.recv(65536)):
            return b""
        message += more
    head, _, body = message.partition(b"\r\n\r\n")
    length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
    while len(body) < length and (more := connection.recv(65536)):
        body += more
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize("kind", ["before", "cut", "after", "stale"])
def test_dropped_connections_lose_no_file(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    patient = f"DROPPED-{kind}"
    for seed in range(16):
        (tmp_path / f"{seed}.dcm").write_bytes(image(100 + seed, patient_id=patient))
    faults = range(2, 3 * upload.TRIES - 1, 3)  # fewer than one file is tried, whichever they hit
    with flaky(server, lambda n: kind if n in faults else "") as (url, dropped):
        assert upload.main(["--url", url, str(tmp_path)]) == 0
    assert dropped == [kind] * (upload.TRIES - 1)
    printed = capsys.readouterr().out
    assert printed.startswith("16 files: ")
    assert printed.endswith(" 0 refused, 0 not DICOM\n")
    query = {"Level": "Instance", "Query": {"PatientID": patient}}
    assert len(requests.post(f"{server}/tools/find", json=query, timeout=5).json()) == 16


def test_a_file_that_never_gets_through_is_refused_and_the_others_are_not(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.dcm").write_bytes(image(200))
    with flaky(server, lambda n: "before" if 2 <= n <= upload.TRIES + 1 else "") as (url, _):
        assert upload.main(["--url", url, str(tmp_path)]) == 1
    assert f"refused: {tmp_path}/a.dcm: no answer to it after 6 tries: " in capsys.readouterr().out


def test_an_orthanc_that_goes_away_ends_it(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.dcm").write_bytes(image(201))
    with flaky(server, lambda n: "before" if n else "") as (url, _):
        assert upload.main(["--url", url, str(tmp_path)]) == 2
    assert f"upload.py: no answer from {url}: " in capsys.readouterr().err


class Plugin(BaseHTTPRequestHandler):
    """An Orthanc whose plugin gives the answers that stand in `answers`, one after another."""

    answers: dict[str, list[dict[str, Any]]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if self.path == "/system":
            self.reply({"DicomAet": "TEST"})
        elif self.path == "/chest-xray/status":
            self.reply({"ready": True})
        elif parts[-1] == "chest-xray":
            left = self.answers[parts[1]]
            self.reply(left.pop(0) if len(left) > 1 else left[0])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        known = (
            {"Status": "Success", "ID": str(pydicom.dcmread(BytesIO(body)).PatientID)}
            if self.path == "/instances"
            else []
        )
        self.reply(known)

    def reply(self, value: object) -> None:
        body = json.dumps(value, indent=3, ensure_ascii=False).encode()
        self.send_response(200 if "error" not in str(value) else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def plugin(answers: dict[str, list[dict[str, Any]]], base: type[Plugin] = Plugin) -> Iterator[str]:
    handler = type("Handler", (base,), {"answers": answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        listening.daemon_threads = True
        listening.block_on_close = False
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def done(instance: str, uid: str = "1.2.3", weights: str = "trained", **image: str) -> dict[str, Any]:
    return {
        "state": "done",
        "instance": instance,
        "scores": {"Mass": 0.25, "Lung Opacity": 0.75, "Hernia": 0.125},
        "image": {"SOPInstanceUID": uid, "PatientID": "P", "ViewPosition": "PA", "Modality": "DX", **image},
        "model": {"name": "m", "version": "1", "weights": weights, "weights_sha256": "ab"},
        "warnings": ["One.", "Two."],
        "disclaimer": "Not for diagnosis.",
    }


PENDING = {"state": "pending", "instance": "a", "reason": "It is waiting"}


def scans(folder: Path, *instances: str) -> list[str]:
    """Files of images to which `Plugin` gives these ids."""
    for instance in instances:
        modality = "CT" if instance == "ct" else "DX"
        data = image(1, patient_id=instance, SOPInstanceUID="1.2.9", Modality=modality)
        (folder / f"{instance}.dcm").write_bytes(data)
    return [str(folder / f"{instance}.dcm") for instance in instances]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_waited_for_and_written_as_they_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    answers = {"a": [PENDING, PENDING, done("a", PatientID="=1+1")], "ct": [{"state": "skipped", "reason": "CT"}]}
    with plugin(answers) as url:
        status = upload.main([*scans(tmp_path, "a", "ct"), "--url", url, "--results", str(out)])
        assert (out / "1.2.3.json").read_bytes() == requests.get(f"{url}/instances/a/chest-xray", timeout=5).content
    assert status == 0
    assert sorted(file.name for file in out.iterdir()) == ["1.2.3.json", "results.csv"]
    (row,) = rows(out)
    assert row["PatientID"] == "'=1+1"
    assert (row["state"], row["SOPInstanceUID"], row["warnings"]) == ("done", "1.2.3", "One. Two.")
    assert list(row)[-3:] == ["Mass", "Lung Opacity", "Hernia"]
    assert float(row["Lung Opacity"]) == 0.75
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "2 files: 2 new, 0 already there, 0 refused, 0 not DICOM"
    assert lines[1].split() == ["Image", "View", "Warnings", "Highest", "scores"]
    assert " ".join(lines[2].split()) == f"{tmp_path}/a.dcm PA 2 Lung Opacity 0.750 Mass 0.250 Hernia 0.125"
    assert lines[3:] == ["Not for diagnosis.", f"Results in {out}: 1 done, 1 not a radiograph"]


def test_what_failed_or_was_skipped_is_said_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {
        "bad": [{"state": "failed", "instance": "bad", "reason": "No pixels"}],
        "colour": [{"state": "skipped", "instance": "colour", "reason": "It is in colour"}],
        "gone": [{"error": "Orthanc has no instance gone"}],
    }
    with plugin(answers) as url:
        files = scans(tmp_path, "bad", "colour", "gone")
        assert upload.main([*files, "--url", url, "--results", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"failed: {tmp_path}/bad.dcm: No pixels",
        f"skipped: {tmp_path}/colour.dcm: It is in colour",
        f"note: {tmp_path}/colour.dcm shares its SOPInstanceUID with another image; its result is in 1.2.9_colour.json",
        f"failed: {tmp_path}/gone.dcm: Orthanc has no instance gone (HTTP 404)",
        f"Results in {tmp_path}/out: 0 done, 2 failed, 1 skipped",
    ]
    assert [(row["SOPInstanceUID"], row["state"], row["reason"]) for row in rows(tmp_path / "out")] == [
        ("1.2.9", "failed", "No pixels"),
        ("1.2.9", "skipped", "It is in colour"),
    ]


def test_two_images_with_one_uid_keep_both_results_and_a_second_run_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with plugin({"a": [done("a")], "b": [done("b")], "c": [done("c", uid="../../c")]}) as url:
        for _ in range(2):
            command = [*scans(tmp_path, "a", "b", "c"), "--url", url, "--results", str(out)]
            assert upload.main(command) == 0
            assert "its result is in 1.2.3_b.json" in capsys.readouterr().out
            files = {file.name: json.loads(file.read_bytes())["instance"] for file in out.glob("*.json")}
            assert files == {"1.2.3.json": "a", "1.2.3_b.json": "b", "c.json": "c"}
            assert [row["instance"] for row in rows(out)] == ["a", "b", "c"]


def test_stand_in_weights_are_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with plugin({"a": [done("a", weights="stand-in")]}) as url:
        assert upload.main([*scans(tmp_path, "a"), "--url", url, "--results", str(tmp_path / "out")]) == 0
    assert "STAND-IN WEIGHTS" in capsys.readouterr().out


def test_waiting_ends_when_nothing_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with plugin({"a": [PENDING], "b": [done("b")]}) as url:
        command = [*scans(tmp_path, "a", "b"), "--url", url, "--results", str(tmp_path / "out"), "--timeout", "1"]
        assert upload.main(command) == 1
    printed = capsys.readouterr().out
    assert f"pending: {tmp_path}/a.dcm: It is waiting\n" in printed
    assert "1 done, 1 pending" in printed


def test_results_that_cannot_be_written_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.2.3.json").mkdir()
    with plugin({"a": [done("a")]}) as url:
        assert upload.main([*scans(tmp_path, "a"), "--url", url, "--results", str(tmp_path / "out")]) == 2
        assert f"Is a directory: '{tmp_path}/out/1.2.3.json'" in capsys.readouterr().err
        assert upload.main([str(tmp_path / "a.dcm"), "--url", url, "--results", str(tmp_path / "a.dcm")]) == 2
        assert f"upload.py: {tmp_path}/a.dcm cannot be made: File exists" in capsys.readouterr().err


def test_results_need_the_plugin(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.dcm").write_bytes(image(300))
    assert upload.main([str(tmp_path), "--url", server, "--results", str(tmp_path / "out")]) == 2
    assert "has no chest X-ray plugin (HTTP 404)" in capsys.readouterr().err


def test_ctrl_c_ends_it_at_once_even_while_orthanc_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(image(490))
    stalled = threading.Event()

    class Stalling(Plugin):
        def do_POST(self) -> None:
            if self.path == "/instances":
                stalled.set()
                time.sleep(20)
            super().do_POST()

    with plugin({}, Stalling) as url:
        command = [sys.executable, str(ROOT / "upload.py"), str(tmp_path), "--url", url]
        running = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run in the background
        )
        assert stalled.wait(20)
        began = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=10)
    assert running.returncode == 130
    assert said == "upload.py: stopped; run it again: what Orthanc has is not sent again\n"
    assert time.monotonic() - began < 5


def on_a_terminal(*command: str, **environment: str) -> str:
    """What a program prints to a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdout=follower, env={**os.environ, "TERM": "xterm-256color", **environment})
    os.close(follower)
    printed = b""
    with contextlib.suppress(OSError):  # Linux's word for its end
        while data := os.read(leader, 65536):
            printed += data
    os.close(leader)
    assert process.wait(20) == 0
    return printed.decode()


def test_colours_and_a_bar_on_a_terminal_and_no_colours_where_nobody_wants_them(server: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    for seed in range(20):
        (tmp_path / f"{seed}.dcm").write_bytes(image(500 + seed))
    command = [sys.executable, str(ROOT / "upload.py"), str(tmp_path), "--url", server]
    printed = on_a_terminal(*command)
    assert "\x1b[2mnot DICOM: " in printed
    assert "21/21" in printed
    assert "/s" in printed
    plain = on_a_terminal(*command, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", plain)


def test_only_a_few_items_are_under_way_and_the_order_is_kept() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(1000):
            taken.append(n)
            yield n

    results = upload.concurrently(lambda n: -n, items(), 4)
    assert [next(results) for _ in range(5)] == [0, -1, -2, -3, -4]
    assert len(taken) < 20
    results.close()  # type: ignore[attr-defined]


def test_nothing_printed_can_command_a_terminal() -> None:
    assert upload.printable("a\x1b[2J\udcff.dcm") == "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}.dcm"


def test_it_asks_for_the_releases_that_the_project_has() -> None:
    """`uv run upload.py` and `pipx run upload.py` read it (PEP 723)."""
    script = (ROOT / "upload.py").read_text()
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", script, re.MULTILINE)
    assert block
    declared = tomllib.loads(re.sub(r"^# ?", "", block[1], flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert declared["requires-python"] == project["requires-python"]
    assert set(declared["dependencies"]) < {*project["dependencies"], *project["optional-dependencies"]["tools"]}
    names = " ".join(each.partition("==")[0] for each in declared["dependencies"])
    for text in (script, *(file.read_text() for file in ROOT.glob("README*.md"))):
        assert f"`pip install {names}`" in text


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a copy of upload.py in an interpreter that has nothing but its standard library."""
    script = tmp_path / "upload.py"
    script.write_text((ROOT / "upload.py").read_text())
    folder = tmp_path / "somebody's files"
    folder.mkdir()
    for name in ("venv", "pip", "secrets"):  # not to be imported, whatever folder one is in
        (folder / f"{name}.py").write_text("raise SystemExit('run by accident')")

    def run(*options: str, standard_input: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), **variables}
        python = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        command = [python, "-S", script, *(options or ["--help"])]
        pipes: dict[str, Any] = {"text": True, "capture_output": True, "input": standard_input}
        return subprocess.run(command, cwd=folder, env=env, timeout=120, check=False, **pipes)

    return run


def test_what_it_needs_it_installs_once(bare: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    send = ["-", "--dry-run", "--json", "--url", "http://localhost:9"]
    first = bare(*send, standard_input="no DICOM file, and no answer to a question of pip's")
    assert first.returncode == 2
    assert json.loads(first.stdout)["error"].startswith("no answer from http://localhost:9")
    installing, *_ = first.stderr.splitlines()
    assert installing.startswith("upload.py: installing pydicom==")
    second = bare(PIP_NO_INDEX="1")
    assert second.returncode == 0
    assert "examples:" in second.stdout
    assert second.stderr == ""
    assert len(list((tmp_path / "cache" / "chest-xray-upload").iterdir())) == 1


def test_where_nothing_can_be_installed_it_says_what_it_needs(
    bare: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    cases = {
        "ERROR: No matching distribution found for pydicom": {"PIP_NO_INDEX": "1"},
        f"Not a directory: '{blocked}/chest-xray-upload'": {"XDG_CACHE_HOME": str(blocked)},
    }
    for reason, variables in cases.items():
        run = bare("--json", "x", **variables)
        sentence = run.stderr.splitlines()[-1]
        assert run.returncode == 2
        assert sentence.startswith("upload.py needs Python 3.11 with pydicom, requests and rich (`pip install ")
        assert reason in sentence
        assert json.loads(run.stdout) == {"error": sentence}
    assert not list((tmp_path / "cache" / "chest-xray-upload").iterdir())


def test_the_project_s_own_environment_serves_too(
    bare: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    interpreter = tmp_path / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    helped = bare()
    assert helped.returncode == 0
    assert "examples:" in helped.stdout
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", ["", '#!/bin/sh\nexec {python} -S "$@"\n'], ids=["no program", "no libraries"])
def test_an_environment_of_the_project_that_is_not_whole_is_tried_once(
    bare: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, content: str
) -> None:
    interpreter = tmp_path / ".venv" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.write_text(content.format(python=sys.executable))
    interpreter.chmod(0o755)
    own = bare(PIP_NO_INDEX="1")
    assert own.returncode == 2
    assert "No matching distribution found" in own.stderr
