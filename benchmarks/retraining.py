"""Does a server's retraining help on films of another kind? Its recipes, on real films.

    ftmtl dataset contrast-shift SET.json --images DIR --out shifted
    ftmtl dataset coco shifted/coco.json --images shifted --hold-out 2 --out half.json
    python benchmarks/retraining.py --learn half.json --test half.held-out.json --images shifted \
        --out runs/retraining
    ftmtl evaluate --truth half.held-out.json --predictions runs/retraining/heads.json \
        --against runs/retraining/before.json --out report

The films of `--learn` stand for what readers labelled, those of `--test` are of other women and
only judged. Each recipe starts from the weights and is the one that the server takes for that many
images (`monailabel_app/lib/training_request.py`), without its gate. Interrupted, the same command
goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ftmtl.datasets.coco import read_coco
from ftmtl.datasets.records import ImageRecord
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records, write_predictions
from ftmtl.training.loop import train
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights
from monailabel_app.lib.training_request import STAGES, TrainingRequest


def read(weights: Path, records: list[ImageRecord], out: Path) -> None:
    """COCO results of the records, unless they are there already."""
    if out.exists():
        return
    predictor = Predictor.load(weights, device="cpu")
    with tqdm(total=len(records), unit=" films", mininterval=10) as bar:
        results, _ = predict_records(predictor, records,
                                     on_file=lambda done, *_: bar.update(done - bar.n))
    write_predictions(out, results)


def main() -> None:
    """Train by each recipe, and read the test films before and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learn", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    parser.add_argument("--stages", nargs="+", default=("heads", "together"), choices=STAGES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    learned = read_coco(options.learn, options.images)
    test = read_coco(options.test, options.images)
    read(options.weights, test, options.out / "before.json")
    begun = load_weights(options.weights).preset
    for name in options.stages:
        preset = TrainingRequest(stages=(name,)).preset(begun, len(learned))
        steps = preset.training.stages[0].epochs * (preset.training.steps_per_epoch or 0)
        with tqdm(total=steps, desc=name, unit=" steps", mininterval=10) as bar:
            outcome = train(
                learned, preset=replace(preset, name=name), out=options.out / name,
                init=options.weights, resume=True, device="cpu", cache=options.out / "canvases",
                on_progress=lambda p, bar=bar: bar.update(
                    max(p.epoch - 1, 0) * p.steps + p.step - bar.n),
            )
        read(outcome.weights, test, options.out / f"{name}.json")


if __name__ == "__main__":
    main()
