"""Reader against model: what became of the model's findings in the reader's hands.

A finding of the model and one of the reader are the same mass by the rule of FROC (IoU > 0.2, one
to one, by falling score). Kappa is Cohen's (1960), over the masses that both found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ftmtl.evaluation.inputs import UNKNOWN_CLASS, IntArray, Predictions, Truth
from ftmtl.evaluation.matching import CRITERIA, FALSE_POSITIVE, match


def agreement(
    truth: Truth, predictions: Predictions, shown_as: IntArray, threshold: float
) -> dict[str, Any]:
    """Counts of the findings at `threshold`, ready for JSON; `shown_as` [N] is their class.

    accepted: both call it the same; reclassified: the reader calls it otherwise; rejected: the
    reader has no mass there; added: the model had none. `kappa` is None where a mass of each kind
    was not seen, with the reason.
    """
    found = match(truth, predictions, CRITERIA["iou>0.2"])
    shown = predictions.score >= threshold
    both = np.flatnonzero(shown & (found >= 0))
    reader, model = truth.mass_class[found[both]], shown_as[both]
    classed = reader != UNKNOWN_CLASS
    reader, model = reader[classed], model[classed]
    kappa, reason = None, None
    if len(np.union1d(reader, model)) < 2:
        reason = "reader and model have not both benign and malignant masses among those both found"
    else:
        from sklearn.metrics import cohen_kappa_score  # slow to import: not at a server's start

        kappa = float(cohen_kappa_score(reader, model))
    return {
        "threshold": float(threshold),
        "accepted": len(both) - int((reader != model).sum()),
        "reclassified": int((reader != model).sum()),
        "rejected": int((shown & (found == FALSE_POSITIVE)).sum()),
        "added": truth.masses - len(both),
        "kappa": kappa,
        "reason": reason,
    }
