"""Changes of the recipe, each a whole training from ImageNet weights, on women that are held out.

    ftmtl dataset coco coco.json --images CBIS --hold-out 4 --out inner.json
    python benchmarks/screen_whole.py base --data inner.json --images CBIS --imagenet W --out runs/s

Trains one candidate on `--data` and writes `OUT/NAME.json`, its predictions of the set's held-out
films (`inner.held-out.json`). Each candidate differs from `recommended` in one thing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ftmtl.config import RECOMMENDED, AugmentConfig, Preset
from ftmtl.datasets.coco import read_coco
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records, write_predictions
from ftmtl.training.loop import Progress, train


def network(**changes: object) -> Preset:
    """`recommended` with another network."""
    return replace(RECOMMENDED, network=replace(RECOMMENDED.network, **changes))  # type: ignore[arg-type]


def training(**changes: object) -> Preset:
    """`recommended` trained in another way."""
    return replace(RECOMMENDED, training=replace(RECOMMENDED.training, **changes))  # type: ignore[arg-type]


WHOLE, HEADS = RECOMMENDED.training.stages
CANDIDATES: dict[str, Callable[[], Preset]] = {
    "base": lambda: RECOMMENDED,
    "base-again": lambda: training(seed=1),  # what chance alone does
    "anchors": lambda: network(anchor_sizes=(14, 20, 28, 40, 56, 80, 113, 160)),
    "canvas": lambda: network(canvas=(720, 432)),
    "canvas-again": lambda: replace(
        training(seed=1), network=replace(RECOMMENDED.network, canvas=(720, 432))),
    "top-down": lambda: network(top_down=True),
    "transfer-to-boxes": lambda: network(boxes_from="transfer"),
    "wild": lambda: training(augment=AugmentConfig()),  # the paper's augmentation in full
    "longer": lambda: training(stages=(replace(WHOLE, epochs=18), HEADS)),
}


def main() -> None:
    """Train one candidate and predict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("candidate", choices=CANDIDATES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--imagenet", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--most-steps", type=int, help="an epoch, for a trial")
    options = parser.parse_args()
    name, began = options.candidate, time.monotonic()
    preset = CANDIDATES[name]()
    if options.most_steps:
        preset = replace(preset, training=replace(preset.training,
                                                  steps_per_epoch=options.most_steps))

    def told(at: Progress) -> None:
        if at.stage_number and at.step % 20 == 0:
            losses = " ".join(f"{term} {value:.3f}" for term, value in at.losses.items())
            print(f"{time.monotonic() - began:6.0f} s  {at.stage} {at.epoch}/{at.epochs} "
                  f"{at.step}/{at.steps}  {losses}", flush=True)

    outcome = train(read_coco(options.data, options.images), preset=preset,
                    out=options.out / name, imagenet=options.imagenet, resume=True,
                    device=options.device, on_progress=told,
                    cache=options.out / "canvases-{}x{}".format(*preset.network.canvas))
    held_out = options.data.with_suffix(".held-out.json")
    results, read = predict_records(Predictor.load(outcome.weights, device=options.device),
                                    read_coco(held_out, options.images))
    write_predictions(options.out / f"{name}.json", results)
    print(f"{time.monotonic() - began:6.0f} s  {read.read} films read, {len(results)} candidates")


if __name__ == "__main__":
    main()
