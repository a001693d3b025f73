"""Grey PNG, JPEG, TIFF and PGM of 8 or 16 bits.

None of them says how large a pixel is at the detector (what resolution they carry is a printer's),
so their images have no spacing.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from ftmtl.display import flip
from ftmtl.formats import Content, Refused, check_size, grey_of

AS_GREY = "Save it as one grey image of 8 or 16 bits"
# Width, height and the highest value, with white space or comments before each.
PGM_HEADER = re.compile(rb"P5" + 3 * rb"(?:\s|#[^\n]*\n)+([0-9]{1,9})" + rb"\s")


def read_png(stream: BinaryIO) -> Content:
    """Describe a PNG."""
    data = stream.read()
    depth, colour = data[24], data[25]  # IHDR
    if depth < 8 or colour == 3:
        raise Refused("it has a palette or fewer than 8 bits a pixel", AS_GREY)
    if depth == 16 and colour in (2, 6):
        raise Refused("it is a colour picture of 16 bits a channel", AS_GREY)
    if b"IEND" not in data[-1024:]:
        raise Refused("it is cut short", "Copy or export it again")
    return _pillow(data, "PNG")


def read_jpeg(stream: BinaryIO) -> Content:
    """Describe a JPEG."""
    data = stream.read()
    if b"\xff\xd9" not in data[-1024:]:
        raise Refused("it is cut short", "Copy or export it again")
    return _pillow(data, "JPEG")


def read_pgm(stream: BinaryIO) -> Content:
    """Describe a binary PGM, as mini-MIAS has: its values as stored, however far they go.

    Pillow would stretch them to 8 or 16 bits, and hand out the larger ones as 32.
    """
    data = stream.read()
    header = PGM_HEADER.match(data)
    if header is None:
        raise Refused("it is cut short", "Copy or export it again")
    width, height, highest = map(int, header.groups())
    check_size(width, height)
    if not 0 < highest < 1 << 16:
        raise Refused(f"its header claims grey values up to {highest}", AS_GREY)
    kind = np.dtype("u1" if highest < 1 << 8 else ">u2")
    start, count = header.end(), width * height
    if len(data) < start + count * kind.itemsize:
        raise Refused("it is cut short", "Copy or export it again")

    def decode() -> NDArray[Any]:
        return np.frombuffer(data, kind, count, start).reshape(height, width)

    return Content(width=width, height=height, decode=decode)


def _pillow(data: bytes, kind: str) -> Content:
    try:
        image = Image.open(BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError:
        raise Refused("its header claims a vast image", "Export it again") from None
    check_size(image.width, image.height)

    def decode() -> NDArray[Any]:
        pixels = np.asarray(image)
        if image.mode in ("LA", "RGBA"):
            if not (pixels[..., -1] == 255).all():
                raise Refused("parts of it are transparent", AS_GREY)
            return pixels[..., 0] if image.mode == "LA" else grey_of(pixels)
        return grey_of(pixels) if image.mode == "RGB" else pixels

    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        raise Refused(f"its pixels are of the kind {image.mode}", AS_GREY)
    return Content(width=image.width, height=image.height, decode=decode)


def read_tiff(stream: BinaryIO) -> Content:
    """Describe a TIFF of one page; WhiteIsZero is turned so that bright is dense."""
    data = stream.read()
    pages = tifffile.TiffFile(BytesIO(data)).pages
    if len(pages) != 1:
        raise Refused(f"it has {len(pages)} pages", "Save the one view as a file of its own")
    page = pages[0]
    if not isinstance(page, tifffile.TiffPage) or page.dtype is None:
        raise Refused("its pixels are of an unknown kind", AS_GREY)
    width, height, samples = page.imagewidth, page.imagelength, page.samplesperpixel
    check_size(width, height)
    kind = page.dtype.str[1:]
    if page.photometric not in (0, 1, 2) or samples not in (1, 3) or page.imagedepth != 1:
        raise Refused(f"its photometric interpretation is {page.photometric!r}", AS_GREY)
    if kind not in ("u1", "u2", "i2", "f4") or page.bitspersample not in (8, 16, 32):
        raise Refused(f"it has {page.bitspersample} bits a pixel of the kind {kind}", AS_GREY)
    extents = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(count == 0 or offset + count > len(data) for offset, count in extents):
        raise Refused("it is cut short", "Copy or export it again")  # tifffile would pad it

    def decode() -> NDArray[Any]:
        pixels = page.asarray(maxworkers=1)
        if samples == 3:
            pixels = grey_of(np.moveaxis(pixels, 0, -1) if page.planarconfig == 2 else pixels)
        if page.photometric == 0:
            if pixels.dtype.kind == "f":
                return -pixels
            bits = 8 * pixels.dtype.itemsize
            return flip(pixels, bits=bits, signed=pixels.dtype.kind == "i")
        return pixels

    return Content(width=width, height=height, decode=decode)
