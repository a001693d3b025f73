"""Active learning: which mammogram would teach the model most, and why.

One row of figures an image (`figures_of`), and one small pure function a strategy: it is given the
rows of all images that the model has read (`Work`) and returns the one to read next with a sentence
that says why, in figures. Higher is more urgent throughout.

Entropy is that of the three answers to "a mass? and which?", with the operating threshold taken for
the point where mass and no mass are equally likely. Disagreement is between a mammogram and its
mirror image. Diversity is the greedy core-set over θ1 features (`ftmtl.core_set`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ftmtl.core_set import CoreSet, FloatArray, IntArray
from ftmtl.findings import ImageInfo
from ftmtl.reading import Candidate, Reading, malignancy_of

FIGURES_EDITION = 3  # counts up when one reading gives other figures: whoever keeps them names it
FEATURES = 1024
MOST_BITS = float(np.log2(3))
SAME_PLACE_IOU = 0.2  # as where two boxes are one mass

# malignancy: of the image. uncertainty: bits. mass, malignant: of the candidate that is the least
# certain, p(mass) and p(malignant | mass). disagreement: 0…1, NaN where not known yet.
FIGURES = np.dtype(
    [(name, "f8") for name in ("malignancy", "uncertainty", "mass", "malignant", "disagreement")]
)
Figures = NDArray[np.void]


@dataclass(frozen=True)
class Work:
    """N images that the model has read: `figures` [N] of FIGURES, `features` [N, 1024].

    `free` are the indices of those that may be given out, in the order of the work list; `done`
    those that are labelled or in somebody's hands. `core_set` remembers distances between choices.
    """

    figures: Figures
    features: NDArray[np.float32]
    free: IntArray
    done: IntArray
    core_set: CoreSet = field(default_factory=CoreSet)

    def distance_to_done(self) -> FloatArray | None:
        """[F] cosine distance of each free image to the nearest one done; None if none is."""
        return self.core_set.distances(self.features, self.free, self.done)


@dataclass(frozen=True)
class Choice:
    """The image to read next, as an index into the rows, and the reason in a sentence."""

    index: int
    reason: str


Strategy = Callable[[Work], Choice | None]
"""None where the rows do not hold what the strategy needs."""


# One row of figures ---------------------------------------------------------------------------


def figures_of(reading: Reading, *, threshold: float, mirrored: Reading | None = None) -> Figures:
    """A row [] of FIGURES for one image; `threshold` is the operating point of the model."""
    row = np.zeros((), FIGURES)
    row["malignancy"] = malignancy_of(reading.candidates)
    row["disagreement"] = np.nan if mirrored is None else disagreement(reading, mirrored)
    for candidate in reading.candidates:
        _, benign, malignant = candidate.probabilities
        share = malignant / max(benign + malignant, 1e-12)
        bits = entropy(candidate.score, share, threshold=threshold)
        if bits > row["uncertainty"]:
            row["uncertainty"], row["mass"], row["malignant"] = bits, candidate.score, share
    return row


def entropy(mass: float, malignant: float, *, threshold: float) -> float:
    """Bits of {no mass, benign, malignant}, from p(mass) and p(malignant | mass).

    The odds of a mass are divided by those of `threshold`: at the threshold they are even.
    """
    odds = _odds(mass) / _odds(threshold)
    even = odds / (1 + odds)
    return _binary(even) + even * _binary(malignant)


def disagreement(reading: Reading, other: Reading) -> float:
    """How far the two readings of one image are apart at the place where they differ most.

    Candidates are paired by overlap, the best scored first; of each pair the total variation of
    the class probabilities counts, and of one without a partner its score.
    """
    left = list(other.candidates)
    worst = 0.0
    for candidate in reading.candidates:
        overlaps = [_iou(candidate, partner) for partner in left]
        best = int(np.argmax(overlaps)) if overlaps else 0
        if overlaps and overlaps[best] > SAME_PLACE_IOU:
            apart = np.abs(candidate.probabilities - left.pop(best).probabilities).sum() / 2
        else:
            apart = candidate.score
        worst = max(worst, float(apart))
    return max(worst, *(c.score for c in left), 0.0)


# Strategies -----------------------------------------------------------------------------------


def uncertainty(work: Work) -> Choice | None:
    """The image with the place about which the model is least certain."""
    if not len(work.free):
        return None
    index = _largest(work, work.figures["uncertainty"])
    row = work.figures[index]
    return Choice(
        index,
        f"the model is least certain here: {row['uncertainty']:.2f} of {MOST_BITS:.2f} bits about "
        f"one place, a mass with {row['mass']:.0%}, malignant if it is one with "
        f"{row['malignant']:.0%}; the median of {len(work.free)} images is "
        f"{np.median(work.figures['uncertainty'][work.free]):.2f} bits",
    )


def disagreeing(work: Work) -> Choice | None:
    """The image whose mirror image the model reads most differently."""
    values = work.figures["disagreement"][work.free]
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    index = _largest(work, work.figures["disagreement"])
    return Choice(
        index,
        f"the model contradicts itself here: mirrored, its probabilities change by "
        f"{work.figures['disagreement'][index]:.0%} at one place; the median of {len(known)} "
        f"images is {np.median(known):.0%}",
    )


def diversity(work: Work) -> Choice | None:
    """The image farthest from all that are labelled or handed out; at first the most typical."""
    if not len(work.free):
        return None
    distances = work.distance_to_done()
    if distances is None:
        mean = work.features[work.free].mean(axis=0)
        index = int(work.free[(work.features[work.free] @ mean).argmax()])
        return Choice(
            index,
            f"the most typical of {len(work.free)} images: nothing is labelled yet to differ from",
        )
    best = int(distances.argmax())
    return Choice(
        int(work.free[best]),
        f"least like the {len(work.done)} images labelled or handed out: cosine distance "
        f"{distances[best]:.3f} to the nearest, where the median of {len(work.free)} images is "
        f"{np.median(distances):.3f}",
    )


def mixed(work: Work) -> Choice | None:
    """The image with the best mean rank by uncertainty, disagreement and diversity."""
    if not len(work.free):
        return None
    distances = work.distance_to_done()
    offered = {
        "uncertainty": work.figures["uncertainty"][work.free],
        "disagreement": work.figures["disagreement"][work.free],
        "distance": distances,
    }
    values = {
        name: value
        for name, value in offered.items()
        if value is not None and not np.isnan(value).any()
    }
    ranks = {name: _ranks(-value) for name, value in values.items()}
    best = int(np.mean(list(ranks.values()), axis=0).argmin())
    places = ", ".join(f"{name} {values[name][best]:.2f} (rank {rank[best]:g})"
                       for name, rank in ranks.items())
    return Choice(
        int(work.free[best]), f"best of {len(work.free)} images by the mean of its ranks: {places}"
    )


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from 1; equal values share the mean of theirs. scipy's takes a second to import."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: FloatArray = counts.cumsum() - (counts - 1) / 2
    return means[group]


def suspicious(work: Work) -> Choice | None:
    """The image that looks most malignant: triage."""
    if not len(work.free):
        return None
    index = _largest(work, work.figures["malignancy"])
    values = work.figures["malignancy"]
    return Choice(
        index,
        f"the most suspicious of {len(work.free)} images: malignancy {values[index]:.0%}; "
        f"{int((values[work.free] > 0.5).sum())} are above 50 %",
    )


STRATEGIES: dict[str, Strategy] = {
    "uncertainty": uncertainty,
    "disagreement": disagreeing,
    "diversity": diversity,
    "mixed": mixed,
    "suspicious": suspicious,
}


def same_patient(images: Sequence[ImageInfo], after: ImageInfo) -> Choice | None:
    """Of `images`, another one of the same patient: first the same breast, then another view.

    None where the patient is not known or has no other.
    """
    hers = [
        (image.laterality != after.laterality, image.view == after.view, index)
        for index, image in enumerate(images)
        if after.patient_key is not None
        and image.patient_key == after.patient_key
        and image.id != after.id
    ]
    if not hers:
        return None
    other_breast, _, index = min(hers)
    names = " ".join(filter(None, (images[index].laterality, images[index].view))) or "another view"
    breast = "the other breast" if other_breast else "the same breast"
    return Choice(
        index, f"{names}, {breast} of the patient just read; {len(hers)} of her images are left"
    )


def _largest(work: Work, values: FloatArray) -> int:
    ranked = np.where(np.isnan(values), -np.inf, values)[work.free]
    return int(work.free[ranked.argmax()])


def _odds(p: float) -> float:
    inside = min(max(p, 1e-6), 1 - 1e-6)
    return inside / (1 - inside)


def _binary(p: float) -> float:
    return float(-sum(q * np.log2(q) for q in (p, 1 - p) if q > 0))


def _iou(one: Candidate, other: Candidate) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = one.box, other.box
    width = min(ax + aw, bx + bw) - max(ax, bx)
    height = min(ay + ah, by + bh) - max(ay, by)
    shared = max(0.0, width) * max(0.0, height)
    return float(shared / (aw * ah + bw * bh - shared)) if shared > 0 else 0.0
