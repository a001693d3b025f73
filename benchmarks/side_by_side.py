"""How many trainings a device carries at once: steps a second of 1, and of more, side by side.

    python benchmarks/side_by_side.py --data coco.json --images CBIS --imagenet W --counts 1 15

Each is the first stage of the recommended recipe on films of its own order, in a process of its
own, as `ftmtl crossval` runs its folds. On CUDA it is worth running twice, without and with
NVIDIA's multi-process service (`nvidia-cuda-mps-control -d`): only with it do small kernels of
several processes run at the same time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training_step import learn

from ftmtl.config import RECOMMENDED
from ftmtl.datasets.coco import read_coco
from ftmtl.device import pick_device
from ftmtl.network.backbone import read_imagenet
from ftmtl.network.model import build
from ftmtl.training.samples import BalancedSampler, CanvasCache, TrainingSet, made_ahead
from ftmtl.training.stages import optimizer_of, trainable

WARM = 4  # steps that meet cold caches


def train(options: argparse.Namespace, seed: int, together: Any, told: Any) -> None:
    """Steps for some seconds, begun when all are ready; tells how many a second."""
    torch.set_num_threads(1)
    device, config = pick_device(options.device), RECOMMENDED.training
    records = read_coco(options.data, options.images)
    size = config.batch_size
    samples = TrainingSet(records, CanvasCache(options.canvases, RECOMMENDED.network.canvas),
                          augmentation=config.augment, seed=seed)
    order = BalancedSampler(records, length=len(records), seed=seed).epoch(0)
    network = build(RECOMMENDED.network, frozen_backbone=config.frozen_backbone)
    network.backbone.load_imagenet(read_imagenet(options.imagenet))
    network.to(device).train()
    stage = config.stages[0]
    optimizer = optimizer_of(trainable(network, stage), stage, config)
    for group in optimizer.param_groups:
        group["lr"] = 1e-5
    steps, began = 0, 0.0
    for number, batch in enumerate(made_ahead(samples, (
            order[i : i + size] for i in range(0, len(order) - size, size)))):
        if number == WARM:
            together.wait()
            began = time.perf_counter()
        if number > WARM and time.perf_counter() - began > options.seconds:
            break
        learn(network, batch, stage, RECOMMENDED, optimizer, device)
        steps = number + 1 - WARM
    told.put(steps / (time.perf_counter() - began))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--imagenet", type=Path, required=True)
    parser.add_argument("--canvases", type=Path, default=Path("runs/canvases"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    store = CanvasCache(options.canvases, RECOMMENDED.network.canvas)
    for record in read_coco(options.data, options.images):
        store.get(record)  # decoded once, as before a training
    context = multiprocessing.get_context("spawn")
    for count in options.counts:
        together, told = context.Barrier(count), context.Queue()
        processes = [context.Process(target=train, args=(options, seed, together, told))
                     for seed in range(count)]
        for process in processes:
            process.start()
        rates = [told.get(timeout=300) for _ in processes]
        for process in processes:
            process.join()
        print(f"{count:3} side by side: {sum(rates):6.2f} steps a second in all, "
              f"{min(rates):.2f} to {max(rates):.2f} each")


if __name__ == "__main__":
    main()
