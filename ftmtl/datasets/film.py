"""A record's film, with what its data set knows of it and its file does not."""

from __future__ import annotations

from dataclasses import replace

from ftmtl.mammogram import Mammogram, UnreadableMammogram, read_mammogram

from .records import ImageRecord


def read_film(record: ImageRecord) -> Mammogram:
    """The mammogram of a record, with its stretch; without one the file's own counts.

    Raises UnreadableMammogram, also where the file is not of the record's size.
    """
    mammogram = read_mammogram(record.path)
    check_size(record, (mammogram.height, mammogram.width))
    if record.pixel_aspect == 1:
        return mammogram
    return replace(mammogram, pixel_aspect=record.pixel_aspect)


def check_size(record: ImageRecord, size: tuple[int, int]) -> None:
    """UnreadableMammogram where a film of `size` (height, width) is not what its record says.

    Its boxes would lie elsewhere.
    """
    if size != (record.height, record.width):
        raise UnreadableMammogram(
            record.path,
            f"it has {size[1]}×{size[0]} pixels, the data set says {record.width}×{record.height}",
            "Correct the data set",
        )
