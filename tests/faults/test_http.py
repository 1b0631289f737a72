"""Orthanc's HTTP server in every form that an operator may give it: the way back works, or the start says why not."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from plugin.archive import Archive, ArchiveUnavailable
from plugin.settings import Connection
from tests.faults.conftest import Start
from tests.faults.counting import expect_one_report_each
from tests.faults.images import images
from tests.pacs import Pacs


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


# With TLS: Debian's Orthanc 1.10 ends itself (a segmentation fault at the first request, without any plugin), so that
# a server which answers as Orthanc does stands in for it.


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
