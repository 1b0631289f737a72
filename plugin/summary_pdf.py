"""A result as a page to read and to print: whose image it is, the picture of `plugin/summary_image.py`, and the table.

Pure. The text is real text, which can be searched and read aloud.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt
from fpdf import FPDF
from PIL import Image
from pydicom import Dataset

from plugin.report import DISCLAIMER, OPERATING_POINT, Report
from plugin.summary_image import STAND_IN

IDENTITY: Final = {
    "PatientName": "Patient",
    "PatientID": "Patient ID",
    "PatientBirthDate": "Born",
    "AccessionNumber": "Accession number",
    "StudyDate": "Study of",
    "StudyDescription": "Study",
}
WIDTH: Final = 180
"""Of the text, in millimetres; A4 less its margins."""


def page(identity: Dataset, report: Report, picture: npt.NDArray[np.uint8], created: datetime) -> bytes:
    """The PDF of one page; `identity` are the patient's and the study's attributes (`inherited.patient_and_study`)."""
    pdf = FPDF()
    pdf.set_creation_date(created)
    pdf.set_title("Chest X-ray AI scores (not for diagnosis)")
    pdf.set_lang("en")
    pdf.set_margins(15, 12)
    pdf.set_auto_page_break(True, 10)
    pdf.add_page()
    _line(pdf, "Chest X-ray AI scores", 18, bold=True)
    if not report.model.trained:
        _line(pdf, STAND_IN, 12, bold=True, colour=(200, 0, 0))
    _line(pdf, DISCLAIMER, 9, bold=True)
    for keyword, name in IDENTITY.items():
        if text := str(identity.get(keyword) or ""):
            _line(pdf, f"{name}: {_date(text) if keyword.endswith('Date') else _shown(text, keyword == 'PatientName')}")
    _line(pdf, f"Image: SOPInstanceUID {report.image.SOPInstanceUID} {report.image.ViewPosition}")
    model = report.model
    _line(pdf, f"Model: {model.name} {model.version}, {model.weights} weights, SHA-256 {model.weights_sha256}")
    for warning in report.warnings:
        _line(pdf, f"Note: {warning}")
    pdf.image(Image.fromarray(picture), w=WIDTH, alt_text="The radiograph with the map of its top finding, and bars")
    pdf.ln(2)
    _scores(pdf, report)
    return bytes(pdf.output())


def _line(pdf: FPDF, text: str, size: int = 9, bold: bool = False, colour: tuple[int, int, int] = (0, 0, 0)) -> None:
    pdf.set_font("Helvetica", "B" if bold else "", size)
    pdf.set_text_color(*colour)
    pdf.multi_cell(WIDTH, size * 0.45, _printable(text), align="L", new_x="LMARGIN", new_y="NEXT")


def _scores(pdf: FPDF, report: Report) -> None:
    """Two findings a row, the highest scores first, down the left column and then down the right."""
    ranked = sorted(report.scores.items(), key=lambda item: -item[1])
    half = (len(ranked) + 1) // 2
    pdf.set_font("Helvetica", "", 9)
    pdf.set_text_color(0, 0, 0)
    with pdf.table(col_widths=(5, 2, 2.5, 5, 2, 2.5), width=WIDTH, line_height=4.6) as table:
        table.row(["Finding", "Score", f"{OPERATING_POINT} or more"] * 2)
        for number in range(half):
            row = table.row()
            for label, score in ranked[number::half]:
                for cell in (label.replace("_", " "), f"{score:.4f}", "yes" if report.present(label) else "no"):
                    row.cell(_printable(cell))


def _shown(text: str, in_groups: bool) -> str:
    """Whole or not at all: two names that differ must not look alike. Of a name, its first group in Latin letters."""
    for group in text.split("=") if in_groups else [text]:
        words = group.replace("^", " ").strip()
        if words and _printable(words) == words:
            return words
    return "not in Latin letters; it stands in this file's DICOM attributes"


def _date(text: str) -> str:
    """A DICOM date (DA) as people write it."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}"


def _printable(text: str) -> str:
    """What PDF's built-in fonts have; a viewer knows the patient from the object's attributes in any script."""
    return text.encode("cp1252", "replace").decode("cp1252")
