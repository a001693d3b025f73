"""Does the transfer help? Several classifiers on one trunk, learned from the same RoIs.

    python benchmarks/heads_on_a_trunk.py --data SET.json --images DIR --out DIR --epochs 3

The trunk (backbone, proposals) of the given weights is held still, as in step 4 of the paper's
Table 1, and one detection head is learned for all. Every model of `--models` has a segmentation
head and a classifier of its own, drawn alike and taught by the same RoIs of the same films, so that
two models differ in their classifier and in nothing else. One file of weights each is left, for
`ftmtl predict` and `ftmtl evaluate --against`. Interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ftmtl.atomic import atomic_write
from ftmtl.config import Preset, Stage, TrainingConfig, preset_of
from ftmtl.datasets.coco import read_coco
from ftmtl.device import autocast
from ftmtl.network.feature_transfer import unblock
from ftmtl.network.losses import MASK_LOSSES, box_loss, class_loss
from ftmtl.network.model import FTMTLNet, build, extents_of
from ftmtl.training.samples import BalancedSampler, CanvasCache, Sample, TrainingSet, made_ahead
from ftmtl.training.stages import learning_rate, optimizer_of
from ftmtl.training.targets import RoiTargets, roi_targets
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights, save_weights

MODELS = ("ft-mtl-net", "no-transfer", "no-weight-map", "mask-rcnn")


class Learner:
    """Some modules, the optimiser of their weights, and their costs smoothed over the steps."""

    def __init__(self, network: FTMTLNet, modules: list[nn.Module], config: TrainingConfig) -> None:
        self.network = network
        self.weights = [p for module in modules for p in module.parameters()]
        self.clip_norm = config.clip_norm
        self.optimizer = optimizer_of(self.weights, config.stages[0], config)
        self.costs: dict[str, float] = {}

    def step(self, costs: dict[str, Tensor], rate: float) -> None:
        """One step down the sum of the costs."""
        self.optimizer.zero_grad()
        torch.stack(list(costs.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.weights, self.clip_norm, error_if_nonfinite=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for name, cost in costs.items():
            value = float(cost.detach())
            self.costs[name] = 0.95 * self.costs.get(name, value) + 0.05 * value


def mean_cost(each: list[Tensor]) -> Tensor:
    """A cost averaged over the images of a batch."""
    return torch.stack(each).mean()


def classifier_costs(
    network: FTMTLNet, theta1: Tensor, targets: list[RoiTargets], preset: Preset
) -> dict[str, Tensor]:
    """λ1 L_cls and λ3 L_mask (Eq. 10) of a model's own heads."""
    counts = [len(t.boxes) for t in targets]
    theta4, mask_logits = network.segmentation(theta1)
    classes = network.classification(theta1, theta4, mask_logits).split(counts)
    maps = unblock(mask_logits).float().split(counts)
    mask_loss = MASK_LOSSES[preset.targets.masks_on]
    weights = preset.training.loss_weights
    return {
        "class": weights[0] * mean_cost([
            class_loss(logits, t.classes, t.class_known)
            for t, logits in zip(targets, classes, strict=True)]),
        "mask": weights[2] * mean_cost([
            mask_loss(logits, t.masks, t.classes)
            for t, logits in zip(targets, maps, strict=True)]),
    }


@torch.no_grad()
def rois(trunk: FTMTLNet, batch: list[Sample], preset: Preset) -> tuple[list[RoiTargets], Tensor]:
    """What the RoIs of a batch should say, and their θ1 [R, 7, 7, 1024].

    As in reading (2.3), classifiers see refined boxes; the proposals themselves are among them too.
    """
    images = torch.stack([s.image for s in batch])
    valid = torch.stack([s.valid for s in batch])
    extents = extents_of(valid)
    theta0 = trunk.backbone(images, valid)
    proposals = trunk.proposals(trunk.rpn(theta0), extents, preset.network.proposals_train)
    refined = trunk.refine(theta0, proposals, extents)
    targets = [
        roi_targets(torch.cat(boxes), sample, preset.targets,
                    torch.Generator().manual_seed(sample.seed))
        for *boxes, sample in zip(proposals, refined, batch, strict=True)
    ]
    return targets, trunk.pool(theta0, [t.boxes for t in targets])


def main() -> None:
    """Learn the heads of all models, and leave one file of weights each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS, help="whose trunk")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    given = load_weights(options.weights)
    stage = Stage(name="heads", trains=("heads",), minimises=("unified",), epochs=options.epochs,
                  optimizer="adamw", learning_rate=options.learning_rate, refined_rois=True)
    training = replace(given.preset.training, stages=(stage,), warmup_steps=20, seed=options.seed)
    preset = replace(given.preset, training=training, network=replace(
        given.preset.network, boxes_from="places", hidden_init_std=0.05))
    torch.manual_seed(options.seed)
    cpu = torch.device("cpu")
    trunk = build(preset.network).eval()
    whole = given.network()
    trunk.backbone = whole.backbone.requires_grad_(False)
    trunk.rpn = whole.rpn.requires_grad_(False)
    learners = {"boxes": Learner(trunk, [trunk.detection], training)}
    presets = {}
    for model in options.models:
        torch.manual_seed(options.seed)  # what two models share starts alike
        presets[model] = preset_of(model, preset)
        network = build(presets[model].network).eval()
        network.backbone, network.rpn = trunk.backbone, trunk.rpn
        network.detection = trunk.detection
        learners[model] = Learner(
            network, [network.segmentation, network.classification], training)

    records = read_coco(options.data, options.images)
    canvases = CanvasCache(options.out / "canvases", preset.network.canvas)
    samples = TrainingSet(records, canvases, augmentation=training.augment, seed=options.seed)
    size = training.batch_size
    sampler = BalancedSampler(records, length=len(records) // size * size, seed=options.seed)
    order = [at for epoch in range(options.epochs) for at in sampler.epoch(epoch)]
    batches = [order[i : i + size] for i in range(0, len(order), size)]

    checkpoint = options.out / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first = state["step"]
        for name, learner in learners.items():
            learner.network.load_state_dict(state[name]["network"])
            learner.optimizer.load_state_dict(state[name]["optimizer"])
            learner.costs = state[name]["costs"]

    made = made_ahead(samples, batches[first:])
    with tqdm(made, initial=first, total=len(batches), unit=" steps", mininterval=30) as bar:
        for step, batch in enumerate(bar, start=first):
            rate = learning_rate(training, stage, step, len(batches))
            with autocast(cpu):
                targets, theta1 = rois(trunk, batch, preset)
                deltas = trunk.detection(theta1).split([len(t.boxes) for t in targets])
                costs = {"box": mean_cost([
                    box_loss(d, t.deltas, t.classes > 0)
                    for d, t in zip(deltas, targets, strict=True)])}
            learners["boxes"].step(costs, rate)
            for model in options.models:
                learner = learners[model]
                with autocast(cpu):
                    costs = classifier_costs(learner.network, theta1, targets, presets[model])
                learner.step(costs, rate)
            if step % 20 == 19 or step + 1 == len(batches):
                smooth = {f"{name} {cost}": round(value, 3) for name, learner in learners.items()
                          for cost, value in learner.costs.items()}
                tqdm.write(f"{step + 1} {smooth}")
                with atomic_write(checkpoint) as stream:
                    torch.save({"step": step + 1} | {
                        name: {"network": learner.network.state_dict(), "costs": learner.costs,
                               "optimizer": learner.optimizer.state_dict()}
                        for name, learner in learners.items()}, stream)
    # Without the given weights' calibration: it is of other heads.
    metadata = {"malignant_means": given.metadata.get("malignant_means")}
    for model in options.models:
        save_weights(options.out / f"{model}.safetensors", learners[model].network,
                     preset=presets[model], metadata=metadata)


if __name__ == "__main__":
    main()
