"""Orthanc's HTTP server in every form that an operator may give it: the way back works, or the start says why not."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests

from plugin.archive import Archive, ArchiveUnavailable
from plugin.settings import Connection
from tests.faults.conftest import Start
from tests.faults.counting import expect_one_report_each
from tests.faults.images import images
from tests.image import container
from tests.pacs import IMAGE, Pacs


def expect_a_report(pacs: Pacs) -> None:
    pacs.wait_until_ready()
    (data,) = images(1)
    pacs.upload(data)
    expect_one_report_each(pacs, 1)


def test_without_authentication(start: Start) -> None:
    with start({"AuthenticationEnabled": False}) as pacs:
        pacs.session.auth = None
        expect_a_report(pacs)


def test_reachable_from_everywhere_with_authentication(start: Start) -> None:
    with start({"RemoteAccessAllowed": True, "HttpBindAddresses": ["0.0.0.0"]}) as pacs:
        expect_a_report(pacs)


def test_without_keeping_connections_alive(start: Start) -> None:
    with start({"KeepAlive": False, "HttpThreadsCount": 2}) as pacs:
        expect_a_report(pacs)


def test_without_an_http_server_the_start_stops_with_the_settings_name(start: Start) -> None:
    pacs = start({"HttpServerEnabled": False})
    with pytest.raises(AssertionError, match="HttpServerEnabled is false; the plugin stores its reports over HTTP"):
        pacs.start()
    assert pacs.process.wait(timeout=10) != 0


@pytest.mark.parametrize("address", ["127.0.0.2", *(["[::1]"] if IMAGE else [])])
def test_on_another_address(start: Start, address: str) -> None:
    """Orthanc 1.10 does not know the setting and listens everywhere, but for IPv6; 1.13 listens there alone."""
    pacs = start({"RemoteAccessAllowed": True, "HttpBindAddresses": [address]})
    everywhere, pacs.url = pacs.url, pacs.url.replace("127.0.0.1", address)
    with pacs:
        expect_a_report(pacs)
        if IMAGE:
            with pytest.raises(requests.ConnectionError):
                requests.get(everywhere, timeout=5)


OPENSSL = """
extern void *SSL_get1_peer_certificate(const void *ssl);

void *SSL_get_peer_certificate(const void *ssl) { return SSL_get1_peer_certificate(ssl); }
"""


@pytest.fixture(scope="module")
def openssl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with OpenSSL as Debian's civetweb, which is Orthanc's HTTP server, wants it.

    It loads OpenSSL 3 and calls, at each connection, a function that only OpenSSL 1 has by this name: a null pointer.
    """
    folder = tmp_path_factory.mktemp("openssl")
    (folder / "libssl.c").write_text(OPENSSL)
    command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libssl.so", "-o", "libssl.so", "libssl.c"]
    subprocess.run([*command, "-l:libssl.so.3"], cwd=folder, check=True)
    found = subprocess.run(["gcc", "-print-file-name=libcrypto.so.3"], capture_output=True, text=True, check=True)
    (folder / "libcrypto.so").symlink_to(os.path.normpath(found.stdout.strip()))
    return folder


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize("options", [{}, {"SslMinimumProtocolVersion": 4}], ids=["by default", "as SECURITY.md says"])
def test_with_tls(start: Start, certificates: list[Path], openssl: Path, options: dict[str, int]) -> None:
    environ = {"LD_LIBRARY_PATH": f"{openssl}", "CERTIFICATE": str(certificates[0])}
    with start({"SslEnabled": True, "SslCertificate": str(certificates[0]), **options}, **environ) as pacs:
        expect_a_report(pacs)
        with pytest.raises(requests.ConnectionError):
            requests.get(pacs.url.replace("https", "http"), timeout=5)
        assert not IMAGE or container.healthy({"HTTP_PORT": str(pacs.http_port)})


# A server that answers as Orthanc does, for what Orthanc itself would not do: show another certificate than its own.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of them, as Orthanc wants them: key and certificate in a file, for a name that is not the loopback's."""
    folder = tmp_path_factory.mktemp("tls")
    files = []
    for name in ("ours", "another"):
        key, certificate, both = (folder / f"{name}.{kind}" for kind in ("key", "crt", "pem"))
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=pacs.example",
        ]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        files.append(both)
    return files


class StandIn(BaseHTTPRequestHandler):
    """Answers one question of `Archive`'s, if the token is the right one."""

    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == "a token"
        body = b'{"FileUuid": "one"}' if allowed else b"{}"
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def secure_port(certificates: list[Path]) -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), StandIn) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates[0])
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def archive(port: int, certificate: Path) -> Archive:
    configuration = {"HttpPort": port, "SslEnabled": True, "SslCertificate": str(certificate)}
    return Archive(Connection.to_orthanc(configuration, "a token"))


def test_over_tls_with_orthancs_own_certificate(secure_port: int, certificates: list[Path]) -> None:
    assert archive(secure_port, certificates[0]).version("x") == "one"


def test_over_tls_nobody_elses_certificate_is_trusted(secure_port: int, certificates: list[Path]) -> None:
    with pytest.raises(ArchiveUnavailable, match="does not answer"):
        archive(secure_port, certificates[1]).version("x")
