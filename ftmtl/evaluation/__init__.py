"""What a reading is worth: FROC, ROC, Dice, each with its uncertainty over patients.

The rooms in the order the data takes: `inputs` (truth and predictions as arrays), `matching` (which
prediction found which mass), `froc`, `localisation`, `roc`, `dice` and `reliability` (the figures),
`bootstrap` (their intervals), `evaluate` (all of them together), `compare` (two models; `delong`)
and `report` (files for people; imported by that name, since it brings matplotlib).
"""

from ftmtl.evaluation.evaluate import evaluate, operating_points
from ftmtl.evaluation.inputs import InvalidPredictions, InvalidTruth

__all__ = [
    "InvalidPredictions",
    "InvalidTruth",
    "evaluate",
    "operating_points",
]
