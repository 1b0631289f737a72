"""Validators and a real Orthanc, for tests of the report: each function returns what is wrong, as lines."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

# dciodvfy's warnings that are right and stay. Anything else it says, and every error, is a failure.
ALLOWED = {
    r"Warning - .* - Missing attribute or value that would be needed to build DICOMDIR": "the image left it empty",
    r"Warning - </PatientName.*> - Value dubious for this VR \[PN\] = <.*> - Retired Person Name form": (
        "the image's name has no components, and a name is never altered"
    ),
    r"Warning - .*/CodingSchemeDesignator\(0008,0102\)\[1\]> - Unrecognized defined term = <99CHESTXRAY>": (
        "our private scheme"
    ),
    r"Warning - .*/CodingSchemeUID\(0008,010c\)\[1\]> - Unrecognized defined term = <2\.25\.\d+>": "our private scheme",
}

PIXELMED = (
    "java",
    # The JDK's limits on XPath are too low for DICOM's templates.
    *(f"-Djdk.xml.xpath{limit}=0" for limit in ("ExprOpLimit", "TotalOpLimit", "ExprGrpLimit")),
    "-cp",
    "/usr/share/java/pixelmed.jar",
    "com.pixelmed.validate.DicomSRValidator",
)
PIXELMED_ALLOWED = (
    r"Found Comprehensive3DSR IOD",
    r"Found Root Template TID_1500 \(MeasurementReport\)",
    r"Root Template Validation Complete",
    r"IOD validation complete",
    # TID 1501 has no row for Present and Absent, nor TID 1500 for a comment; both are extensible.
    r'Warning: 1\.10\.\d+\.\d+: .*/CODE( \(.*,"[^/]*"\))?: Content Item not in template',  # without LongCodeValue
    r'Warning: 1\.11: .*/TEXT \(121106,DCM,"Comment"\): Content Item not in template',
)


def dciodvfy(path: Path, also_allowed: str = "(?!)") -> list[str]:
    """David Clunie's validator of IODs, modules and value representations."""
    lines = _run("dciodvfy", "-new", str(path)).stderr.splitlines()
    assert "Comprehensive3DSR" in lines, lines
    allowed = "|".join((*ALLOWED, also_allowed, "Comprehensive3DSR", ""))
    return [line for line in lines if not re.fullmatch(allowed, line)]


def dcentvfy(image: Path, report: Path, also_allowed: str = "(?!)") -> list[str]:
    """His comparison of the entities (patient, study) that two files share."""
    done = _run("dcentvfy", str(image), str(report))
    allowed = (
        # The image has it not and the report has it empty, or the image has it malformed and the report not.
        r"Warning - Attribute present in one instance but not the other - .*",
        # dcentvfy's own doubt whether these belong to study or series; they are equal.
        r"Warning - Different information entities for attribute - Element=<AccessionNumber> .*",
        also_allowed,
        "",
    )
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if not re.fullmatch("|".join(allowed), line.strip())]


def dcmtk(report: Path, *options: str) -> list[str]:
    """dsrdump, dsr2html and dsr2xml: all three read the report without an error."""
    wrong = []
    for tool in ("dsrdump", "dsr2html", "dsr2xml"):
        done = _run(tool, *options, str(report))
        if done.returncode or re.search("^[EF]: ", done.stderr, re.MULTILINE):
            wrong.append(f"{tool}: {done.stderr}")
    return wrong


def start_pixelmed(report: Path) -> subprocess.Popen[str]:
    """PixelMed's validator of templates; half a minute, so it runs beside the other tests."""
    return subprocess.Popen([*PIXELMED, str(report)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def pixelmed(running: subprocess.Popen[str]) -> list[str]:
    """What the validator found wrong, once it is through."""
    output, _ = running.communicate(timeout=300)
    assert "IOD validation complete" in output, output
    return [line for line in output.splitlines() if not re.fullmatch("|".join(PIXELMED_ALLOWED), line)]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, timeout=60)


@contextmanager
def plain_orthanc(folder: Path) -> Iterator[str]:
    """An Orthanc without plugins on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = folder / "orthanc.json"
    settings = {"StorageDirectory": str(folder), "IndexDirectory": str(folder), "HttpPort": port, "Plugins": []}
    local = {"DicomServerEnabled": False, "RemoteAccessAllowed": False, "AuthenticationEnabled": False}
    configuration.write_text(json.dumps(settings | local))
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "Orthanc is not installed"
    running = subprocess.Popen([program, str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                requests.get(f"{address}/system", timeout=5)
                break
            except requests.ConnectionError:
                time.sleep(0.05)
        yield address
    finally:
        running.terminate()
        running.wait(30)
