"""The file of an answer: a label file of ours, or a plain label map for other clients."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nrrd
import numpy as np

from ftmtl.datasets.labels import LABEL_SUFFIX
from ftmtl.findings import Findings
from ftmtl.label_file import largest_part, write_label_file

LABELS = {"benign": 1, "malignant": 2}


def write_answer(findings: Findings, extension: str, *, compress: bool) -> str:
    """Writes the findings into a new temporary file, which whoever sends it deletes."""
    with tempfile.NamedTemporaryFile(suffix=extension, delete=False) as stream:
        file = Path(stream.name)
    try:
        if extension == LABEL_SUFFIX:
            write_label_file(file, findings)
        else:
            write_label_map(file, findings, compress=compress)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return str(file)


def write_label_map(file: Path, findings: Findings, *, compress: bool) -> None:
    """A plain label map, one slice, as ITK sees the image: 1 benign, 2 malignant on top.

    Of a mask that falls into pieces the largest: each would come back as a finding of its own.
    """
    image = findings.image
    pixels = np.zeros((image.height, image.width), np.uint8)
    for finding in sorted(findings.findings, key=lambda f: LABELS[f.label]):
        if (piece := finding.piece()) is not None:
            part = largest_part(piece)
            rows, columns = part.pixels.shape
            crop = pixels[part.y : part.y + rows, part.x : part.x + columns]
            crop[part.pixels] = LABELS[finding.label]
    x, y = image.spacing_mm or (1.0, 1.0)
    header = {
        "space": "left-posterior-superior",
        "space directions": [[x, 0, 0], [0, y, 0], [0, 0, 1]],
        "space origin": [0, 0, 0],
        "kinds": ["domain", "domain", "domain"],
        "encoding": "gzip" if compress else "raw",
    }
    nrrd.write(str(file), pixels.T[:, :, None], header, compression_level=1)
