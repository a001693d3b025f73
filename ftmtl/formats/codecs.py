"""DICOM pixel data -> the stored integers, strictly: what is cut short is refused, never padded.

The codecs are imagecodecs' (BSD): libjpeg-turbo, OpenJPEG and PackBits. Sizes are read from the
codestream before a decoder sees it, because a damaged header must not take the machine's memory.
PS3.5 section 8, annexes A.4 and G.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from ftmtl.formats import Refused

RLE = "1.2.840.10008.1.2.5"
NATIVE = {"1.2.840.10008.1.2": "<", "1.2.840.10008.1.2.1": "<", "1.2.840.10008.1.2.2": ">"}
JPEG = {
    "1.2.840.10008.1.2.4.50",  # baseline, 8 bits
    "1.2.840.10008.1.2.4.51",  # extended, 12 bits
    "1.2.840.10008.1.2.4.57",  # lossless
    "1.2.840.10008.1.2.4.70",  # lossless, first-order prediction
}
JPEG_2000 = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
READABLE = {RLE, *NATIVE, *JPEG, *JPEG_2000}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The Image Pixel module of one frame."""

    rows: int
    columns: int
    samples: int  # 1 grey, 3 RGB
    planar: bool
    bits_allocated: int  # 8 or 16
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def count(self) -> int:
        """How many numbers a frame has."""
        return self.rows * self.columns * self.samples


def damaged(what: str) -> Refused:
    """Say that the pixel data cannot be trusted."""
    return Refused(f"its pixel data is damaged or cut short: {what}", "Copy or export it again")


def decode(data: bytes, syntax: str, layout: Layout, *, swapped_words: bool) -> NDArray[Any]:
    """Give the stored values [rows, columns] or [rows, columns, 3] of one frame.

    uint8, uint16 or int16. `swapped_words`: 8-bit pixels that were written as big endian words.
    """
    if syntax in NATIVE:
        raw = _native(data, layout, NATIVE[syntax], swapped_words)
        shift = layout.high_bit + 1 - layout.bits_stored
    elif syntax == RLE:
        raw = _rle(_frame(data), layout)
        shift = layout.high_bit + 1 - layout.bits_stored
    else:
        raw = (_jpeg if syntax in JPEG else _jpeg_2000)(_frame(data), layout)
        shift = 0  # a codestream holds the value alone
    return _settle(raw, layout, shift)


def _settle(raw: NDArray[Any], layout: Layout, shift: int) -> NDArray[Any]:
    """Keep the stored bits of unsigned numbers and give them their sign."""
    raw = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    if shift:
        raw = raw >> raw.dtype.type(shift)
    bits = layout.bits_stored
    if layout.signed:
        spare = 16 - bits
        shifted = raw.astype(np.uint16) << np.uint16(spare)
        return np.right_shift(shifted.view(np.int16), spare)
    if bits < 8 * raw.dtype.itemsize and int(raw.max()) >= 2**bits:
        raw = raw & raw.dtype.type(2**bits - 1)  # an overlay once lived in the bits above
    return raw


def _native(data: bytes, layout: Layout, order: str, swapped_words: bool) -> NDArray[Any]:
    size = layout.bits_allocated // 8
    need = layout.count * size
    if len(data) < need:
        raise damaged(f"{len(data)} bytes of {need}")
    if len(data) >= need + layout.columns * size:
        raise damaged(f"{len(data)} bytes where {need} belong")  # rows, columns or bits are wrong
    if swapped_words and size == 1:
        even = data[: need + need % 2]
        if len(even) % 2:
            raise damaged(f"{len(data)} bytes of {need + 1}")
        values = np.frombuffer(even, np.uint16).byteswap().view(np.uint8)[:need]
    else:
        values = np.frombuffer(data, f"{order}u{size}", count=layout.count)
    return _shaped(values, layout, planar=layout.planar)


def _shaped(values: NDArray[Any], layout: Layout, *, planar: bool) -> NDArray[Any]:
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    if planar:
        return values.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0)
    return values.reshape(layout.rows, layout.columns, layout.samples)


def _frame(data: bytes) -> memoryview | bytes:
    """Join the fragments of encapsulated pixel data (PS3.5 A.4), without copying a single one."""
    view = memoryview(data)
    fragments: list[memoryview] = []
    at = 0
    while at < len(view):
        if len(view) - at < 8:
            raise damaged("a fragment is cut short")
        group, element, length = struct.unpack_from("<HHL", view, at)
        at += 8
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        if (group, element) != (0xFFFE, 0xE000) or at + length > len(view):
            raise damaged("a fragment is cut short")
        fragments.append(view[at : at + length])
        at += length
    if len(fragments) < 2:  # the first item is the offset table
        raise damaged("it holds no frame")
    return fragments[1] if len(fragments) == 2 else b"".join(fragments[1:])


def _rle(frame: memoryview | bytes, layout: Layout) -> NDArray[Any]:
    """Decode PS3.5 annex G: one PackBits segment for each byte of a pixel, the high byte first.

    imagecodecs' own DICOM decoder trusts the segment table and can end the process; this checks it.
    """
    size = layout.bits_allocated // 8
    if len(frame) < 64:
        raise damaged("it has no RLE header")
    header = struct.unpack_from("<16L", frame)
    segments = size * layout.samples
    if header[0] != segments:
        raise damaged(f"{header[0]} RLE segments instead of {segments}")
    bounds = [*header[1 : 1 + segments], len(frame)]
    if bounds[0] < 64 or any(a >= b for a, b in pairwise(bounds)):
        raise damaged("its RLE segments lie outside the file")
    plane = layout.rows * layout.columns
    values = np.empty((layout.samples, plane, size), np.uint8)
    view: Any = memoryview(frame)  # imagecodecs takes any buffer, its stubs say bytes
    for index in range(segments):
        segment = imagecodecs.packbits_decode(view[bounds[index] : bounds[index + 1]], out=plane)
        if len(segment) != plane:
            raise damaged(f"an RLE segment holds {len(segment)} of {plane} bytes")
        sample, byte = divmod(index, size)
        values[sample, :, size - 1 - byte] = np.frombuffer(segment, np.uint8)
    return _shaped(values.reshape(-1).view(f"<u{size}"), layout, planar=True)


def _jpeg(frame: memoryview | bytes, layout: Layout) -> NDArray[Any]:
    """Decode JPEG baseline, extended or lossless (ITU T.81)."""
    data = bytes(frame)
    if not data.startswith(b"\xff\xd8"):
        raise damaged("it is no JPEG")
    if not data[-64:].rstrip(b"\x00\xff").endswith(b"\xff\xd9"):
        raise damaged("the end of the JPEG is missing")  # libjpeg would make up the rest
    at = 2
    while True:
        if at + 10 > len(data) or data[at] != 0xFF:
            raise damaged("the JPEG has no frame header")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            break
        at += 2 + length
    _, rows, columns, components = struct.unpack_from(">BHHB", data, at + 4)
    _agree(rows, columns, components, layout)
    return _plain(imagecodecs.jpeg8_decode(data), layout)


def _jpeg_2000(frame: memoryview | bytes, layout: Layout) -> NDArray[Any]:
    """Decode JPEG 2000 (ITU T.800), as a codestream or, against the standard, in a JP2 box."""
    data = bytes(frame)
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or len(data) < start + 43:
        raise damaged("it is no JPEG 2000")
    if not data[-64:].rstrip(b"\x00").endswith(b"\xff\xd9"):
        raise damaged("the end of the JPEG 2000 codestream is missing")
    right, bottom, left, top = struct.unpack_from(">4L", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    _agree(bottom - top, right - left, components, layout)
    return _plain(imagecodecs.jpeg2k_decode(data), layout)


def _agree(rows: int, columns: int, components: int, layout: Layout) -> None:
    if (rows, columns, components) != (layout.rows, layout.columns, layout.samples):
        raise damaged(
            f"the codestream is {columns} x {rows} x {components}, "
            f"the header says {layout.columns} x {layout.rows} x {layout.samples}"
        )


def _plain(decoded: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Drop the codec's sign: the header's is the one that counts (encoders get theirs wrong)."""
    shape = (layout.rows, layout.columns) + ((layout.samples,) if layout.samples > 1 else ())
    if decoded.shape != shape or decoded.dtype.itemsize > 2:
        raise damaged("the codestream does not hold what it announced")
    return decoded.view(f"u{decoded.dtype.itemsize}")
