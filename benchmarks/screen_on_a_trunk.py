"""Which changes of the heads tell benign from malignant better? A screening on one trunk.

    python benchmarks/screen_on_a_trunk.py --data SET.json --images DIR --out DIR --weights TRUNK
    python benchmarks/screen_on_a_trunk.py ... --read HELD-OUT.json --models deep deep-averaged

As `heads_on_a_trunk.py`: the trunk is held, one detection head is learned for all, and every
candidate has a segmentation head and a classifier of its own, taught by the same RoIs. The
candidates differ from `ft-mtl-net-deep` in one thing each:

- `deep`      nothing: another draw of the shipped heads
- `finer`     the classifier also sees the RoI of layer2 (stride 8) in 14×14, weighted by its map
- `dropout`   half of what the classifier's three layers are handed is dropped in training
- `balanced`  in the class cost background, benign and malignant RoIs weigh a third each

or are another draw of the paper's classifiers: `ft-mtl-net`, `no-transfer`, `mask-rcnn`. The last
two do not look at masks: no segmentation head is learned for them, their outlines mean nothing.

Of each the mean of its weights along the training is kept besides (`-averaged`: 0.99 a step).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import torch
from heads_on_a_trunk import Learner, mean_cost, rois
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ftmtl.atomic import atomic_write
from ftmtl.config import Stage
from ftmtl.datasets.coco import read_coco
from ftmtl.network.feature_transfer import transfer, unblock, weight_map
from ftmtl.network.heads import (
    CLASSES,
    ClassificationHead,
    PlainClassificationHead,
    hidden_layers,
)
from ftmtl.network.inference import InferenceNet
from ftmtl.network.losses import MASK_LOSSES, box_loss
from ftmtl.network.mask_rcnn import MaskRcnnClassificationHead
from ftmtl.network.model import FTMTLNet, build
from ftmtl.network.roi_align import roi_align
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records, write_predictions
from ftmtl.training.samples import BalancedSampler, CanvasCache, Sample, TrainingSet
from ftmtl.training.stages import learning_rate
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights

DECAY = 0.99
LAYER2, STRIDE2, FINER = 512, 8, 128


class DropoutHead(ClassificationHead):
    """The deep classifier, half of whose inputs are dropped while it learns."""

    def __init__(self) -> None:
        super().__init__(transfer, deep=True)

    def of_joined(self, pooled: Tensor, transferred: Tensor) -> Tensor:
        """Logits [R, 3] of θ6, as `ClassificationHead.of_joined`."""
        x = torch.cat([pooled, transferred], dim=1)
        x = self.hidden[:2](F.dropout(x, 0.5, self.training))
        x = self.hidden[2:](F.dropout(x, 0.5, self.training))
        return self.classes(F.dropout(x, 0.5, self.training)).float()


class FinerHead(nn.Module):
    """The deep classifier joined to layer2's RoIs, inside the mass and as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Linear(LAYER2, FINER)
        self.conv = nn.Conv2d(FINER, FINER, 3, padding=1)
        self.hidden = hidden_layers(1024 + 256 + 2 * FINER)
        self.classes = nn.Linear(1024, CLASSES)
        self.looked_at: Tensor | None = None  # layer2's RoIs [R, 14, 14, 512]

    def forward(self, theta1: Tensor, theta4: Tensor, mask_logits: Tensor) -> Tensor:
        """Logits [R, 3] of the RoIs whose layer2 is `looked_at`."""
        x = F.relu(self.reduce(self.looked_at)).permute(0, 3, 1, 2)
        x = F.relu(self.conv(x)).permute(0, 2, 3, 1)
        weights = weight_map(mask_logits).amax(dim=3)  # [R, 14, 14, 1]
        joined = torch.cat([theta1.mean(dim=(1, 2)), transfer(theta4, mask_logits),
                            (x * weights).mean(dim=(1, 2)), x.mean(dim=(1, 2))], dim=1)
        return self.classes(self.hidden(joined)).float()


class FinerNet(FTMTLNet):
    """A network that hands its classifier layer2's RoIs too."""

    def watch(self) -> None:
        """Keep what layer2 gives of each canvas from now on."""
        self.backbone.layer2.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.layer2 = output

    def describe(self, prepared: Tensor, boxes: list[Tensor]):  # type: ignore[no-untyped-def]
        """As `FTMTLNet.describe`."""
        self.classification.looked_at = finer_rois(self.layer2, boxes)
        return super().describe(prepared, boxes)


def finer_rois(layer2: Tensor, boxes: list[Tensor]) -> Tensor:
    """Each image's boxes [R, 4] pooled to [ΣR, 14, 14, 512] on layer2 [B, 512, H/8, W/8]."""
    return torch.cat([roi_align(f, b, stride=STRIDE2, size=14)
                      for f, b in zip(layer2, boxes, strict=True)])


class Remembered(nn.Module):
    """A backbone that looks at each canvas once; every candidate has the same."""

    def __init__(self, backbone: nn.Module, seen: dict[bytes, Tensor]) -> None:
        super().__init__()
        self.backbone, self.seen = backbone, seen

    def forward(self, images: Tensor, valid: Tensor) -> Tensor:
        """θ0 of images [1, 1, H, W] and valid [1, H, W]."""
        key = hashlib.sha256(images.numpy().tobytes()).digest()
        if key not in self.seen:
            self.seen[key] = self.backbone(images, valid)
        return self.seen[key]


HEADS = {
    "deep": lambda: ClassificationHead(transfer, deep=True), "finer": FinerHead,
    "dropout": DropoutHead, "balanced": lambda: ClassificationHead(transfer, deep=True),
    "ft-mtl-net": lambda: ClassificationHead(transfer), "no-transfer": PlainClassificationHead,
    "mask-rcnn": MaskRcnnClassificationHead,
}
BLIND = ("no-transfer", "mask-rcnn")


def network_of(model: str, config, trunk: FTMTLNet | None = None) -> FTMTLNet:  # type: ignore[no-untyped-def]
    """A network whose classifier is a candidate's, drawn as `build` draws."""
    network = build(config)
    head = HEADS[model]()
    for module in head.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            last = module is head.classes
            nn.init.normal_(module.weight, std=config.init_std if last else config.hidden_init_std)
            nn.init.zeros_(module.bias)
    network.classification = head
    if model == "finer":
        network.__class__ = FinerNet
    if trunk is not None:
        network.backbone, network.rpn = trunk.backbone, trunk.rpn
        network.detection = trunk.detection
    return network.eval()


def class_costs(model: str, logits: Tensor, classes: Tensor, known: Tensor) -> Tensor:
    """The class cost of one image."""
    if not known.any():
        return logits.sum() * 0
    logits, classes = logits[known], classes[known]
    if model != "balanced":
        return F.cross_entropy(logits, classes)
    # A quarter of the RoIs are masses, half of which are malignant.
    weights = torch.tensor([1 / 0.75, 1 / 0.125, 1 / 0.125]) / 3
    return (F.cross_entropy(logits, classes, reduction="none") * weights[classes]).mean()


def learn(options: argparse.Namespace) -> None:
    """Learn the candidates' heads and keep both weights of each."""
    given = load_weights(options.weights)
    stage = Stage(name="heads", trains=("heads",), minimises=("unified",), epochs=options.epochs,
                  optimizer="adamw", learning_rate=5e-4, refined_rois=True)
    training = replace(given.preset.training, stages=(stage,), warmup_steps=20, seed=options.seed)
    preset = replace(given.preset, training=training, network=replace(
        given.preset.network, boxes_from="places", hidden_init_std=0.05,
        variant="ft-mtl-net-deep"))
    torch.manual_seed(options.seed)
    trunk = build(preset.network).eval()
    whole = given.network()
    trunk.backbone = whole.backbone.requires_grad_(False)
    trunk.rpn = whole.rpn.requires_grad_(False)
    seen: dict[str, Tensor] = {}
    trunk.backbone.layer2.register_forward_hook(
        lambda module, inputs, output: seen.__setitem__("layer2", output))
    learners = {"boxes": Learner(trunk, [trunk.detection], training)}
    for model in options.models:
        torch.manual_seed(options.seed)
        network = network_of(model, preset.network, trunk)
        taught = [] if model in BLIND else [network.segmentation]
        learners[model] = Learner(network, [*taught, network.classification], training)
    averages = {name: [p.detach().clone() for p in learner.weights]
                for name, learner in learners.items()}

    records = read_coco(options.data, options.images)
    canvases = CanvasCache(options.out / "canvases", preset.network.canvas)
    samples = TrainingSet(records, canvases, augmentation=training.augment, seed=options.seed)
    size = training.batch_size
    sampler = BalancedSampler(records, length=len(records) // size * size, seed=options.seed)
    order = [at for epoch in range(options.epochs) for at in sampler.epoch(epoch)]
    batches = [order[i : i + size] for i in range(0, len(order), size)][: options.steps]
    checkpoint = options.out / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first = state["step"]
        averages = state["averages"]
        for name, learner in learners.items():
            with torch.no_grad():
                for weight, kept in zip(learner.weights, state[name]["weights"], strict=True):
                    weight.copy_(kept)
            learner.optimizer.load_state_dict(state[name]["optimizer"])
            learner.costs = state[name]["costs"]

    loader: DataLoader[list[Sample]] = DataLoader(
        samples, batch_sampler=batches[first:], collate_fn=list)  # type: ignore[arg-type]
    mask_loss = MASK_LOSSES[preset.targets.masks_on]
    scale = training.loss_weights
    with tqdm(loader, initial=first, total=len(batches), unit=" steps", mininterval=30) as bar:
        for step, batch in enumerate(bar, start=first):
            targets, theta1 = rois(trunk, batch, preset)
            counts = [len(t.boxes) for t in targets]
            rate = learning_rate(training, stage, step, len(batches))
            deltas = trunk.detection(theta1).split(counts)
            learners["boxes"].step({"box": mean_cost([
                box_loss(d, t.deltas, t.classes > 0) for d, t in zip(deltas, targets, strict=True)
            ])}, rate)
            for model in options.models:
                learner = learners[model]
                network = learner.network
                if model == "finer":
                    with torch.no_grad():
                        network.classification.looked_at = finer_rois(
                            seen["layer2"], [t.boxes for t in targets])
                network.classification.train()
                theta4 = mask_logits = theta1
                if model not in BLIND:
                    theta4, mask_logits = network.segmentation(theta1)
                logits = network.classification(theta1, theta4, mask_logits).split(counts)
                costs = {"class": scale[0] * mean_cost([
                    class_costs(model, row, t.classes, t.class_known)
                    for t, row in zip(targets, logits, strict=True)])}
                if model not in BLIND:
                    maps = unblock(mask_logits).float().split(counts)
                    costs["mask"] = scale[2] * mean_cost([
                        mask_loss(row, t.masks, t.classes, t.taught)
                        for t, row in zip(targets, maps, strict=True)])
                learner.step(costs, rate)
                network.classification.eval()
            for name, learner in learners.items():
                for kept, weight in zip(averages[name], learner.weights, strict=True):
                    kept.lerp_(weight.detach(), 1 - DECAY)
            if step % 20 == 19 or step + 1 == len(batches):
                tqdm.write(f"{step + 1} " + str({
                    f"{name} {cost}": round(value, 3) for name, learner in learners.items()
                    for cost, value in learner.costs.items()}))
                with atomic_write(checkpoint) as stream:
                    torch.save({"step": step + 1, "averages": averages} | {
                        name: {"weights": [p.detach() for p in learner.weights],
                               "costs": learner.costs,
                               "optimizer": learner.optimizer.state_dict()}
                        for name, learner in learners.items()}, stream)
    for averaged in (False, True):
        if averaged:
            with torch.no_grad():
                for name, learner in learners.items():
                    for weight, kept in zip(learner.weights, averages[name], strict=True):
                        weight.copy_(kept)
        for model in options.models:
            name = f"{model}-averaged" if averaged else model
            with atomic_write(options.out / f"{name}.pt") as stream:
                torch.save({"preset": preset.to_json(),
                            "state": learners[model].network.state_dict()}, stream)


def read(options: argparse.Namespace) -> None:
    """What each candidate finds on the held-out films."""
    records = read_coco(options.read, options.images)
    given = load_weights(options.weights)
    config = replace(given.preset.network, boxes_from="places", variant="ft-mtl-net-deep")
    seen: dict[bytes, Tensor] = {}
    for name in options.models:
        predictor = Predictor.load(STARTER_WEIGHTS, device="cpu")
        state = torch.load(options.out / f"{name}.pt", weights_only=True)
        network = network_of(name.removesuffix("-averaged"), config)
        network.load_state_dict(state["state"])
        if isinstance(network, FinerNet):
            network.watch()
            predictor.network = network
        else:
            predictor.network = InferenceNet(network, predictor.device)
            predictor.network.backbone = Remembered(predictor.network.backbone, seen)
        with tqdm(total=len(records), unit=" films", mininterval=30) as bar:
            results, _ = predict_records(predictor, records,
                                         on_file=lambda done, *_: bar.update(done - bar.n))
        write_predictions(options.out / f"{name}.json", results)


def main() -> None:
    """Learn, or read what was learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="whose trunk")
    parser.add_argument("--models", nargs="+", default=tuple(HEADS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--read", type=Path, help="held-out set to read, instead of learning")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    (read if options.read else learn)(options)


if __name__ == "__main__":
    main()
