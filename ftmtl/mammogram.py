"""One mammogram: its pixels and the few facts that travel with them.

`pixels[row, column]` as stored, brighter = denser whatever the file's own convention, and never
windowed: how a person should see it (`for_display`) is worked out only when asked for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ftmtl.display import Display, stretch
from ftmtl.formats import Content, Refused, dicom, raster, volume

HEADER_EDITION = 2  # counts up when a header tells other facts: whoever keeps them names it
START = 560  # bytes, by which the kind of a file is known
LONGEST_NAME = 200  # bytes of an id that names a file; these hold 255, and a suffix is to come


class UnreadableMammogram(ValueError):
    """A file that is no readable mammogram; the message names it, the reason and the remedy."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"{path}: {reason}. {remedy}")
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """Let worker processes hand it on."""
        return type(self), (self.path, self.reason, self.remedy)


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is known about an image apart from its pixels."""

    image_id: str  # SOPInstanceUID, else the path below the studies folder, "/" as "__"
    path: Path
    spacing_mm: tuple[float, float] | None = None  # (x, y) at the detector
    laterality: str | None = None  # "L" | "R"
    view: str | None = None  # "CC", "MLO", …
    patient_id: str | None = field(default=None, repr=False)  # in memory only; None if shared
    study_uid: str | None = None
    pixel_aspect: float = 1.0  # height / width of one pixel


@dataclass(frozen=True, kw_only=True)
class MammogramHeader(_Facts):
    """A mammogram of which only the header was read."""

    width: int
    height: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Mammogram(_Facts):
    """A mammogram. `pixels` are read-only: caches and readers share them."""

    pixels: NDArray[Any] = field(repr=False)  # [rows, columns] uint8, uint16, int16 or float32
    display: Display | None = field(default=None, repr=False)  # the header's VOI

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    def for_display(self) -> NDArray[np.uint8]:
        """Give [rows, columns] for a screen: by the header's VOI, else between percentiles."""
        if self.display is not None and self.pixels.dtype.kind != "f":
            return self.display(self.pixels)
        return stretch(self.pixels)


def read_mammogram(path: Path, *, root: Path | None = None) -> Mammogram:
    """Read a DICOM, PNG, JPEG, TIFF, PGM, NIfTI or NRRD file, known by its content, not its name.

    `root` is the studies folder, for the ids of files without a SOPInstanceUID. Every file that is
    not one whole, grey projection raises `UnreadableMammogram`, and nothing else is raised.
    """
    path = Path(path)
    with _opened(path) as stream:
        content = _content(stream, pixels=True)
        pixels = content.decode()
        if pixels.shape != (content.height, content.width):
            raise Refused("it does not hold the image that it announces", "Export it again")
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise Refused("some of its pixels are not numbers", raster.AS_GREY)
        if not pixels.dtype.isnative:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        pixels = np.ascontiguousarray(pixels)
        pixels.setflags(write=False)
        return Mammogram(pixels=pixels, display=content.display, **_facts(path, root, content))


def read_header(path: Path, *, root: Path | None = None) -> MammogramHeader:
    """Read what the header tells, for lists of many images: in milliseconds for DICOM.

    Raises `UnreadableMammogram` for what is refused by its header (FOR PROCESSING, several frames,
    another modality …); damaged pixels show only in `read_mammogram`.
    """
    path = Path(path)
    with _opened(path) as stream:
        content = _content(stream, pixels=False)
        facts = _facts(path, root, content)
        return MammogramHeader(width=content.width, height=content.height, **facts)


def header_of(dataset: Dataset, *, path: Path) -> MammogramHeader:
    """Tell a DICOM header that came without its file, as a PACS answers to a search for metadata.

    `path` is where the file will lie. Raises `UnreadableMammogram` as `read_header` does.
    """
    with _explained(path):
        content = dicom.describe(dataset, pixels=False)
        facts = _facts(path, None, content)
        return MammogramHeader(width=content.width, height=content.height, **facts)


def image_id(path: Path, root: Path | None = None, sop_instance_uid: str | None = None) -> str:
    """Name an image: its SOPInstanceUID, else its path below `root` with "/" as "__"."""
    if sop_instance_uid:
        return sop_instance_uid
    if root is not None:
        file, folder = Path(os.path.abspath(path)), os.path.abspath(root)  # without any ".."
        if file.is_relative_to(folder):
            return file.relative_to(folder).as_posix().replace("/", "__")
    return path.name


def _facts(path: Path, root: Path | None, content: Content) -> dict[str, Any]:
    return {
        "image_id": image_id(path, root, content.sop_instance_uid),
        "path": path,
        "spacing_mm": content.spacing_mm,
        "laterality": content.laterality,
        "view": content.view,
        "patient_id": content.patient_id,
        "study_uid": content.study_uid,
        "pixel_aspect": content.pixel_aspect,
    }


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with _explained(path):
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise Refused("it is a folder", "Give the image files inside it")
        if not stat.S_ISREG(kind):
            raise Refused("it is not an ordinary file", "Give an image file")
        with path.open("rb") as stream:
            yield stream


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file, here or in a decoder, is `UnreadableMammogram`."""
    try:
        yield
    except Refused as refusal:
        raise UnreadableMammogram(path, refusal.reason, refusal.remedy) from None
    except FileNotFoundError:
        raise UnreadableMammogram(path, "there is no such file", "Check its name") from None
    except PermissionError:
        reason, remedy = "it may not be read by this user", "Change its permissions"
        raise UnreadableMammogram(path, reason, remedy) from None
    except MemoryError as error:
        reason, remedy = "there is not enough memory for it", "Free memory and try again"
        raise UnreadableMammogram(path, reason, remedy) from error
    except Exception as error:  # decoders meet damaged bytes with errors of every class
        reason = f"it is damaged or cut short ({type(error).__name__} while decoding)"
        raise UnreadableMammogram(path, reason, "Copy or export it again") from error


def may_be_mammogram(stream: BinaryIO) -> bool:
    """Tell by a file's first bytes whether it is of a kind that is read here."""
    return _reader(stream.read(START), pixels=False) is not None


def _content(stream: BinaryIO, *, pixels: bool) -> Content:
    start = stream.read(START)
    stream.seek(0)
    if not start:
        raise Refused("it is empty", "Copy or export it again")
    read = _reader(start, pixels=pixels)
    if read is None:
        raise Refused(
            "it is no image that is known here",
            "Give a DICOM, PNG, JPEG, TIFF, PGM, NIfTI or NRRD file",
        )
    return read(stream)


def _reader(start: bytes, *, pixels: bool) -> Callable[[BinaryIO], Content] | None:
    """Choose the reader by the first bytes; None for what no reader knows."""
    read_dicom = partial(dicom.read, pixels=pixels)
    if start[128:132] == b"DICM":  # first: what comes before may be the magic of a TIFF
        return read_dicom
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return raster.read_png
    if start.startswith(b"\xff\xd8\xff"):
        return raster.read_jpeg
    if start[:2] == b"P5" and start[2:3].isspace():
        return raster.read_pgm
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return raster.read_tiff
    if start.startswith(b"NRRD"):
        return volume.read_nrrd
    if start.startswith(b"\x1f\x8b") or volume.looks_like_nifti(start):
        return volume.read_nifti
    if dicom.looks_like_bare(start):
        return read_dicom
    return None
