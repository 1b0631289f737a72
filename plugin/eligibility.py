"""Is this instance ours to classify, and if not, why, in words; and what a reader must know about the view.

The Modality decides and not the SOP class: public chest radiographs are mostly CR and DX inside Secondary Capture.
Pure, and free of pydicom at run time, so that the dispatcher can import it cheaply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from plugin.marks import MANUFACTURER, eligible_modality

if TYPE_CHECKING:
    from pydicom import Dataset


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


FOR_PROCESSING: Final = "1.2.840.10008.5.1.4.1.1.1.1.1"
SOP_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray for presentation
        FOR_PROCESSING,
        "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
        # The grayscale multi-frame captures too: converters write single radiographs with them, as one frame.
        "1.2.840.10008.5.1.4.1.1.7.2",
        "1.2.840.10008.5.1.4.1.1.7.3",
    }
)
PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

# BodyPartExamined's defined terms (PS3.16 Annex L) that leave no doubt, and how they are also written.
NOT_CHEST: Final = _words_of("""
    ABDOMEN ABDOMENPELVIS ABDOMINAL ABDOMAN ABDOMIN ABD KUB BLADDER COLON GALLBLADDER KIDNEY LIVER PANCREAS RECTUM
    STOMACH DUODENUM URETER URETHRA UTERUS PROSTATE BREAST MAMMA
    PELVIS PELVIC PELVISLOWEXTREMT HIP SACRUM SIJOINT ILIUM COCCYX
    HEAD HEADNECK SKULL SKUL CRANIUM BRAIN FACE FACIAL JAW MANDIBLE MAXILLA TMJ NASALBONE NOSE ORBIT EYE EAR IAC
    SINUS SINUSES PARANASALSINUS MASTOID ZYGOMA SELLA TEETH TOOTH DENTAL NECK LARYNX PHARYNX
    CSPINE CERVICALSPINE CERVICAL LSPINE LUMBARSPINE LUMBAR SSPINE LSSPINE LUMBOSACRALSPINE LUMBOSACRAL SACRAL
    SHOULDER SHOULER SHLDER ACJOINT ACROMIOCLAVICULARJOINT ARM UPPERARM HUMERUS ELBOW ELBLOW ELBOWJOINT FOREARM
    RADIUS ULNA WRIST WRSIT WRISTJOINT SCAPHOID HAND FINGER THUMB UPEXTREMITY UPPERLIMB UPPEREXTREMITY
    LEG LOWERLEG UPPERLEG THIGH FEMUR KNEE KNEEJOINT PATELLA TIBIA FIBULA TIBFIB ANKLE ANKEL ANKLEJOINT CALCANEUS HEEL
    FOOT FEET TOE LOWEXTREMITY LOWERLIMB LOWEREXTREMITY EXTREMITY
    """)
# Words that may stand in the same value and then win: CHEST^ABDOMEN shows a chest.
CHEST: Final = _words_of("CHEST THORAX LUNG LUNGS CXR TORSO WHOLEBODY BABYGRAM CHESTABDOMEN")

# AnatomicRegionSequence: the SNOMED CT codes of the same parts (PS3.16 CID 4009), then the former SRT ones.
NOT_CHEST_REGIONS: Final = _words_of("""
    818981001 818982008 85856004 70258002 89837001 72001000 371195002 76752008 80144004 122494005 64688005 71854001
    16953009 66019005 81745001 371398005 91397008 71341001 87342007 7569003 56459004 14975008 28231008 85562004
    69536005 774007 29836001 24136001 85050009 22356005 661005 72696002 4596009 30021000 61685007 122496007
    1217253001 91609006 59066005 70925003 74386004 45048000 363654007 2095001 64234005 816092008 1231522001 34402009
    1217254007 39723000 54735007 42575006 16982005 89546000 69695003 27949001 53620006 68367000 76505004 29707007
    40983000 53120007 74670003 13881006 113345001 12921003
    T-04000 T-11100 T-11133 T-11149 T-11166 T-11170 T-11180 T-11196 T-11501 T-11503 T-11AD0 T-11BF0 T-12340 T-12410
    T-12700 T-12710 T-12730 T-12750 T-12770 T-15290 T-15420 T-15430 T-15460 T-15680 T-15710 T-15750 T-15770 T-22000
    T-24100 T-57000 T-59300 T-59600 T-63000 T-74000 T-AA000 T-D0300 T-D0801 T-D0821 T-D1000 T-D1100 T-D1213 T-D1460
    T-D14AE T-D1600 T-D2220 T-D2500 T-D4000 T-D6000 T-D8000 T-D8200 T-D8500 T-D8700 T-D8800 T-D8810 T-D9000 T-D9100
    T-D9200 T-D9400 T-D9700 T-D9800
    """)

# ViewPosition's defined terms (PS3.3 C.8.1.1, C.8.7.5), and what else is written for a lateral view.
LATERAL_VIEWS: Final = _words_of(
    "LL RL LAT LATERAL LLAT RLAT LATL LATR LEFTLATERAL RIGHTLATERAL LATERALLEFT LATERALRIGHT PROFILE"
)
OBLIQUE_VIEWS: Final = _words_of("LAO RAO LPO RPO OBL OBLIQUE LLO RLO LO RO")
DECUBITUS_VIEWS: Final = _words_of("LLD RLD DECUB DECUBITUS")
# ViewCodeSequence (PS3.16 CID 4010), SCT and SRT.
LATERAL_CODES: Final = _words_of("""
    399067008 399173006 399198007 399352003 399260004 30730003 R-102CD R-10236 R-10232 R-10228 R-10224 G-A145
    """)
OBLIQUE_CODES: Final = _words_of("""
    399312000 399160007 399132005 260427002 399099002 399135007 399184004 399006002 399368009 399182000 399059000
    399356000 399236003 399038007 R-10208 R-10204 R-10252 R-40783 R-10230 R-10220 R-10238 R-10212 R-10226 R-102C1
    R-10216 R-40985 R-10234 R-10210
    """)

ADULT_YEARS: Final = 18
TRAINED_ON: Final = "the model was trained on frontal chest radiographs of adults"


def why_not(ds: Dataset, more_body_parts: Iterable[str] = ()) -> str | None:
    """Why this instance is not ours to classify, as one sentence; None if it is.

    What is ours but broken (pixel data that cannot be decoded) is not this function's business.

    :param more_body_parts: words that, beside `NOT_CHEST`, name a body part that is certainly not the chest.
    """
    return (
        _not_our_kind(ds)
        or _not_one_gray_image(ds)
        or _not_the_chest(ds, NOT_CHEST.union(*(_singular_too({_squeeze(part)}) for part in more_body_parts)))
    )


def warnings(ds: Dataset) -> tuple[str, ...]:
    """What sets this image apart from those that the model was trained on, as whole sentences."""
    return tuple(filter(None, (_view_warning(ds), _age_warning(ds), _body_part_warning(ds), _raw_warning(ds))))


def _not_our_kind(ds: Dataset) -> str | None:
    if _text(ds, "Manufacturer") == MANUFACTURER:
        return "This object was written by this plugin itself."
    modality = _text(ds, "Modality")
    if not eligible_modality(modality):
        return f"Modality is '{modality}'; only CR and DX are classified."
    sop_class = _text(ds, "SOPClassUID")
    if sop_class not in SOP_CLASSES:
        return (
            f"SOPClassUID is {_named(sop_class)}; only Computed Radiography, Digital X-Ray and Secondary Capture "
            "images are classified."
        )
    return None


def _not_one_gray_image(ds: Dataset) -> str | None:
    if not any(keyword in ds for keyword in PIXELS):
        return "There is no PixelData in this object."
    samples, photometric = _text(ds, "SamplesPerPixel"), _text(ds, "PhotometricInterpretation")
    if samples not in {"", "1"}:
        return f"SamplesPerPixel is {samples}: a colour image is not a radiograph."
    if photometric and photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        return f"PhotometricInterpretation is '{photometric}'; only MONOCHROME1 and MONOCHROME2 are classified."
    frames = _text(ds, "NumberOfFrames")
    if frames not in {"", "0", "1"}:
        return f"NumberOfFrames is {frames}; only single images are classified."
    return None


def _not_the_chest(ds: Dataset, not_chest: frozenset[str]) -> str | None:
    part = _text(ds, "BodyPartExamined")
    if _names(part, not_chest):
        return f"BodyPartExamined is '{part}', which is not the chest."
    # BodyPartExamined wins where both stand: a value that names the chest, or nothing known, is left to the model.
    for code, meaning in () if _words(part) & CHEST else _codes(ds, "AnatomicRegionSequence"):
        if code in NOT_CHEST_REGIONS or _names(meaning, not_chest):
            return f"AnatomicRegionSequence is '{meaning or code}', which is not the chest."
    return None


def _view_warning(ds: Dataset) -> str | None:
    view = _text(ds, "ViewPosition")
    word = _squeeze(view)
    codes = dict(_codes(ds, "ViewCodeSequence"))
    for kind, words, values in (
        ("a lateral", LATERAL_VIEWS, LATERAL_CODES),
        ("an oblique", OBLIQUE_VIEWS, OBLIQUE_CODES),
        ("a decubitus", DECUBITUS_VIEWS, frozenset[str]()),
    ):
        if word in words:
            return f"ViewPosition is '{view}', {kind} view; {TRAINED_ON}."
        if not word and (known := values & codes.keys()):
            return f"ViewCodeSequence is '{codes[min(known)]}', {kind} view; {TRAINED_ON}."
    return None


def _age_warning(ds: Dataset) -> str | None:
    age = _text(ds, "PatientAge")
    if match := re.fullmatch(r"(\d{1,3})([DWMY])", age.upper()):
        days = int(match[1]) * {"D": 1, "W": 7, "M": 30.4375, "Y": 365.25}[match[2]]
        child = days < ADULT_YEARS * 365.25
        return f"PatientAge is {age}, a child; {TRAINED_ON}." if child else None
    born, taken = _text(ds, "PatientBirthDate"), _text(ds, "AcquisitionDate") or _text(ds, "StudyDate")
    if re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", taken):
        # Dates as numbers: 18 years later is 180000 more, whatever the month.
        child = 0 <= int(taken) - int(born) < ADULT_YEARS * 10000
        return f"PatientBirthDate is {born}, a child on {taken}; {TRAINED_ON}." if child else None
    return None


def _body_part_warning(ds: Dataset) -> str | None:
    part = _text(ds, "BodyPartExamined")
    if not part or _words(part) & CHEST:
        return None
    return f"BodyPartExamined is '{part}' and does not say chest; {TRAINED_ON}."


def _raw_warning(ds: Dataset) -> str | None:
    intent = _text(ds, "PresentationIntentType")
    if _text(ds, "SOPClassUID") != FOR_PROCESSING and intent != "FOR PROCESSING":
        return None
    return "The image is FOR PROCESSING, raw detector values; the model was trained on images made for viewing."


def _names(text: str, parts: frozenset[str]) -> bool:
    """Whether the text names one of the parts, and not the chest beside it."""
    words = _words(text)
    return bool(words & parts) and not words & CHEST


def _words(text: str) -> set[str]:
    """The text's words in capitals, each also without a plural's S, and all of them as one ('C-SPINE': CSPINE)."""
    return _singular_too({*re.findall(r"[^\W\d_]+", text.upper()), _squeeze(text)})


def _singular_too(words: set[str]) -> set[str]:
    return (words | {word[:-1] for word in words if word.endswith("S")}) - {""}


def _squeeze(text: str) -> str:
    return re.sub(r"[\W\d_]+", "", text.upper())


def _codes(ds: Dataset, keyword: str) -> Iterator[tuple[str, str]]:
    """CodeValue and CodeMeaning of each item of a code sequence; of none where it cannot be read."""
    sequence = _value(ds, keyword)
    for item in sequence if isinstance(sequence, Iterable) and not isinstance(sequence, str | bytes) else ():
        yield _text(item, "CodeValue"), _text(item, "CodeMeaning")


def _text(ds: Dataset, keyword: str) -> str:
    """The attribute's value as trimmed text; '' where it is absent, empty or unreadable."""
    value = _value(ds, keyword)
    return "" if value is None else str(value).strip(" \0")


def _value(ds: Dataset, keyword: str) -> object:
    try:
        return ds.get(keyword)
    except Exception:  # a malformed value makes pydicom raise whatever its parsers raise
        return None


def _named(uid: str) -> str:
    if not uid:
        return "missing"
    from pydicom.uid import UID

    name = UID(uid).name
    return uid if name == uid else f"{uid} ({name})"
