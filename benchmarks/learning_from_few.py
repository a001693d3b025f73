"""It learns from few: the starter's heads, fine-tuned on 10, 20 and 40 labelled phantom women.

    python benchmarks/learning_from_few.py --out runs/few --figure docs/learning_from_few.png

Each number of women is drawn and trained on three times. All trainings take equally many steps, and
every figure is of the same held-out women. What is done is kept in `--out`: run it again after an
interruption and it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import matplotlib
import numpy as np
import torch
from tqdm import tqdm

from ftmtl.atomic import write_json
from ftmtl.config import Preset, Stage
from ftmtl.datasets.coco import read_coco, to_coco
from ftmtl.datasets.phantom import make_phantoms
from ftmtl.datasets.records import ImageRecord
from ftmtl.device import pick_device
from ftmtl.evaluation import evaluate
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records
from ftmtl.training.loop import train
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights

matplotlib.use("Agg")
POOL, HELD_OUT = 60, 16  # women to draw from, and women never learned from
WOMEN, SEEDS = (0, 10, 20, 40), (0, 1, 2)
ROWS = 480


def recipe(steps: int, seed: int) -> Preset:
    """The starter's recipe at half its canvas, anchors likewise: a quarter of the work.

    The backbone stays as it is, as when a server learns from few images.
    """
    starter = load_weights(STARTER_WEIGHTS).preset
    height, width = starter.network.canvas
    network = replace(
        starter.network, canvas=(height // 2, width // 2),
        anchor_sizes=tuple(size / 2 for size in starter.network.anchor_sizes),
        pre_nms=400, proposals_train=80, proposals_infer=40,
    )
    tuning = Stage(name="fine tuning", trains=("rpn", "heads"),
                   minimises=("proposal", "unified"), epochs=1, optimizer="adamw",
                   refined_rois=True)
    targets = replace(starter.targets, roi_samples=16)
    return replace(starter, network=network, targets=targets, training=replace(
        starter.training, stages=(tuning,), steps_per_epoch=steps, batch_size=4, seed=seed,
        learning_rate=3e-4, warmup_steps=10, frozen_backbone=3, checkpoint_minutes=1.0,
    ))


def women(folder: Path, count: int, seed: int) -> list[ImageRecord]:
    """Phantoms that are there already, or made now."""
    if not (folder / "coco.json").exists():
        with tqdm(total=4 * count, desc=f"making {folder.name}", unit="image") as bar:
            make_phantoms(folder, patients=count, seed=seed, rows=ROWS,
                          on_file=lambda done, total, path: bar.update())
    return read_coco(folder / "coco.json", folder)


def drawn(pool: Sequence[ImageRecord], count: int, seed: int) -> list[ImageRecord]:
    """All images of `count` women of the pool."""
    names = sorted({r.patient_id for r in pool})
    chosen = set(np.random.default_rng(seed).permutation(names)[:count].tolist())
    return [r for r in pool if r.patient_id in chosen]


def figures(weights: Path | None, preset: Preset, held: Sequence[ImageRecord]) -> dict[str, Any]:
    """What the weights (None: the starter's) find of the held-out women."""
    read = replace(load_weights(weights or STARTER_WEIGHTS), preset=preset)
    predictor = Predictor(read.network(), read, version="few", device=pick_device("cpu"))
    with tqdm(desc="reading the held-out women", total=len(held), unit="image") as bar:
        results, _ = predict_records(predictor, held,
                                     on_file=lambda done, *_: bar.update(done - bar.n))
    metrics = evaluate(to_coco(held), results)
    detection, classes = metrics["detection"]["iou>0.2"], metrics["classification"]
    return {
        "tpr": detection["tpr_at_fpi"], "tpr_ci95": detection["ci95"],
        "auc_mass": classes["auc_mass_all"], "masses": metrics["masses"],
    }


def draw(results: dict[str, Any], file: Path) -> None:
    """TPR at 0.3 false positives an image against the number of women learned from.

    At 1 the starter finds nearly all phantoms already.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    means = []
    for place, count in enumerate(WOMEN):
        values = [r["tpr"]["0.3"] for key, r in results.items() if key.startswith(f"{count}/")]
        axes.plot([place] * len(values), values, "o", color="#4477aa", alpha=0.6)
        means.append(statistics.mean(values))
    axes.plot(range(len(WOMEN)), means, "-", color="#4477aa", label="mean of the trainings")
    low, high = results["0/0"]["tpr_ci95"]["0.3"]
    axes.axhspan(low, high, color="#bbbbbb", alpha=0.4, lw=0, label="95 % interval, starter")
    axes.set_xticks(range(len(WOMEN)), [str(count) for count in WOMEN])
    axes.set(xlabel="labelled phantom women learned from", ylim=(0, 1),
             ylabel="TPR at 0.3 false positives an image (IoU > 0.2)",
             title=f"{results['0/0']['masses']} masses of {HELD_OUT} held-out phantom women")
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Train what is not trained yet, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where the work is kept")
    parser.add_argument("--figure", type=Path, help="the PNG to draw")
    parser.add_argument("--steps", type=int, default=30, help="of each training")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pool = women(options.out / "pool", POOL, seed=1)
    held = women(options.out / "held-out", HELD_OUT, seed=2)
    file = options.out / f"results-{options.steps}.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    # Seed by seed, so that an early end leaves whole curves.
    todo = [(0, 0), *((count, seed) for seed in SEEDS for count in WOMEN[1:])]
    for count, seed in tqdm(todo, desc="trainings", unit="training"):
        key = f"{count}/{seed}"
        if key in results:
            continue
        preset, weights = recipe(options.steps, seed), None
        if count:
            run = options.out / f"{options.steps}-{count}-{seed}"
            with tqdm(total=options.steps, desc=f"{count} women, draw {seed}", unit="step") as bar:
                outcome = train(
                    drawn(pool, count, seed), preset=preset, out=run, init=STARTER_WEIGHTS,
                    resume=True, device="cpu", cache=options.out / "canvases",
                    on_progress=lambda p, bar=bar: bar.update(p.stage_number and p.step - bar.n),
                )
            weights = outcome.weights
        results[key] = figures(weights, preset, held)
        write_json(file, results)
        tqdm.write(f"{count:3} women, draw {seed}: TPR at 0.3, 1 FPI "
                   f"{results[key]['tpr']['0.3']:.2f} {results[key]['tpr']['1']:.2f}, "
                   f"mass AUC {results[key]['auc_mass']:.2f}")
    for count in WOMEN:
        rows = [r for key, r in results.items() if key.startswith(f"{count}/")]
        mean = {name: statistics.mean(r["tpr"][name] for r in rows) for name in ("0.3", "1")}
        auc = statistics.mean(r["auc_mass"] for r in rows)
        print(f"{count:3} women: TPR at 0.3 FPI {mean['0.3']:.2f}, at 1 FPI {mean['1']:.2f}, "
              f"mass AUC {auc:.2f} (mean of {len(rows)})")
    print(f"starter: 95 % intervals {results['0/0']['tpr_ci95']}")
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
