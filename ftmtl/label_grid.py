"""The grid of whole numbers in a label file (NRRD or NIfTI), read without trusting the file.

A label comes from outside: a browser, another program, a broken connection. So sizes are compared
with the image before any memory is taken for them, unpacking stops at the size that was announced,
and a header that points to another file on this machine is refused.

Files number voxels (i, j, k) = (column, row, slice), i fastest; both kinds are turned into numpy's
[row, column] here and nowhere else.
"""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import nrrd
import numpy as np
from numpy.typing import NDArray

GZIP_MAGIC = b"\x1f\x8b"
MOST_BYTES = 1 << 31  # more than 100 layers of the largest mammogram

_NUMPY_TYPES = {
    alias: code
    for code, aliases in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,int64,int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for alias in aliases.split(",")
}


class UnreadableLabel(ValueError):
    """A label file that cannot be used; the message names the file, the reason and the remedy."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}. {remedy}")
        self.path, self.reason, self.remedy = path, reason, remedy


@dataclass(frozen=True)
class LabelGrid:
    """One slice, in one or more layers (several where segments overlap)."""

    layers: NDArray[Any]  # [layers, rows, columns], whole numbers
    listed: bool  # the file has an axis of layers, even if there is only one
    header: Mapping[str, Any]  # NRRD's fields and key/value pairs; empty for NIfTI


def read_grid(path: Path, *, width: int, height: int) -> LabelGrid:
    """Read a file whose slice is no larger than width × height; raises UnreadableLabel."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if not magic:
                raise _refused(path, "the file is empty", "Save the label and send it again.")
            if magic == b"NRRD":
                return _read_nrrd(path, file, width, height)
            if magic.startswith(GZIP_MAGIC) or path.name.lower().endswith(".nii"):
                return _read_nifti(path, file, width, height)
    except UnreadableLabel:
        raise
    except OSError as error:
        if error.strerror is not None:  # the disk's; gzip's errors of content have none
            raise _refused(
                path, f"it cannot be opened ({error.strerror})", "Check the file and its folder."
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # pynrrd, nibabel, zlib: anything can come out of a damaged file
        raise _damaged(path, error) from error
    raise _refused(
        path,
        "it is neither NRRD nor NIfTI",
        "Save it from 3D Slicer as .seg.nrrd, .nrrd or .nii.gz.",
    )


def _read_nrrd(path: Path, file: IO[bytes], width: int, height: int) -> LabelGrid:
    header = nrrd.read_header(cast(Any, file))
    if any(name in header for name in ("data file", "datafile")):
        raise _refused(
            path,
            "its voxels are in another file",
            "Save header and voxels together, as .nrrd and not .nhdr.",
        )
    sizes = [int(size) for size in header["sizes"]]
    if len(sizes) != header["dimension"]:
        raise ValueError("sizes and dimension differ")
    kinds = header.get("kinds", [])
    listed = bool(kinds) and kinds[0] == "list"
    rows, columns = _slice_of(path, sizes[1:] if listed else sizes, width, height)
    layers = sizes[0] if listed else 1
    kind = np.dtype(_NUMPY_TYPES[header["type"]])
    if kind.itemsize > 1:
        kind = np.dtype({"little": "<", "big": ">"}[header["endian"]] + kind.str[1:])
    wanted = layers * rows * columns * kind.itemsize
    if layers < 1 or wanted > MOST_BYTES:
        raise _refused(
            path, f"it has {layers} layers", "Save it with one layer for each overlap, not more."
        )
    encoding = str(header["encoding"]).lower()
    if encoding in ("gzip", "gz"):
        file = cast(IO[bytes], gzip.GzipFile(fileobj=file))
    elif encoding in ("bzip2", "bz2"):
        file = cast(IO[bytes], bz2.BZ2File(file))
    elif encoding != "raw":
        raise _refused(
            path, f"its encoding is {encoding}", "Save it compressed (gzip) or uncompressed (raw)."
        )
    voxels = file.read(wanted)
    # At the end of a compressed stream its checksum is compared; a longer one is another size.
    if len(voxels) != wanted or file.read(1):
        raise ValueError("sizes and number of voxels differ")
    grid = np.frombuffer(voxels, kind)
    if listed:
        stack = np.moveaxis(grid.reshape(rows, columns, layers), 2, 0)
    else:
        stack = grid.reshape(1, rows, columns)
    return LabelGrid(layers=_whole(path, stack), listed=listed, header=header)


def _read_nifti(path: Path, file: IO[bytes], width: int, height: int) -> LabelGrid:
    packed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    stream = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
    most = width * height * 8 + (1 << 20)  # doubles, and a megabyte of header extensions
    content = stream.read(most + 1)
    if len(content) > most:
        raise _refused(
            path,
            f"it holds more than one slice of {width} × {height} pixels",
            "Send the label of this image, of one slice.",
        )
    image = nib.Nifti1Image.from_bytes(content)
    rows, columns = _slice_of(path, [int(size) for size in image.shape], width, height)
    voxels = np.asanyarray(image.dataobj).reshape(columns, rows, order="F").T
    return LabelGrid(layers=_whole(path, voxels[None]), listed=False, header={})


def _slice_of(path: Path, sizes: list[int], width: int, height: int) -> tuple[int, int]:
    """Rows and columns of one slice, from a file's sizes (column, row, slice, …)."""
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes = sizes[:-1]
    if len(sizes) > 2:
        raise _refused(
            path,
            f"it is a volume of {' × '.join(map(str, sizes))}",
            "A mammogram's label has one slice: save it with the mammogram as reference.",
        )
    if len(sizes) < 2 or not (0 < sizes[0] <= width and 0 < sizes[1] <= height):
        raise wrong_size(path, sizes, width, height)
    return sizes[1], sizes[0]


def wrong_size(path: Path, sizes: list[int], width: int, height: int) -> UnreadableLabel:
    """The error for a label that was drawn on another grid."""
    return _refused(
        path,
        f"its size is {' × '.join(map(str, sizes))}, that of the image {width} × {height}",
        "Send the label of this image, on its own pixels (columns × rows).",
    )


def _whole(path: Path, voxels: NDArray[Any]) -> NDArray[Any]:
    """Labels are whole numbers; some programs store them as floats."""
    if voxels.dtype.kind in "iu":
        return voxels
    if voxels.dtype.kind != "f" or not np.isfinite(voxels).all() or (voxels % 1).any():
        raise _refused(
            path, "its values are not whole numbers", "Save a label map, not an image of intensity."
        )
    if voxels.size and np.abs(voxels).max() > np.iinfo(np.int32).max:
        raise _refused(
            path, "its values are far too large", "Save a label map, not an image of intensity."
        )
    return voxels.astype(np.int32)


def _refused(path: Path, reason: str, remedy: str) -> UnreadableLabel:
    return UnreadableLabel(path, reason, remedy)


def _damaged(path: Path, error: Exception) -> UnreadableLabel:
    detail = " ".join(str(error).split())[:120] or type(error).__name__
    return UnreadableLabel(
        path, f"it is damaged or cut off ({detail})", "Save the label and send it again."
    )
