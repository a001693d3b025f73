"""What came of an experiment: every figure of every model, pooled, by fold and in pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftmtl.config import PRESETS, Preset
from ftmtl.crossval.folds import Folds
from ftmtl.crossval.run import Experiment
from ftmtl.datasets.records import MALIGNANT
from ftmtl.evaluation.compare import compare, judge_by_fold, over_folds
from ftmtl.evaluation.evaluate import Judged, judge, replicates_for, summarise
from ftmtl.evaluation.inputs import parse_predictions, parse_truth
from ftmtl.evaluation.report import plus_minus
from ftmtl.network.model import build


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`result` is metrics.json; `judged` each model on all images, `folds` on each fold's alone."""

    experiment: Experiment
    result: dict[str, Any]
    judged: dict[str, Judged]
    folds: dict[str, list[Judged]]

    @property
    def reference(self) -> str:
        """The model that the others are compared with."""
        return reference_of(self.experiment.models)


def reference_of(models: tuple[str, ...]) -> str:
    """FT-MTL-Net, or the first where it takes no part."""
    return "ft-mtl-net" if "ft-mtl-net" in models else models[0]


def over_the_folds(figure: Mapping[str, Any]) -> str:
    """The mean and the SD of a figure over the folds, and how many have it where not all do."""
    values = figure["values"]
    known = sum(value is not None for value in values)
    of = "" if known in (0, len(values)) else f" ({known} of {len(values)} folds)"
    return plus_minus(figure) + of


def assess(experiment: Experiment, *, bootstraps: int = 2000, seed: int = 0) -> Outcome:
    """Judge the out-of-fold predictions that `run` left."""
    truth = json.loads((experiment.out / "truth.json").read_text("utf-8"))
    told = parse_truth(truth)
    weights = replicates_for(told, bootstraps, seed)
    judged, folds, models = {}, {}, {}
    for model in experiment.models:
        predictions = experiment.predictions(model)
        judged[model] = judge(told, parse_predictions(predictions, told, f"{model}'s predictions"))
        folds[model] = judge_by_fold(truth, predictions)
        models[model] = {**summarise(judged[model], weights), "folds": over_folds(folds[model])}
    reference = reference_of(experiment.models)
    comparisons = {
        other: compare(judged[reference], judged[other], weights,
                       (folds[reference], folds[other]))
        for other in experiment.models if other != reference
    }
    result = {
        "experiment": _description(experiment),
        "models": models,
        "reference": reference,
        "comparisons": comparisons,
        "bootstrap": {"unit": "patient", "replicates": len(weights), "seed": seed},
    }
    return Outcome(experiment=experiment, result=result, judged=judged, folds=folds)


def _description(experiment: Experiment) -> dict[str, Any]:
    folds, training = experiment.folds, experiment.preset.training
    masses = [mass for record in folds.records for mass in record.masses]
    return {
        "split": folds.split,
        "folds": [_content(folds, fold) for fold in range(folds.count)],
        "leak": folds.leak(),
        "images_without_patient": folds.without_patient(),
        "preset": experiment.preset.name,
        "stages": [{"name": s.name, "epochs": s.epochs} for s in training.stages],
        "steps_per_epoch": training.steps_per_epoch,
        "batch_size": training.batch_size,
        "seed": training.seed,
        "epochs_chosen": f"fixed by {_who_chose_epochs(experiment.preset)} before the first fold; "
                         "no reported fold chose anything",
        "backbone_start": None if experiment.imagenet is None else experiment.imagenet.name,
        "malignant_means": experiment.malignant_means,
        "masks": dict(Counter(
            "box alone" if mass.segmentation is None else mass.mask_source for mass in masses)),
        "left_out": list(experiment.left_out),
        "classifier_weights": {
            model: _classifier_weights(experiment, model) for model in experiment.models
        },
    }


def _who_chose_epochs(preset: Preset) -> str:
    own = PRESETS.get(preset.name, preset)
    asked = [stage.epochs for stage in preset.training.stages]
    return "the preset" if asked == [s.epochs for s in own.training.stages] else "--epochs"


def _content(folds: Folds, fold: int) -> dict[str, int]:
    tested = folds.test(fold)
    masses = [mass for record in tested for mass in record.masses]
    return {
        "images": len(tested),
        "patients": len({r.patient_id for r in tested}),
        "masses": len(masses),
        "malignant": sum(m.class_known and m.category == MALIGNANT for m in masses),
    }


def _classifier_weights(experiment: Experiment, model: str) -> int:
    network = build(experiment.preset_of(model).network)
    return sum(p.numel() for p in network.classification.parameters() if p.dim() > 1)
