"""Films as Slicer's reader takes them quickly; called off the main thread.

Slicer's DICOM reader needs seconds for a mammogram that is compressed by RLE, on the main thread,
and a tenth of one for the same without. `pydicom`, which Slicer brings, unpacks it in less.
"""

from __future__ import annotations

from pathlib import Path

from . import disk

RLE_LOSSLESS = "1.2.840.10008.1.2.5"
PREFIX_AT = 128


def unpack(file: Path) -> None:
    """Takes the RLE compression out of a DICOM file; any other file stays as it is.

    So does one that cannot be unpacked: Slicer's reader says what is wrong with it. Raises OSError.
    """
    with open(file, "rb") as stream:
        if stream.read(PREFIX_AT + 4)[PREFIX_AT:] != b"DICM":
            return
    import pydicom  # only now: it takes a while, and other files need none of it

    try:
        film = pydicom.dcmread(file)
        if film.file_meta.TransferSyntaxUID != RLE_LOSSLESS:
            return
        film.decompress()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return
    part = file.with_name(f".{file.name}.part")
    try:
        film.save_as(part)
        part.replace(file)
    finally:
        disk.remove(part)
