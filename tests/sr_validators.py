"""The validators that know DICOM Structured Reports: what is wrong with a report, as lines, and what may be."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from highdicom.sr import Comprehensive3DSR, srread

# Exact texts, in which {} stands for a value, and why they are right. Anything else is a failure, errors and warnings.

SCHEME_REASON = "our private coding scheme, declared in the report"
EMPTY_REASON = "the image left it empty, or had it invalid"
DCIODVFY: Mapping[str, str] = {
    "Comprehensive3DSR": "the name of what it recognised",
    "Warning - </{}/CodingSchemeDesignator(0008,0102)[1]> - Unrecognized defined term = <99CHESTXRAY>": SCHEME_REASON,
    "Warning - </CodingSchemeIdentificationSequence(0008,0110)[1]/CodingSchemeUID(0008,010c)[1]> - Unrecognized "
    "defined term = <2.25.87923432667706412563402996417816997839>": SCHEME_REASON,
    "Warning - </ContributingEquipmentSequence(0018,a001)[1]/DeviceUID(0018,1002)> - Attribute is not present in "
    "standard DICOM IOD": "IHE AI Results asks for it",
    **{
        f"Warning - </{attribute}> - Missing attribute or value that would be needed to build DICOMDIR": EMPTY_REASON
        for attribute in ("PatientID(0010,0020)", "StudyDate(0008,0020)", "StudyTime(0008,0030)", "StudyID(0020,0010)")
    },
    "Warning - </PatientName(0010,0010)[1]> - Value dubious for this VR [PN] = <{}> - Retired Person Name form": (
        "the image's name has no components, and a name is never altered"
    ),
}

IDENTITY_REASON = "the image's own error, repeated, since identity is never altered"
IDENTITY: Mapping[str, str] = dict.fromkeys(
    (
        "Error - </PatientID(0010,0020)[1]> - Value invalid for this VR [LO] = <{}> - Length invalid for this VR = "
        "<{}> - expected <= 64",
        "Error - </PatientID(0010,0020)[1]> - Value invalid for this VR [LO] = <{}> - Character invalid for this VR = "
        "'{}' ({})",
        "Error - </PatientName(0010,0010)[1]> - Value invalid for this VR [PN] = <{}> - Length invalid for this VR = "
        "<{}> - expected <= 64",
        "Error - </PatientName(0010,0010)[1]> - Value invalid for this VR [PN] = <{}> - Too many delimiters (^) in "
        "PersonName",
        "Error - </PatientName(0010,0010)> - Bad attribute Value Multiplicity = <2> (1 Required by Dictionary) "
        "Module=<Patient>",
        "Error - </PatientName(0010,0010)> - Bad attribute Value Multiplicity for Type 2 Required - Module=<Patient>",
        "Error - </AccessionNumber(0008,0050)[1]> - Value invalid for this VR [SH] = <{}> - Length invalid for this VR "
        "= <{}> - expected <= 16",
        "Error - </StudyID(0020,0010)[1]> - Value invalid for this VR [SH] = <{}> - Length invalid for this VR = <{}> "
        "- expected <= 16",
        "Error - </{}InstanceUID({})[1]> - Value invalid for this VR [UI] = <{}> - Leading zeroes in embedded numeric "
        "component(s)",
        "W: PatientName (0010,0010) VM != 1 in PatientModule",
        "W: {}InstanceUID ({}) violates VR definition in {}",
        'W: Reading invalid/incomplete content item IMAGE "{}"',
        "W: Rendering invalid/incomplete content item IMAGE",
        "W: Writing to XML invalid/incomplete content item IMAGE",
    ),
    IDENTITY_REASON,
)

DCENTVFY: Mapping[str, str] = {
    "Warning - Attribute present in one instance but not the other - Element=<{}> IE=<{}> for file <{}> versus <{}>": (
        "the image has it not and the report has it empty, or the image has it invalid and the report not at all"
    ),
    "Warning - Different information entities for attribute - Element=<AccessionNumber> IE <Series> versus <Study> for "
    "file <{}> versus <{}>": "its own doubt, whether it belongs to series or study; the values are equal",
    "Warning - Attribute is empty (zero length) in one instance - OK only If Type 2 attribute in that IOD - "
    "Element=<{}> IE=<{}> for file <{}> versus <{}>": EMPTY_REASON,
}
MENDED_SEX: Mapping[str, str] = {
    "Error - String attribute has different value - Element=<PatientSex> {}": "the image's is not one of DICOM's"
}

DCMTK: Mapping[str, str] = {
    "W: The VR checker does not support this Specific Character Set: ISO_IR 192": "a limit of dcmtk's own"
}

SR_CLASS = b"1.2.840.10008.5.1.4.1.1.88.34"

PIXELMED: Mapping[str, str] = {
    "Found Comprehensive3DSR IOD": "what it recognised",
    "Found Root Template TID_1500 (MeasurementReport)": "what it recognised",
    "Root Template Validation Complete": "its end",
    "IOD validation complete": "its end",
    "Warning: 1.10.{}: /CONTAINER {}/CODE{}: Content Item not in template": (
        "Present or Absent, for which TID 1501, which is extensible, has no row"
    ),
    'Warning: 1.11: /CONTAINER {}/TEXT (121106,DCM,"Comment"): Content Item not in template': (
        "the disclaimer, for which TID 1500, which is extensible, has no row"
    ),
}
PIXELMED_COMMAND = (
    "java",
    # The JDK's limits on XPath are too low for DICOM's templates.
    *(f"-Djdk.xml.xpath{limit}=0" for limit in ("ExprOpLimit", "TotalOpLimit", "ExprGrpLimit")),
    "-cp",
    "/usr/share/java/pixelmed.jar",
    "com.pixelmed.validate.DicomSRValidator",
)


def complaints(report: bytes) -> list[str]:
    """What dciodvfy, dsrdump, dsr2html, dsr2xml and highdicom's srread find that is not allowed for."""
    return _not_in(_said_of(report), DCIODVFY, IDENTITY, DCMTK)


def broken_identity(report: bytes) -> list[str]:
    """What they find that the report repeats from its image."""
    return _not_in(_said_of(report), DCIODVFY, DCMTK)


def stored_reports(folder: Path) -> Iterator[bytes]:
    """The reports in the storage of every Orthanc that ran below this folder."""
    for path in folder.rglob("storage/??/??/*"):
        data = path.read_bytes()
        if SR_CLASS in data[:1024]:
            yield data


def dcentvfy(image: bytes, report: bytes, allowed: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """David Clunie's comparison of the entities (patient, study) that two files share."""
    with TemporaryDirectory() as folder:
        done = _run("dcentvfy", _write(folder, image), _write(folder, report))
    return _not_in(map(str.strip, (done.stdout + done.stderr).splitlines()), DCENTVFY, allowed)


@cache
def _said_of(report: bytes) -> tuple[str, ...]:
    with TemporaryDirectory() as folder:
        path = _write(folder, report)
        said = _run("dciodvfy", "-new", path).stderr
        lines = re.split(r"\n(?=Error - |Warning - |Comprehensive3DSR|$)", said.strip())  # values may hold line breaks
        if "Comprehensive3DSR" not in lines:
            lines.append("dciodvfy does not recognise a Comprehensive 3D SR")
        # dcmtk refuses references to UIDs with leading zeros unless it is told otherwise.
        options = ["--invalid-item-value"] if "Leading zeroes in embedded numeric component" in said else []
        for tool in ("dsrdump", "dsr2html", "dsr2xml"):
            done = _run(tool, *options, path)
            lines += done.stderr.splitlines()
            if done.returncode:
                lines.append(f"{tool} ended with {done.returncode}")
    if not isinstance(srread(BytesIO(report)), Comprehensive3DSR):
        lines.append("srread does not recognise a Comprehensive 3D SR")
    return tuple(lines)


def start_pixelmed(report: Path) -> subprocess.Popen[str]:
    """PixelMed's validator of templates; many seconds, so it runs beside the other tests."""
    return subprocess.Popen(
        [*PIXELMED_COMMAND, str(report)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def pixelmed(running: subprocess.Popen[str]) -> list[str]:
    """What it found wrong, once it is through."""
    output, _ = running.communicate(timeout=300)
    assert "IOD validation complete" in output, output
    return _not_in(output.splitlines(), PIXELMED)


def _not_in(lines: Iterable[str], *tables: Mapping[str, str]) -> list[str]:
    texts = ("", *(text for table in tables for text in table))
    allowed = "|".join(".*".join(map(re.escape, text.split("{}"))) for text in texts)
    return [line for line in lines if not re.fullmatch(allowed, line, re.DOTALL)]


def _write(folder: str, data: bytes) -> str:
    path = Path(folder, f"{len(list(Path(folder).iterdir()))}.dcm")
    path.write_bytes(data)
    return str(path)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, timeout=60)
