"""Who is tested when: folds by patient, and the paper's by mass, whose leak can be counted.

How large the leak is shows where the paper's samples are folded by patient: nothing else differs.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.records import ImageRecord

Split = Literal["patients", "masses", "masses-by-patient"]


class TooFewToFold(ValueError):
    """There are fewer patients or masses than folds, or fewer of every kind."""


@dataclass(frozen=True, kw_only=True)
class Folds:
    """N records, each tested in one fold and trained on in all others."""

    records: tuple[ImageRecord, ...]
    fold: tuple[int, ...]  # [N]
    count: int
    split: Split

    def training(self, fold: int) -> list[ImageRecord]:
        """The records that the fold's model learns from."""
        return [r for r, own in zip(self.records, self.fold, strict=True) if own != fold]

    def test(self, fold: int) -> list[ImageRecord]:
        """The records that the fold's model is judged on."""
        return [r for r, own in zip(self.records, self.fold, strict=True) if own == fold]

    def leak(self) -> dict[str, int]:
        """Of the N tests: `tests`, how many show a woman, or the very film, that was trained on."""
        women = films = 0
        for fold in range(self.count):
            trained = self.training(fold)
            known = {r.patient_id for r in trained}, {r.path for r in trained}
            women += sum(r.patient_id in known[0] for r in self.test(fold))
            films += sum(r.path in known[1] for r in self.test(fold))
        return {"tests": len(self.records), "of_known_patients": women, "of_known_films": films}

    def without_patient(self) -> int:
        """How many films name no patient: each is taken for a woman of her own."""
        return len({r.path for r in self.records if not r.patient_known})

    def truth(self) -> dict[str, Any]:
        """The COCO data set of the records, each image with its `fold`."""
        document = to_coco(self.records)
        for image, record, fold in zip(document["images"], self.records, self.fold, strict=True):
            image |= {"file_name": record.path.name, "fold": fold}
            if self.split != "patients":  # a film's samples are hers, whoever she is
                image["patient_id"] = record.patient_id
        return document


def by_patient(records: Sequence[ImageRecord], folds: int, seed: int) -> Folds:
    """All films of a woman in one fold, films of each kind in equal shares.

    Raises TooFewToFold.
    """
    return _grouped(records, folds, seed, "patients", "films")


def by_mass(records: Sequence[ImageRecord], folds: int, seed: int) -> Folds:
    """The paper's (3.2): each mass is a sample of its own, and samples are split by class alone.

    A film with two masses becomes two samples, each without the other mass; films without any are
    dropped. So a woman, even a film, is on both sides. Raises TooFewToFold.
    """
    samples = _samples(records)
    if folds < 2 or len(samples) < folds:
        raise TooFewToFold(f"{folds} folds need at least 2, and as many masses: there are "
                           f"{len(samples)}")
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return Folds(records=tuple(samples), fold=_folds(splitter, samples, None, "masses"),
                 count=folds, split="masses")


def masses_by_patient(records: Sequence[ImageRecord], folds: int, seed: int) -> Folds:
    """The samples of `by_mass`, all of a woman in one fold. Raises TooFewToFold."""
    return _grouped(_samples(records), folds, seed, "masses-by-patient", "masses")


SPLITS = {"patients": by_patient, "masses": by_mass, "masses-by-patient": masses_by_patient}


def _samples(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    return [replace(r, image_id=f"{r.image_id} mass {mass.id}", annotations=(mass,))
            for r in records for mass in r.masses]


def _grouped(
    records: Sequence[ImageRecord], folds: int, seed: int, name: Split, things: str
) -> Folds:
    patients = [r.patient_id for r in records]
    if folds < 2 or len(set(patients)) < folds:
        raise TooFewToFold(f"{folds} folds need at least 2, and as many patients: there are "
                           f"{len(set(patients))}")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    split = Folds(records=tuple(records), fold=_folds(splitter, records, patients, things),
                  count=folds, split=name)
    if split.leak()["of_known_patients"]:
        raise AssertionError("a patient is in two folds")
    return split


def _folds(
    splitter: Any, records: Sequence[ImageRecord], groups: list[str] | None, things: str
) -> tuple[int, ...]:
    """The fold of each of `records`. Raises TooFewToFold, naming what is dealt."""
    kinds = [int(r.kind) for r in records]
    most = max(Counter(kinds).values())
    if most < splitter.n_splits:
        raise TooFewToFold(
            f"{splitter.n_splits} folds need as many {things} of one kind (normal, benign, "
            f"malignant, of unknown class): there are at most {most}. Give more {things}, or fewer "
            "--folds"
        )
    fold = np.zeros(len(kinds), dtype=int)
    with warnings.catch_warnings():
        # A class with fewer members than folds lacks in some of them: their figures say so.
        warnings.simplefilter("ignore", UserWarning)
        parts = list(splitter.split(kinds, kinds, groups))
    for number, (_, tested) in enumerate(parts):
        fold[tested] = number
    return tuple(int(own) for own in fold)
