"""Single-frame DICOM projections: MG, CR, DX and secondary captures of them.

A value that is missing or malformed costs only what it would have told; what makes the picture
itself unsure is refused. Pixel data is decoded in `ftmtl.formats.codecs`.
"""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from ftmtl.display import Display, LookUp, Window, flip
from ftmtl.formats import Content, Refused, aspect_of, check_size, grey_of
from ftmtl.formats.codecs import READABLE, Layout, decode

# OT, RG and SC are what film digitisers and converters write; without a modality the picture counts
PROJECTIONS = {"MG", "CR", "DX", "RG", "OT", "SC", "XC", ""}
DEFLATED = "1.2.840.10008.1.2.1.99"
FOR_PROCESSING_CLASSES = {"1.2.840.10008.5.1.4.1.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1.2.1"}

CONTACT = 1.2  # breasts on the table state a magnification up to 1.1, those on a stand 1.5 to 2

# PS3.16 CID 4014, SNOMED CT and the older SNOMED RT codes
VIEW_CODES = {
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML", "399352003": "LM", "R-10228": "LM",
    "399099002": "LMO", "R-10230": "LMO", "399196006": "FB", "R-10244": "FB",
    "399188001": "SIO", "R-102D0": "SIO", "441555000": "ISO", "R-40AAA": "ISO",
    "399192008": "XCCL", "R-1024A": "XCCL", "399101009": "XCCM", "R-1024B": "XCCM",
}  # fmt: skip

_NO_ONE = re.compile(
    r"(ANON(YM(OUS|I[SZ]ED)?)?|UNKNOWN|NONE|NULL|NA|NOID|NOTAVAILABLE|REMOVED|DEIDENTIFIED"
    r"|REDACTED|PATIENT(ID)?|TEST|0*|X*|9999+)"
)
_FILM = re.compile(r"(?:Mass|Calc)-(?:Training|Test)_(P_\d{5})_(?:LEFT|RIGHT)_(?:CC|MLO)(?:_\d+)?")
_VIEW = re.compile(r"(?<![A-Z])(?:L|R|LEFT|RIGHT)?(CC|MLO|ML|LM|LMO|XCC|XCCL|XCCM)(?![A-Z])")
_SIDE = re.compile(r"(?<![A-Z])(L|R|LEFT|RIGHT)(?=(?:CC|MLO|ML|LM|LMO|XCC[LM]?)?(?![A-Z]))")


def looks_like_bare(start: bytes) -> bool:
    """Tell a DICOM file that lacks its preamble by its first element."""
    return start[:4] in {
        b"\x02\x00\x00\x00", b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00",
        b"\x08\x00\x16\x00", b"\x00\x08\x00\x00", b"\x00\x08\x00\x05", b"\x00\x08\x00\x08",
        b"\x00\x08\x00\x16",
    }  # fmt: skip


def read(stream: BinaryIO, *, pixels: bool) -> Content:
    """Describe the one projection in a DICOM file; `pixels=False` leaves its pixel data unread."""
    if _is_deflated(stream):  # pydicom would unpack it first, whatever it unpacks to
        raise _unread(DEFLATED)
    dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not pixels)
    return describe(dataset, pixels=pixels)


def describe(dataset: Dataset, *, pixels: bool) -> Content:
    """Describe the one projection in a data set; without `pixels` it need not hold any."""
    syntax = _syntax(dataset)
    _refuse_other_objects(dataset)
    layout = _layout(dataset)
    if syntax not in READABLE:
        raise _unread(syntax)
    if pixels and not getattr(dataset, "PixelData", b""):
        raise Refused("it has no pixel data", "Copy or export it again; it may have been cut short")

    table = _look_up(dataset, "ModalityLUTSequence")
    slope = _number(dataset, "RescaleSlope") if table is None else None
    slope = slope or 1.0
    intercept = (_number(dataset, "RescaleIntercept") or 0.0) if table is None else 0.0
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    flipped = inverted != (slope < 0)  # two inversions are none
    bits = layout.bits_stored if table is None else table.bits
    signed = layout.signed if table is None else False

    def stored() -> NDArray[Any]:
        element = dataset["PixelData"]
        swapped = syntax == "1.2.840.10008.1.2.2" and element.VR == "OW"
        values = decode(element.value, syntax, layout, swapped_words=swapped)
        if layout.samples == 3:
            values = grey_of(values)
        if table is not None:
            values = table(values)
        return flip(values, bits=bits, signed=signed) if flipped else values

    spacing = _spacing(dataset)
    voi = _look_up(dataset, "VOILUTSequence") or _window(dataset)
    display = None
    if voi is not None:
        display = Display(
            voi=voi, bits=bits, signed=signed, flipped=flipped, inverted=inverted,
            slope=slope, intercept=intercept,
        )  # fmt: skip
    return Content(
        width=layout.columns,
        height=layout.rows,
        decode=stored,
        spacing_mm=None if _magnified(dataset) else spacing,
        pixel_aspect=aspect_of(spacing) if spacing else _aspect_ratio(dataset),
        sop_instance_uid=_uid(dataset, "SOPInstanceUID"),
        laterality=_laterality(dataset),
        view=_view(dataset),
        patient_id=_patient_id(dataset),
        study_uid=_uid(dataset, "StudyInstanceUID"),
        display=display,
    )


def _is_deflated(stream: BinaryIO) -> bool:
    """Whether all behind the meta group is packed; leaves the stream at its beginning."""
    has_preamble = stream.read(132).endswith(b"DICM")
    stream.seek(132 if has_preamble else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    stream.seek(0)
    return _text(meta, "TransferSyntaxUID") == DEFLATED


def _unread(syntax: str) -> Refused:
    return Refused(
        f"its transfer syntax {pydicom.uid.UID(syntax).name} is not read here",
        "Save it uncompressed, or as RLE, JPEG Lossless or JPEG 2000",
    )


def _syntax(dataset: Dataset) -> str:
    """Give the transfer syntax; a file without meta group can only be uncompressed."""
    meta = getattr(dataset, "file_meta", None)  # what a PACS tells of an image has none
    stated = str(getattr(meta, "TransferSyntaxUID", "") or "")
    if stated:
        return stated
    if not getattr(dataset, "is_little_endian", True):
        return "1.2.840.10008.1.2.2"
    return "1.2.840.10008.1.2"


def _refuse_other_objects(dataset: Dataset) -> None:
    modality = _text(dataset, "Modality").upper()
    if modality not in PROJECTIONS:
        raise Refused(f"it is a {modality} object, not a mammogram", "Give MG, CR, DX or SC images")
    frames = _number(dataset, "NumberOfFrames") or 1
    if frames != 1:
        raise Refused(
            f"it holds {frames:.0f} frames (tomosynthesis or a series)",
            "Give a single projection, for instance the synthesized 2-D view",
        )
    intent = _text(dataset, "PresentationIntentType").upper()
    sop_class = _text(dataset, "SOPClassUID")
    if intent == "FOR PROCESSING" or (not intent and sop_class in FOR_PROCESSING_CLASSES):
        raise Refused(
            "it is a raw image, FOR PROCESSING", "Give the FOR PRESENTATION image of the same view"
        )


def _layout(dataset: Dataset) -> Layout:
    rows, columns, allocated = (
        int(_number(dataset, keyword) or 0) for keyword in ("Rows", "Columns", "BitsAllocated")
    )
    if not (rows and columns and allocated):
        raise Refused(
            "it holds no image", "Give the image itself; a file cut short must be copied again"
        )
    check_size(columns, rows)
    samples = int(_number(dataset, "SamplesPerPixel") or 1)
    colours = _text(dataset, "PhotometricInterpretation")
    if (samples, colours) not in {(1, "MONOCHROME1"), (1, "MONOCHROME2"), (3, "RGB")}:
        raise Refused(
            f"it is a colour picture ({colours or 'photometric interpretation missing'})",
            "Give the grey image (MONOCHROME1 or MONOCHROME2)",
        )
    stored = int(_number(dataset, "BitsStored") or allocated)
    high = _number(dataset, "HighBit")
    high_bit = stored - 1 if high is None else int(high)
    if allocated not in (8, 16) or not 8 <= stored <= high_bit + 1 <= allocated:
        raise Refused(
            f"it has {stored} bits a pixel, stored in {allocated} up to bit {high_bit}",
            "Give an image of 8 to 16 bits",
        )
    return Layout(
        rows=rows, columns=columns, samples=samples,
        planar=_number(dataset, "PlanarConfiguration") == 1,
        bits_allocated=allocated, bits_stored=stored, high_bit=high_bit,
        signed=_number(dataset, "PixelRepresentation") == 1,
    )  # fmt: skip


def _value(dataset: Dataset, keyword: str) -> Any:
    """Give a value, or None where it is missing or pydicom cannot make sense of it."""
    try:
        return dataset.get(keyword)
    except Exception:  # what one optional element holds is never a reason to refuse the picture
        return None


def _text(dataset: Dataset, keyword: str) -> str:
    value = _value(dataset, keyword)
    if value is None:
        return ""
    if isinstance(value, pydicom.multival.MultiValue):
        value = "\\".join(str(part) for part in value)
    return str(value).strip(" \0")


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    value = _value(dataset, keyword)
    if value is None or value in ("", b""):
        return []
    several = isinstance(value, pydicom.multival.MultiValue | list)
    try:
        numbers = [float(part) for part in (value if several else [value])]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if all(np.isfinite(numbers)) else []


def _number(dataset: Dataset, keyword: str) -> float | None:
    numbers = _numbers(dataset, keyword)
    return numbers[0] if numbers else None


def _uid(dataset: Dataset, keyword: str) -> str | None:
    """Give a UID that is one: it becomes part of file names."""
    text = _text(dataset, keyword)
    return text if re.fullmatch(r"[0-9]+(\.[0-9]+)+", text) and len(text) <= 64 else None


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Give (x, y) in millimetres at the detector; DICOM stores the row spacing, y, first.

    PixelSpacing may be calibrated to the object, so ImagerPixelSpacing goes before it; the
    nominal spacing of a film scanner comes last.
    """
    for keyword in ("ImagerPixelSpacing", "PixelSpacing", "NominalScannedPixelSpacing"):
        numbers = _numbers(dataset, keyword)
        if len(numbers) == 2 and min(numbers) > 0:
            return numbers[1], numbers[0]
    return None


def _magnified(dataset: Dataset) -> bool:
    """Tell a magnification view: its spacing is the detector's, far from that of the breast."""
    return (_number(dataset, "EstimatedRadiographicMagnificationFactor") or 1.0) > CONTACT


def _aspect_ratio(dataset: Dataset) -> float:
    """Give PixelAspectRatio, vertical over horizontal."""
    numbers = _numbers(dataset, "PixelAspectRatio")
    return numbers[0] / numbers[1] if len(numbers) == 2 and min(numbers) > 0 else 1.0


def _laterality(dataset: Dataset) -> str | None:
    for keyword in ("ImageLaterality", "Laterality"):
        side = _text(dataset, keyword).upper()
        if side in ("L", "R"):
            return side
        if side == "B":
            return None
    # an anatomical PatientOrientation such as A\R says where the picture points, not which breast
    words = f"{_text(dataset, 'SeriesDescription')} {_described_orientation(dataset)}"
    return _only({found[0] for found in _SIDE.findall(_spaced(words))})


def _view(dataset: Dataset) -> str | None:
    stated = _text(dataset, "ViewPosition").upper()
    if re.fullmatch(r"[A-Z]{2,8}", stated):
        return stated
    codes = _value(dataset, "ViewCodeSequence")
    if codes and (view := VIEW_CODES.get(_text(codes[0], "CodeValue"))):
        return view
    words = f"{_text(dataset, 'SeriesDescription')} {_described_orientation(dataset)}"
    return _only(set(_VIEW.findall(_spaced(words))))


def _described_orientation(dataset: Dataset) -> str:
    """Give PatientOrientation where it is no direction but names the view (CBIS-DDSM: "MLO")."""
    text = _text(dataset, "PatientOrientation").upper()
    return "" if re.fullmatch(r"[APRLHF]{1,3}(\\[APRLHF]{1,3})?", text) else text


def _spaced(words: str) -> str:
    return re.sub(r"[^A-Z]+", " ", words.upper())


def _only(found: set[str]) -> str | None:
    return found.pop() if len(found) == 1 else None


def _patient_id(dataset: Dataset) -> str | None:
    """Give PatientID unless it is blank or one that many patients share ("ANONYMOUS").

    CBIS-DDSM numbers films (`Mass-Test_P_00820_LEFT_CC`); the woman is P_00820.
    """
    text = _text(dataset, "PatientID")
    if film := _FILM.fullmatch(text):
        return film[1]
    return None if _NO_ONE.fullmatch(re.sub(r"[^A-Z0-9]", "", text.upper())) else text


def _window(dataset: Dataset) -> Window | None:
    """Give the header's first window, if it is a possible one."""
    centre, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if centre is None or width is None:
        return None
    function = _text(dataset, "VOILUTFunction").upper()
    if function == "SIGMOID" and width > 0:
        return Window(centre=centre, width=width, function="SIGMOID")
    if function == "LINEAR_EXACT" and width > 0:
        return Window(centre=centre, width=width, function="LINEAR_EXACT")
    return Window(centre=centre, width=width) if width >= 1 else None


def _look_up(dataset: Dataset, sequence: str) -> LookUp | None:
    """Give the first table of a LUT Sequence (PS3.3 C.11.1), if it is a whole one."""
    items = _value(dataset, sequence)
    if not items:
        return None
    descriptor, data = _numbers(items[0], "LUTDescriptor"), _value(items[0], "LUTData")
    if len(descriptor) != 3 or data is None:
        return None
    length, first, bits = (int(number) for number in descriptor)
    length = length or 65536
    if isinstance(data, bytes):
        order = ">" if getattr(dataset, "is_little_endian", True) is False else "<"
        if len(data) in (length, length + length % 2) and bits <= 8:
            data = np.frombuffer(data, np.uint8)
        else:
            data = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")
    table = np.atleast_1d(np.asarray(data)).astype(np.int64)[:length]
    if len(table) < max(length, 1) or not 8 <= bits <= 16:
        return None
    if _number(dataset, "PixelRepresentation") == 1 and first >= 2**15:
        first -= 2**16  # the descriptor is signed where the pixels are
    return LookUp(first=first, bits=bits, table=(table & 0xFFFF).astype(np.uint16))
