"""NIfTI and NRRD files that hold one slice.

Both are stored x fastest: index [i, j] is column i, row j, so that `pixels[row, column]` is
`data[column, row]`. That is what ITK and Slicer show as pixel (i, j); orientation matrices are not
applied, because pixels are named as they are stored. A pixel of exactly 1 x 1 mm is what programs
write when they know no size: it counts as none.
"""

from __future__ import annotations

import bz2
import gzip
import math
import zlib
from io import BytesIO
from typing import Any, BinaryIO

import nibabel
import nrrd
import numpy as np
from numpy.typing import NDArray

from ftmtl.formats import MAX_PIXELS, Content, Refused, aspect_of, check_size

ONE_SLICE = "Save the one slice as a grey two-dimensional image"
ONE_FILE = "Save header and pixels as one file"
_MAX_BYTES = 8 * MAX_PIXELS


def looks_like_nifti(start: bytes) -> bool:
    """Tell NIfTI-1 and -2 by their header size and magic."""
    return start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2")


def read_nifti(stream: BinaryIO) -> Content:
    """Describe a NIfTI image, compressed with gzip or not."""
    start = stream.read(2)
    stream.seek(0)
    if start == b"\x1f\x8b":
        with gzip.open(stream) as packed:
            head = packed.read(560)
            if not looks_like_nifti(head):
                raise Refused("it is a gzip file of something else", "Unpack it first")
            data = head + packed.read(_size_of_nifti(head) - len(head))
            packed.read(1)  # so that a missing checksum is noticed
    else:
        data = stream.read()
    image = _nifti_class(data).from_bytes(data)
    width, height = _plane(image.shape)
    code = image.dataobj
    slope, kind = code.slope, image.get_data_dtype()
    spacing = _spacing(image.header.get_zooms()[:2])
    if image.header.get_xyzt_units()[0] not in ("mm", "unknown"):
        spacing = None

    def decode() -> NDArray[Any]:
        values = np.asarray(code.get_unscaled() if slope > 0 else code)
        return _as_pixels(values.reshape(width, height, order="F"))

    _check_kind(kind)
    return Content(
        width=width, height=height, decode=decode, spacing_mm=spacing,
        pixel_aspect=aspect_of(spacing),
    )  # fmt: skip


def _nifti_class(head: bytes) -> Any:
    magic = head[4:7] if head[4:7] in (b"n+2", b"ni2") else head[344:347]
    if magic in (b"ni1", b"ni2"):
        raise Refused("it is a NIfTI header whose pixels lie in another file", ONE_FILE)
    return nibabel.Nifti2Image if magic == b"n+2" else nibabel.Nifti1Image


def _size_of_nifti(head: bytes) -> int:
    """Give the unpacked size that the header claims, so that no more is unpacked."""
    kind = _nifti_class(head).header_class
    header = kind.from_fileobj(BytesIO(head), check=False)
    _plane(header.get_data_shape())
    itemsize = int(header.get_data_dtype().itemsize)
    size: int = int(header["vox_offset"]) + math.prod(header.get_data_shape()) * itemsize
    if not len(head) <= size <= _MAX_BYTES:
        raise Refused(f"its header claims {size} bytes", "Export it again")
    return size


def read_nrrd(stream: BinaryIO) -> Content:
    """Describe a NRRD with its data attached."""
    header = nrrd.read_header(stream)
    if "data file" in header or "datafile" in header:
        raise Refused("it is a NRRD header whose pixels lie in another file", ONE_FILE)
    if any(key.startswith("Segment0_") for key in header):
        raise Refused("it is a segmentation", "Give the mammogram that it was drawn on")
    width, height = _plane([int(size) for size in header["sizes"]])
    data = stream.read()
    encoding = str(header["encoding"]).lower()
    limit = width * height * 8 + max(0, int(header.get("byte skip", header.get("byteskip", 0))))
    if encoding in ("gzip", "gz"):
        data = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, limit)
    elif encoding in ("bzip2", "bz2"):
        data = bz2.BZ2Decompressor().decompress(data, limit)
    elif encoding not in ("raw", "ascii", "text", "txt"):
        raise Refused(f"its encoding {encoding} is not read here", "Save it as raw or gzip")
    if encoding.startswith(("gz", "bz")):
        header["encoding"] = "raw"

    spacing = None
    if "space directions" in header:
        axes = np.asarray(header["space directions"], dtype=np.float64)[:2]
        spacing = _spacing(np.linalg.norm(axes, axis=1))
    elif "spacings" in header:
        spacing = _spacing(header["spacings"][:2])
    if any(unit != "mm" for unit in list(header.get("space units", []))[:2]):
        spacing = None

    def decode() -> NDArray[Any]:
        values = nrrd.read_data(header, BytesIO(data))
        _check_kind(values.dtype)
        return _as_pixels(values.reshape(width, height, order="F"))

    return Content(
        width=width, height=height, decode=decode, spacing_mm=spacing,
        pixel_aspect=aspect_of(spacing),
    )  # fmt: skip


def _plane(shape: Any) -> tuple[int, int]:
    """Give (width, height) of a shape whose further axes are all 1."""
    sizes = [int(size) for size in shape]
    if len(sizes) < 2 or any(size != 1 for size in sizes[2:]):
        raise Refused(f"it is a volume of {' x '.join(map(str, sizes))}", ONE_SLICE)
    check_size(sizes[0], sizes[1])
    return sizes[0], sizes[1]


def _spacing(values: Any) -> tuple[float, float] | None:
    x, y = (float(value) for value in values)
    if not (math.isfinite(x) and math.isfinite(y) and min(x, y) > 0) or x == y == 1:
        return None
    return x, y


def _check_kind(kind: np.dtype[Any]) -> None:
    if kind.kind not in "uif" or kind.itemsize > 8:
        raise Refused(f"its pixels are of the kind {kind}", ONE_SLICE)


def _as_pixels(values: NDArray[Any]) -> NDArray[Any]:
    """Turn [x, y] of any number type into [rows, columns] of the smallest that holds it."""
    pixels = np.ascontiguousarray(values.T)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    if pixels.dtype.itemsize == 2 or pixels.dtype == np.uint8:
        return pixels
    low, high = int(pixels.min()), int(pixels.max())
    for kind in (np.uint16, np.int16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return pixels.astype(kind)
    return pixels.astype(np.float32)
