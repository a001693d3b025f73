"""A reading as a picture: boxes, contours, scores and the verdict drawn on the mammogram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import approximate_polygon, find_contours

from ftmtl.atomic import atomic_write
from ftmtl.canvas import box_of, breast_mask
from ftmtl.findings import Finding, Findings
from ftmtl.mammogram import Mammogram

HEIGHT = 1400  # of the picture's image part, in its own pixels
NARROWEST = 480  # the picture, so that the verdict has room beside a narrow breast
BAND = 64  # above and below: the verdict, and what this is
LARGE = 34  # the verdict's letters, if it has room beside side and view
COLOURS = {"malignant": (255, 92, 92), "benign": (94, 224, 130)}
INK, PAPER, QUIET = (235, 238, 240), (18, 20, 23), (150, 158, 166)


def draw_overlay(mammogram: Mammogram, findings: Findings) -> Image.Image:
    """The breast as the header's window shows it, with every finding that is not rejected."""
    grey = mammogram.for_display()
    breast = breast_mask(mammogram.pixels)
    x, y, width, height = box_of(breast.mask, breast.step, mammogram.pixels.shape)
    scale_y = HEIGHT / height
    scale_x = scale_y / mammogram.pixel_aspect
    shown = Image.fromarray(grey[y : y + height, x : x + width]).resize(
        (round(width * scale_x), HEIGHT), Image.Resampling.BOX
    )
    scale_x = shown.width / width
    picture = Image.new("RGB", (max(NARROWEST, shown.width), HEIGHT + 2 * BAND), PAPER)
    picture.paste(shown, (0, BAND))
    pen = ImageDraw.Draw(picture)
    to_picture = (scale_x, scale_y, -x * scale_x, BAND - y * scale_y)
    # The most suspicious is drawn last and so lies on top.
    for finding in reversed(findings.findings):
        if finding.status != "rejected":
            _draw_finding(pen, finding, to_picture, picture.width)
    _draw_words(pen, findings, picture.size)
    return picture


def save_overlay(file: Path, mammogram: Mammogram, findings: Findings) -> None:
    """Write the picture as PNG, whole or not at all."""
    with atomic_write(file) as stream:
        # A third of the time of zlib's default, and no larger.
        draw_overlay(mammogram, findings).save(stream, format="PNG", compress_level=3)


def _draw_finding(pen: ImageDraw.ImageDraw, finding: Finding,
                  to_picture: tuple[float, float, float, float], width: int) -> None:
    scale_x, scale_y, left, top = to_picture
    colour = COLOURS[finding.label]
    x, y, w, h = finding.bbox
    corners = (x * scale_x + left, y * scale_y + top,
               (x + w) * scale_x + left, (y + h) * scale_y + top)
    pen.rectangle(corners, outline=colour, width=3)
    mask = finding.mask()
    if mask is not None:
        for line in _contours(mask, finding.bbox):
            points = [(px * scale_x + left, py * scale_y + top) for px, py in line]
            pen.line(points, fill=colour, width=2, joint="curve")
    words: list[str] = [finding.label]
    if finding.malignancy is not None:
        words.append(f"{100 * finding.malignancy:.0f}")
    if finding.scores is not None:
        words.append(f"· score {1 - finding.scores['background']:.2f}")
    text = " ".join(words)
    font = _font(22)
    wide = pen.textlength(text, font=font) + 12
    at_x = min(max(0.0, corners[0]), max(0.0, width - wide))
    at_y = corners[1] - 32 if corners[1] - 32 > BAND else corners[3] + 4
    pen.rectangle((at_x, at_y, at_x + wide, at_y + 28), fill=PAPER)
    pen.text((at_x + 6, at_y + 1), text, fill=colour, font=font)


def _contours(mask: NDArray[np.bool_], bbox: tuple[float, float, float, float]
              ) -> list[NDArray[np.float64]]:
    """Outlines [points, 2] (x, y) of a mask, looked for around its pixels alone."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y, x = int(rows[0]), int(columns[0])
    part = np.pad(mask[y : rows[-1] + 1, x : columns[-1] + 1], 1)
    tolerance = max(0.5, bbox[2] / 200)
    return [
        # A pixel's index is its centre, half a pixel from its edge; the padding moves it by one.
        approximate_polygon(line, tolerance)[:, ::-1] + (x - 0.5, y - 0.5)
        for line in find_contours(part.astype(float), 0.5)
    ]


def _draw_words(pen: ImageDraw.ImageDraw, findings: Findings, size: tuple[int, int]) -> None:
    verdict, image = findings.verdict, findings.image
    name = " ".join(part for part in (image.laterality, image.view) if part)
    said, number = findings.heading(), f"{100 * verdict.malignancy:.0f} / 100"
    text, colour = said.capitalize(), INK
    if verdict.label == "no finding":
        if verdict.malignancy > 0:  # the model's; where a person left nothing there is none
            text += f" (malignancy {number})"
    else:
        text += f" {number}" if said == verdict.label else f", image {number}"
        if said != "no likely malignant mass":
            colour = COLOURS[verdict.label]
    room = size[0] - 48 - pen.textlength(name, font=_font(26))
    wide = pen.textlength(text, font=_font(LARGE))
    font = _font(LARGE if wide <= room else int(LARGE * room / wide))
    pen.text((16, BAND // 2), text, fill=colour, font=font, anchor="lm")
    pen.text((size[0] - 16, BAND // 2), name, fill=QUIET, font=_font(26), anchor="rm")
    model = findings.model
    made = f"{model.name} {model.version} · " if model else ""
    pen.text((16, size[1] - BAND + 20), f"{made}research use only", fill=QUIET, font=_font(20))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
