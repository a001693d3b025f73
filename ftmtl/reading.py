"""What the network saw in one mammogram, before any threshold; small enough to keep on disk."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ftmtl.atomic import atomic_write
from ftmtl.canvas import EDITION
from ftmtl.veto import of_image

MASK_SIDE = 28
# Counts up when the same weights see something else in a film, as another canvas makes them do:
# whoever keeps readings names it.
READING_EDITION = f"{EDITION}.1"


class DamagedReading(ValueError):
    """A file that holds no whole reading; the image must be read again."""


@dataclass(frozen=True)
class Candidate:
    """One mass as the network sees it, before any threshold.

    `box` (x, y, width, height) in image pixels; `probabilities` [3], calibrated, of background,
    benign, malignant; `malignancy` by the veto over the mass's boxes; `mask` 28×28 within the box.
    """

    box: tuple[float, float, float, float]
    probabilities: NDArray[np.float64]
    malignancy: float
    mask: NDArray[np.float32]

    @property
    def score(self) -> float:
        """1 − background."""
        return float(1 - self.probabilities[0])


def malignancy_of(candidates: Sequence[Candidate]) -> float:
    """Of an image with these candidates (`ftmtl.veto.of_image`)."""
    return of_image([c.score for c in candidates], [c.malignancy for c in candidates])


@dataclass(frozen=True)
class Reading:
    """All candidates above the score floor, best first, and what ranking needs.

    `features` [1024] is θ1, mean-pooled over each box and averaged over the boxes by their scores,
    of length 1 (0 where there is no box). `heard`: the candidates heard the other view of their
    breast (`ftmtl.other_view`); what is kept on disk is what the network saw in this film alone.
    """

    candidates: tuple[Candidate, ...]
    features: NDArray[np.float32]
    heard: bool = False

    def save(self, file: Path) -> None:
        """Writes it, whole or not at all. Raises OSError."""
        found = self.candidates
        masks = [c.mask for c in found] or np.empty((0, MASK_SIDE, MASK_SIDE))
        with atomic_write(file) as stream:
            np.savez(
                stream,
                boxes=np.array([c.box for c in found], np.float64).reshape(-1, 4),
                probabilities=np.array([c.probabilities for c in found]).reshape(-1, 3),
                malignancies=np.array([c.malignancy for c in found], np.float64),
                masks=np.asarray(masks, np.float32),
                features=self.features,
            )

    @classmethod
    def load(cls, file: Path) -> Self:
        """What `save` wrote, to the last bit. Raises DamagedReading, FileNotFoundError."""
        try:
            # The archive carries a checksum of each array, so that flipped bits are noticed.
            with np.load(file, allow_pickle=False) as arrays:
                rows = zip(
                    arrays["boxes"].tolist(),
                    arrays["probabilities"],
                    arrays["malignancies"].tolist(),
                    arrays["masks"],
                    strict=True,
                )
                candidates = tuple(Candidate(tuple(box), *rest) for box, *rest in rows)
                return cls(candidates, arrays["features"])
        except FileNotFoundError:
            raise
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise DamagedReading(f"{file}: not a whole reading ({error})") from error
