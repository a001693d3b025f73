"""From masses to the image: rules by which masses speak for it, on one set of predictions.

    ftmtl predict --one-view --coco said.json --data SET.json --images DIR
    python benchmarks/image_rules.py --truth SET.json --predictions said.json

Films that all hold a mass cannot say what a rule does to a normal breast. So each is counted a
second time, without the predictions that touch one of its masses: what is left is what the network
says of tissue that nobody marked. AUC by image, breast and patient (the worst image), without and
with those; differences to the rule that is used are paired, over patients.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ftmtl.evaluation.bootstrap import interval, patient_weights
from ftmtl.evaluation.froc import froc, threshold_at
from ftmtl.evaluation.inputs import (
    BoolArray,
    FloatArray,
    Predictions,
    Truth,
    parse_predictions,
    parse_truth,
)
from ftmtl.evaluation.matching import CRITERIA, iou, match
from ftmtl.evaluation.roc import Ranking, group_ranking
from ftmtl.veto import of_image

REPLICATES = 2000
TOUCHES = 0.05  # IoU with a mass
Rule = Callable[[FloatArray, FloatArray, float], float]

RULES: dict[str, Rule] = {
    "in use (veto.of_image)": lambda score, malignancy, least: of_image(score, malignancy),
    "worst of score > 0.5": lambda score, malignancy, least: worst(malignancy[score > 0.5]),
    "worst above 3.67 FPI": lambda score, malignancy, least: worst(malignancy[score >= least]),
    "largest p(malignant)": lambda score, malignancy, least: worst(score * malignancy),
    "the most evident alone": lambda score, malignancy, least: float(malignancy[score.argmax()]),
    "mean, by evidence": lambda score, malignancy, least: float(
        np.average(malignancy, weights=score)),
}


def worst(values: FloatArray) -> float:
    """The largest, 0 where there is none."""
    return float(values.max(initial=0))


def away_from_masses(truth: Truth, said: Predictions) -> BoolArray:
    """[N] which predictions touch no mass: what is left of a film without its masses."""
    away = np.ones(len(said.score), dtype=bool)
    for image in range(truth.images):
        its = np.flatnonzero(said.image == image)
        overlap = iou(said.box[its], truth.mass_box[truth.mass_image == image])
        away[its] = ~(overlap > TOUCHES).any(axis=1)
    return away


def said_of_images(rule: Rule, said: Predictions, kept: BoolArray, images: int, least: float
                   ) -> FloatArray:
    """[I] what a rule makes of the kept predictions; 0 where there are none."""
    values = np.zeros(images)
    for image in range(images):
        its = kept & (said.image == image)
        if its.any():
            values[image] = rule(said.score[its], said.malignancy[its], least)
    return values


def with_normals(ranking: Ranking, normal: Ranking) -> Ranking:
    """The same units once more, as normal ones of the same women."""
    return replace(
        ranking,
        score=np.concatenate([ranking.score, normal.score]),
        malignant=np.concatenate([ranking.malignant, np.zeros_like(normal.malignant)]),
        patient=np.concatenate([ranking.patient, normal.patient]),
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    options = parser.parse_args()
    truth = parse_truth(json.loads(options.truth.read_text()))
    known = set(truth.image_ids)
    said = parse_predictions(
        [p for p in json.loads(options.predictions.read_text()) if p["image_id"] in known], truth)
    least = threshold_at(
        froc(truth, said, match(truth, said, CRITERIA["iou>0.2"])).curve, 3.67)
    everything = np.ones(len(said.score), dtype=bool)
    elsewhere = away_from_masses(truth, said)
    units = {"image": np.arange(truth.images), "breast": truth.breast, "patient": truth.patient}
    weights = patient_weights(truth.patients, REPLICATES, 0)

    ours: dict[tuple[str, str], tuple[float, FloatArray]] = {}
    for name, rule in RULES.items():
        of_films = said_of_images(rule, said, everything, truth.images, least)
        of_rest = said_of_images(rule, said, elsewhere, truth.images, least)
        print(name)
        for unit, group in units.items():
            films = group_ranking(truth, of_films, group, unit)
            both = with_normals(films, group_ranking(truth, of_rest, group, unit))
            for kind, ranking in (("films", films), ("and normals", both)):
                auc, draws = ranking.auc() or float("nan"), ranking.auc_of(weights)
                line = f"  by {unit:8}{kind:12}{auc:.3f}"
                if (unit, kind) in ours:
                    first, first_draws = ours[unit, kind]
                    low, high = interval(first_draws - draws) or (float("nan"),) * 2
                    line += f"   in use − this {first - auc:+.3f} ({low:+.3f} to {high:+.3f})"
                else:
                    ours[unit, kind] = auc, draws
                print(line)


if __name__ == "__main__":
    main()
