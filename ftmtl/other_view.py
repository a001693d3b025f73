"""What the other view of a breast says of a mass.

A mammogram shows a breast from above (CC) or from the side (MLO), and a radiologist judges a mass
by both. The network sees one film at a time. So each mass is told afterwards how malignant the
other view of its breast looks, and its malignancy goes a third of the way there, in log-odds: its
own film counts double, for the other may hide the mass or show another one. Less far where the
masses that the other view shows are less evident, by the constant of `ftmtl.veto.of_image`: a view
in which nothing is likely a mass says nothing. Where a mass is, and how likely it is one at all,
does not change.

Chosen and measured in docs/experiments/other_view.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ftmtl.reading import Candidate, Reading
from ftmtl.veto import of_image

OTHER = {"CC": "MLO", "MLO": "CC"}  # magnified, rolled or spot views are none of the two
CERTAINTY = 0.99  # a malignancy of 1 would silence the other view
OWN = 2.0  # what a mass's own film counts against the other view's 1
RULE = "masses go a third of the way, in log-odds, to what the other view of the breast says"


@dataclass(frozen=True)
class Said:
    """What a view says: how malignant it looks, and how much that weighs, both 0 to 1."""

    malignancy: float
    weight: float

    @classmethod
    def by(cls, scores: ArrayLike, malignancies: ArrayLike) -> Said:
        """Of a view's masses, p(mass) [K] and malignancies [K]; without any it weighs nothing.

        The malignancy is the largest p(malignant) relative to the largest p(mass).
        """
        weight = of_image(scores, np.ones_like(scores))
        if weight <= 0:
            return cls(0.5, 0.0)
        return cls(of_image(scores, malignancies) / weight, weight)


def heard(malignancies: ArrayLike, others: Sequence[Said]) -> NDArray[np.float64]:
    """Malignancies [K] of a view's masses after what the other view said, in one film or more."""
    own = np.asarray(malignancies, dtype=np.float64)
    if not others:
        return own
    weight = float(np.mean([said.weight for said in others]))
    if weight == 0:
        return own
    pull = float(np.mean([said.weight * _log_odds(said.malignancy) for said in others]))
    both = (OWN * _log_odds(own) + pull) / (OWN + weight)
    return np.asarray(1 / (1 + np.exp(-both)), dtype=np.float64)


def with_other_view(reading: Reading, others: Sequence[Reading]) -> Reading:
    """The reading of a film after the `others`, readings of its breast's other view, were heard."""
    told = told_by(reading.candidates, others)
    return reading if told is None else replace(reading, candidates=told, heard=True)


def told_by(
    candidates: Sequence[Candidate], others: Sequence[Reading]
) -> tuple[Candidate, ...] | None:
    """A film's candidates after the `others` were heard; None where there was nothing to hear."""
    said = [
        Said.by([c.score for c in o.candidates], [c.malignancy for c in o.candidates])
        for o in others
    ]
    if not candidates or not any(one.weight for one in said):
        return None
    malignancies = heard([c.malignancy for c in candidates], said)
    shares = heard([_share(c) for c in candidates], said)
    told = zip(candidates, malignancies.tolist(), shares.tolist(), strict=True)
    return tuple(_told(*one) for one in told)


def other_views(
    films: Sequence[tuple[Hashable | None, str | None]],
) -> list[tuple[int, ...]]:
    """For each film, given its breast and its view, the indices of its breast's other view.

    A breast is a patient's side in one examination; None where any of that is unknown.
    """
    by_view: dict[tuple[Hashable, str], list[int]] = defaultdict(list)
    for number, (breast, view) in enumerate(films):
        if breast is not None and view in OTHER:
            by_view[breast, view].append(number)
    return [
        tuple(by_view.get((breast, OTHER[view]), ())) if view in OTHER else ()
        for breast, view in films
    ]


def _share(candidate: Candidate) -> float:
    """p(malignant) given a mass, of the candidate's own box."""
    return float(candidate.probabilities[2] / max(candidate.score, 1e-12))


def _told(candidate: Candidate, malignancy: float, share: float) -> Candidate:
    mass = candidate.score
    probabilities = np.array([1 - mass, mass * (1 - share), mass * share])
    return replace(candidate, probabilities=probabilities, malignancy=malignancy)


def _log_odds(probability: ArrayLike) -> NDArray[np.float64]:
    p = np.clip(np.asarray(probability, dtype=np.float64), 1 - CERTAINTY, CERTAINTY)
    return np.asarray(np.log(p / (1 - p)), dtype=np.float64)
