"""What a mass should hear from the other view of its breast: rules, on one set of predictions.

    ftmtl predict --one-view --coco alone.json --data SET.json --images DIR
    python benchmarks/view_rules.py --truth SET.json --predictions alone.json

For each rule the AUC of detected masses, of all (a miss = 0), by image, breast and patient, and
the difference to the network alone, in pairs, over patients. Two questions besides, which films
that all hold a mass do not ask:

- *hidden*: the other view shows the mass in nobody's eyes. The predictions that touch a mass are
  taken out of what is heard; the AUC is that of detected masses.
- *and normals*: each film counted once more without the predictions that touch one of its masses,
  as a normal one, as in image_rules.py; the AUC is by image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from image_rules import REPLICATES, away_from_masses, with_normals

from ftmtl.evaluation.bootstrap import interval, patient_weights
from ftmtl.evaluation.evaluate import DETECTED_FPI, DETECTED_IOU
from ftmtl.evaluation.froc import froc, threshold_at
from ftmtl.evaluation.inputs import (
    BoolArray,
    FloatArray,
    Predictions,
    Truth,
    parse_predictions,
    parse_truth,
)
from ftmtl.evaluation.matching import CRITERIA, detected, match
from ftmtl.evaluation.roc import Ranking, group_ranking, image_malignancies, mass_rankings
from ftmtl.other_view import OWN, Said, heard, other_views
from ftmtl.veto import of_image

# scores and malignancies of a view -> what it says
Rule = Callable[[FloatArray, FloatArray], Said]

RULES: dict[str, Rule | None] = {
    "one view": None,
    "in use (other_view)": Said.by,
    "both films count alike": lambda s, m: replace(
        Said.by(s, m), weight=OWN * Said.by(s, m).weight),
    "alike, the image's word, always in full": lambda s, m: Said(of_image(s, m), OWN),
    "alike, the most evident mass, by evidence": lambda s, m: Said(
        float(m[s.argmax()]), OWN * float(s.max())),
    "alike, the most evident mass, always in full": lambda s, m: Said(float(m[s.argmax()]), OWN),
}


def after(rule: Rule | None, said: Predictions, others: list[tuple[int, ...]], speaks: BoolArray
          ) -> Predictions:
    """The predictions after each film heard its other views' predictions that are to speak."""
    if rule is None:
        return said
    malignancy, probabilities = said.malignancy, said.probabilities.copy()
    words: dict[int, Said] = {}
    for image in range(len(others)):
        its = (said.image == image) & speaks
        if its.any():
            words[image] = rule(said.score[its], malignancy[its])
    for image, partners in enumerate(others):
        own = said.image == image
        share = heard(malignancy[own], [words[p] for p in partners if p in words])
        mass = probabilities[own, 1:].sum(axis=1)
        probabilities[own, 1], probabilities[own, 2] = mass * (1 - share), mass * share
    return replace(said, probabilities=probabilities)


def rankings(truth: Truth, said: Predictions, speaker: Any) -> dict[str, Ranking]:
    """The five figures of a set of predictions."""
    suspicion = image_malignancies(said, truth.images)
    seen, everything = mass_rankings(truth, said, speaker)
    units = {"image": np.arange(truth.images), "breast": truth.breast, "patient": truth.patient}
    groups = {f"by {u}": group_ranking(truth, suspicion, g, u) for u, g in units.items()}
    return {"detected masses": seen, "a miss = 0": everything, **groups}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--predictions", type=Path, required=True)
    parser.add_argument("--patients-of", type=Path, metavar="SET",
                        help="the patients of this data set alone")
    options = parser.parse_args()
    coco = json.loads(options.truth.read_text())
    if options.patients_of:
        kept = {i["patient_id"] for i in json.loads(options.patients_of.read_text())["images"]}
        coco["images"] = [i for i in coco["images"] if i["patient_id"] in kept]
        ids = {i["id"] for i in coco["images"]}
        coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    truth = parse_truth(coco)
    known = set(truth.image_ids)
    said = parse_predictions(
        [p for p in json.loads(options.predictions.read_text()) if p["image_id"] in known], truth)
    others = other_views([
        ((i["patient_id"], i["laterality"]), i["view"]) for i in coco["images"]])
    least = threshold_at(
        froc(truth, said, match(truth, said, CRITERIA["iou>0.2"])).curve, DETECTED_FPI)
    speaker, _ = detected(truth, said, least, DETECTED_IOU)
    everything = np.ones(len(said.score), dtype=bool)
    elsewhere = away_from_masses(truth, said)
    weights = patient_weights(truth.patients, REPLICATES, 0)
    rest = replace(said, image=said.image[elsewhere], box=said.box[elsewhere],
                   score=said.score[elsewhere], probabilities=said.probabilities[elsewhere],
                   mask=[m for m, e in zip(said.mask, elsewhere, strict=True) if e])

    paired = sum(bool(partners) for partners in others)
    print(f"{truth.images} films of {truth.patients} patients, {truth.masses} masses; {paired} "
          "films have their other view")
    first: dict[str, tuple[float, FloatArray]] = {}
    for name, rule in RULES.items():
        told = rankings(truth, after(rule, said, others, everything), speaker)
        hidden = after(rule, said, others, elsewhere)
        told["hidden"] = mass_rankings(truth, hidden, speaker)[0]
        of_rest = image_malignancies(
            after(rule, rest, others, np.ones(len(rest.score), bool)), truth.images)
        normal = group_ranking(truth, of_rest, np.arange(truth.images), "image")
        told["and normals"] = with_normals(told["by image"], normal)
        print(name)
        for figure, ranking in told.items():
            auc, draws = ranking.auc() or float("nan"), ranking.auc_of(weights)
            line = f"  {figure:18}{auc:.3f}"
            if figure in first:
                low, high = interval(draws - first[figure][1]) or (float("nan"),) * 2
                line += f"   − one view {auc - first[figure][0]:+.3f} ({low:+.3f} to {high:+.3f})"
            else:
                first[figure] = auc, draws
            print(line)


if __name__ == "__main__":
    main()
