"""Training throughput, and how much of a step waits for its images, on this machine.

    python benchmarks/training_step.py            # the recommended recipe, 12 steps a stage
    python benchmarks/training_step.py --device cuda

The films are the eight real samples (4736×2624 and the like), each with a mass outlined at the
film's own resolution, which is the slowest kind of truth to prepare. Masses and steps are as in
`ftmtl train`, from the same parts; prints each stage's medians and the load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import numpy as np
import torch
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parent.parent
WARM = 2  # steps that meet cold caches
sys.path.insert(0, str(ROOT))

from ftmtl.config import MODELS, PRESETS, Preset, Stage, preset_of  # noqa: E402
from ftmtl.datasets.records import Annotation, ImageRecord  # noqa: E402
from ftmtl.device import autocast, pick_device  # noqa: E402
from ftmtl.mammogram import read_mammogram  # noqa: E402
from ftmtl.network.model import FTMTLNet, build  # noqa: E402
from ftmtl.samples import prepare_samples  # noqa: E402
from ftmtl.training.samples import (  # noqa: E402
    BalancedSampler,
    CanvasCache,
    Sample,
    TrainingSet,
    made_ahead,
)
from ftmtl.training.stages import losses, optimizer_of, trainable  # noqa: E402
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights  # noqa: E402


def records(folder: Path) -> list[ImageRecord]:
    """The sample films, each with an outlined mass, benign and malignant in turn."""
    made = []
    for number, path in enumerate(prepare_samples(folder)):
        height, width = read_mammogram(path).pixels.shape
        x, y, side = width // 3, height // 2, height // 12
        mask = np.zeros((height, width), dtype=np.uint8, order="F")
        rows, columns = np.ogrid[:height, :width]
        mask[np.hypot(rows - y - side / 2, columns - x - side / 2) < side / 2] = 1
        rle = coco_mask.encode(mask)
        made.append(ImageRecord(
            image_id=number, path=path, width=width, height=height, patient_id=str(number // 4),
            annotations=(Annotation(
                id=number, bbox=(x, y, side, side), category=1 + number % 2,
                mask_source="annotated",
                segmentation={"size": [height, width], "counts": rle["counts"].decode()}),)))
    return made


def learn(network: FTMTLNet, batch: list[Sample], stage: Stage, preset: Preset,
          optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """One step of training."""
    with autocast(device):
        terms = losses(network, [s.to(device) for s in batch], stage, preset)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, preset.training.clip_norm)
    optimizer.step()


def timed(
    network: FTMTLNet, stage: Stage, preset: Preset, films: list[ImageRecord], store: CanvasCache,
    options: argparse.Namespace, device: torch.device,
) -> dict[str, float]:
    """Steps of a stage: how long they take, and how long they wait for their images."""
    config = preset.training
    size, count = config.batch_size, options.steps + WARM
    optimizer = optimizer_of(trainable(network, stage), stage, config)
    for group in optimizer.param_groups:
        group["lr"] = 1e-6  # the proposals stay those of mid-training
    order = BalancedSampler(films, length=count * size, seed=0).epoch(0)
    batches = made_ahead(TrainingSet(films, store, augmentation=config.augment, seed=0),
                         [order[i : i + size] for i in range(0, len(order), size)])
    waits, steps = [], []
    for _ in range(count):
        began = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        learn(network, batch, stage, preset, optimizer, device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        waits.append(ready - began)
        steps.append(time.perf_counter() - began)
    waits, steps = waits[WARM:], steps[WARM:]
    return {
        "step, s": round(statistics.median(steps), 3),
        "waits for data, s": round(statistics.median(waits), 3),
        "share of a step that waits": round(sum(waits) / sum(steps), 3),
        "images a second": round(size * len(steps) / sum(steps), 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="recommended")
    parser.add_argument("--model", choices=MODELS, help="[the preset's own]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    preset = PRESETS[options.preset]
    model = options.model or preset.network.variant
    preset = preset_of(model, preset)
    read = load_weights(STARTER_WEIGHTS)  # any trained weights: proposals as in mid-training
    network = build(preset.network, frozen_backbone=preset.training.frozen_backbone)
    own = network.state_dict()
    network.load_state_dict({
        name: value for name, value in read.state.items()
        if name in own and own[name].shape == value.shape
    }, strict=False)
    network = network.to(device).train()
    with tempfile.TemporaryDirectory() as folder:
        films = records(Path(folder, "films"))
        store = CanvasCache(Path(folder, "canvases"), preset.network.canvas)
        for film in films:
            store.get(film)
        stages = {stage.name: timed(network, stage, preset, films, store, options, device)
                  for stage in preset.training.stages}
    setting = {
        "device": str(device), "threads": torch.get_num_threads(),
        "model": model, "preset": preset.name, "batch": preset.training.batch_size,
        "load of the machine (1 min)": round(os.getloadavg()[0], 1),
    }
    for title, values in {"": setting, **stages}.items():
        print(title)
        for name, value in values.items():
            print(f"{name:30} {value}")
    if options.json:
        options.json.write_text(json.dumps({**setting, "stages": stages}, indent=1))


if __name__ == "__main__":
    main()
