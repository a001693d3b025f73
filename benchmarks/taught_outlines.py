"""What is left of the model's outlines after a training on labels that hold no drawn one.

    python benchmarks/taught_outlines.py --labels accepted --out runs/outlines

Phantoms: 20 films of 5 women teach by the server's recipe, where each mass is `accepted` (its
outline counts as the model's), a box alone (`boxes`), or `drawn`. On the films of 6 other women the
boxes of the masses are given, and the masks compared with what the phantoms are made of (mean Dice,
no mask 0).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ftmtl.datasets.phantom import make_phantoms
from ftmtl.datasets.records import ImageRecord
from ftmtl.findings import decode_rle
from ftmtl.mammogram import read_mammogram
from ftmtl.predict import Predictor
from ftmtl.training.loop import train
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights
from monailabel_app.lib.training_request import TrainingRequest

CHANGES = {
    "accepted": {"mask_source": "model"},
    "boxes": {"mask_source": "none", "segmentation": None},
    "drawn": {},
}


def mean_dice(weights: Path, records: Sequence[ImageRecord]) -> float:
    """Of the masks that the network draws into the true boxes of all masses."""
    predictor = Predictor.load(weights, device="cpu")
    values = []
    for record in records:
        boxes = [list(mass.bbox) for mass in record.masses]
        found = predictor(read_mammogram(record.path), boxes=boxes).findings if boxes else ()
        for mass, finding in zip(record.masses, found, strict=True):
            drawn, truth = finding.mask(), decode_rle(mass.segmentation)  # type: ignore[arg-type]
            both = 0 if drawn is None else 2 * (drawn & truth).sum() / (drawn.sum() + truth.sum())
            values.append(float(both))
    return float(np.mean(values))


def main() -> None:
    """Train, and print the Dice before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", choices=CHANGES, default="accepted")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    options = parser.parse_args()
    learned = [
        replace(r, annotations=tuple(replace(a, **CHANGES[options.labels]) for a in r.annotations))
        for r in make_phantoms(options.out / "learned", patients=5, seed=1, rows=480)
    ]
    judged = make_phantoms(options.out / "judged", patients=6, seed=2, rows=480)
    print(f"before: Dice {mean_dice(options.weights, judged):.3f}", flush=True)
    begun = load_weights(options.weights)
    outcome = train(
        learned, preset=TrainingRequest().preset(begun.preset, len(learned)),
        out=options.out / options.labels, init=options.weights, device="cpu",
        cache=options.out / "canvases", metadata=begun.metadata,
    )
    print(f"{options.labels}: Dice {mean_dice(outcome.weights, judged):.3f}; {outcome.weights}")


if __name__ == "__main__":
    main()
