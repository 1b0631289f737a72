"""The codes that a report says its findings in: a table, and what to do with a label that is not in it.

Sources: SNOMED CT (the subset that DICOM licenses), DICOM PS3.16 Annex D, and a private scheme for what neither
names. Codes that are used in the field for these labels and mean something else: 47693006 (rupture of appendix),
300999006 (basal pneumonia), 46866001 (fracture of lower limb), 287272002, 267038008, 79654002.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pydicom.sr.coding import Code

PRIVATE_SCHEME: Final = "99CHESTXRAY"
PRIVATE_SCHEME_NAME: Final = "orthanc-chest-xray private codes"
PRIVATE_SCHEME_UID: Final = "2.25.87923432667706412563402996417816997839"
"""Declared in every report (CodingSchemeIdentificationSequence), as PS3.3 C.12.1.4.1 asks for private schemes."""

LUNG: Final = Code("39607008", "SCT", "Lung")
PLEURA: Final = Code("3120008", "SCT", "Pleura")
HEART: Final = Code("80891009", "SCT", "Heart")
MEDIASTINUM: Final = Code("72410000", "SCT", "Mediastinum")
CHEST: Final = Code("816094009", "SCT", "Chest")
DIAPHRAGM: Final = Code("5798000", "SCT", "Diaphragm")

PRESENT: Final = Code("52101004", "SCT", "Present")
ABSENT: Final = Code("272519000", "SCT", "Absent")

FINDINGS: Final[Mapping[str, tuple[Code, Code]]] = MappingProxyType(
    {
        "Atelectasis": (Code("46621007", "SCT", "Atelectasis"), LUNG),
        "Consolidation": (Code("95436008", "SCT", "Lung consolidation"), LUNG),
        "Infiltration": (Code("112121", "DCM", "Infiltrate"), LUNG),
        "Pneumothorax": (Code("36118008", "SCT", "Pneumothorax"), PLEURA),
        "Edema": (Code("19242006", "SCT", "Pulmonary edema"), LUNG),
        "Emphysema": (Code("87433001", "SCT", "Pulmonary emphysema"), LUNG),
        "Fibrosis": (Code("51615001", "SCT", "Pulmonary fibrosis"), LUNG),
        "Effusion": (Code("60046008", "SCT", "Pleural effusion"), PLEURA),
        "Pneumonia": (Code("233604007", "SCT", "Pneumonia"), LUNG),
        "Pleural_Thickening": (Code("PLEURAL_THICK", PRIVATE_SCHEME, "Pleural thickening"), PLEURA),
        "Cardiomegaly": (Code("8186001", "SCT", "Cardiomegaly"), HEART),
        "Nodule": (Code("786838002", "SCT", "Nodule of lung"), LUNG),
        "Mass": (Code("309529002", "SCT", "Lung mass"), LUNG),
        "Hernia": (Code("39839004", "SCT", "Diaphragmatic hernia"), DIAPHRAGM),
        "Lung Lesion": (Code("52988006", "SCT", "Lesion"), LUNG),
        "Fracture": (Code("125605004", "SCT", "Fracture of bone"), CHEST),
        "Lung Opacity": (Code("112001", "DCM", "Opacity"), LUNG),
        "Enlarged Cardiomediastinum": (
            Code("ENLARGED_CM", PRIVATE_SCHEME, "Enlarged cardiomediastinum"),
            MEDIASTINUM,
        ),
    }
)
"""TorchXRayVision's labels (`torchxrayvision.models.model_urls`): the finding's code and its site's."""


def finding_and_site(label: str) -> tuple[Code, Code]:
    """The codes of one of a model's labels; for a label unknown to the table a private code and the chest.

    A private code value longer than the 16 characters of CodeValue is written as LongCodeValue (PS3.3 8.1).
    """
    if label in FINDINGS:
        return FINDINGS[label]
    words = label.replace("_", " ").strip()
    return Code(label.strip().upper().replace(" ", "_"), PRIVATE_SCHEME, words[:64]), CHEST
