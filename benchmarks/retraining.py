"""Does a server's retraining help on films of another kind? Its recipes, on real films.

    ftmtl dataset contrast-shift SET.json --images DIR --out shifted
    ftmtl dataset coco shifted/coco.json --images shifted --hold-out 2 --out half.json
    python benchmarks/retraining.py --data half.json --images shifted --out runs/retraining
    ftmtl predict --one-view --coco after.json --data half.held-out.json --images shifted \
        --weights runs/retraining/heads/weights.safetensors
    ftmtl predict --one-view --coco before.json --data half.held-out.json --images shifted
    ftmtl evaluate --truth half.held-out.json --predictions after.json --against before.json \
        --out report

The films of `--data` stand for what readers labelled. Each recipe starts from the weights and is
the server's for that many images (`monailabel_app/lib/training_request.py`), without its gate.
Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ftmtl.datasets.coco import read_coco
from ftmtl.training.loop import train
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights
from monailabel_app.lib.training_request import STAGES, TrainingRequest


def main() -> None:
    """Train by each recipe; its weights are left in a folder of its name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    parser.add_argument("--stages", nargs="+", default=("heads", "together"), choices=STAGES)
    parser.add_argument("--learning-rate", type=float, help="by default the server's")
    options = parser.parse_args()
    learned = read_coco(options.data, options.images)
    begun = load_weights(options.weights).preset
    for name in options.stages:
        preset = TrainingRequest(
            stages=(name,), learning_rate=options.learning_rate).preset(begun, len(learned))
        steps = preset.training.stages[0].epochs * (preset.training.steps_per_epoch or 0)
        with tqdm(total=steps, desc=name, unit=" steps", mininterval=10) as bar:
            train(
                learned, preset=preset, out=options.out / name,
                init=options.weights, resume=True, device="cpu", cache=options.out / "canvases",
                on_progress=lambda p, bar=bar: bar.update(
                    max(p.epoch - 1, 0) * p.steps + p.step - bar.n),
            )


if __name__ == "__main__":
    main()
