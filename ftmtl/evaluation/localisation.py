"""How well masses are boxed: the share found against the overlap that counts as found.

The paper's figure 5b, there called average precision; it is a true positive rate. Each limit has
its own one-to-one matching, and all are read off at the same price: 3.67 false positives an image.
"""

from __future__ import annotations

from ftmtl.evaluation.froc import Froc, froc
from ftmtl.evaluation.inputs import Predictions, Truth
from ftmtl.evaluation.matching import iou_above, match

LIMITS = tuple(round(0.05 * step, 2) for step in range(2, 19))  # 0.1, 0.15 … 0.9
LOCALISATION_FPI = 3.67


def froc_by_iou(truth: Truth, predictions: Predictions) -> dict[float, Froc]:
    """The FROC analysis for each limit: a hit has an IoU greater than it."""
    return {
        limit: froc(truth, predictions, match(truth, predictions, iou_above(limit)))
        for limit in LIMITS
    }
