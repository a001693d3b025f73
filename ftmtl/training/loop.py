"""The training loop: stages, epochs, steps; progress, checkpoints, resumption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import Parameter

from ftmtl.atomic import PARTS, clear_parts
from ftmtl.config import Preset
from ftmtl.datasets.records import ImageRecord
from ftmtl.device import autocast, pick_device
from ftmtl.fingerprint import fingerprint
from ftmtl.network.backbone import read_imagenet
from ftmtl.network.model import FTMTLNet, build
from ftmtl.weights_file import UnusableWeights, load_weights, save_weights

from .checkpoints import load_checkpoint, save_checkpoint
from .processes import Processes, joined
from .samples import (
    BalancedSampler,
    CanvasCache,
    Sample,
    TrainingSet,
    by_path,
    made_ahead,
    readable,
)
from .stages import learning_rate, losses, optimizer_of, trainable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a run stands; `losses` are averages over the last steps."""

    stage: str
    stage_number: int
    stages: int
    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, float]
    seconds_left: float | None
    images_at_once: int = 0  # of a batch; fewer than it has where memory ran out


@dataclass(frozen=True)
class Outcome:
    """What a run left: its weights, whether all its epochs were run, which images were left out."""

    weights: Path
    finished: bool
    left_out: tuple[str, ...]


class OutOfMemory(RuntimeError):
    """Not even one image at a time can be trained on; names the remedy."""


class NothingToTrainOn(ValueError):
    """No image could be read, or none was given."""


def train(
    records: Sequence[ImageRecord],
    *,
    preset: Preset,
    out: Path,
    imagenet: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    max_minutes: float | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[FTMTLNet, Progress], None] = lambda network, progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    cache: Path | None = None,
    metadata: dict[str, object] | None = None,
    named: Callable[[ImageRecord], str] = by_path,
) -> Outcome:
    """Train `preset` on `records` in the folder `out`; returns where the weights are.

    Starts from the network `init` (weights of ours) or from an ImageNet backbone `imagenet`,
    or, with `resume`, from the folder's checkpoint. Ends early, resumable, after `max_minutes`
    or when `should_stop`. `on_epoch` is given the network after every epoch but the last, whose
    network is the outcome. Where a batch does not fit into memory it is gone through in parts
    (OutOfMemory where one image does not fit). `cache` holds the canvases (default: in `out`).
    `named` is what an image is called where it is told why it is left out.
    Started by `torchrun`, the processes share every batch (UnevenShares), and the first writes.
    """
    started = time.monotonic()

    def must_stop() -> bool:
        late = max_minutes is not None and time.monotonic() - started > max_minutes * 60
        return should_stop() or late

    out.mkdir(parents=True, exist_ok=True)
    with joined(pick_device(device), batch_size=preset.training.batch_size) as processes:
        if not processes.first:  # one speaks for all
            on_progress, on_epoch = _tell_nobody, _tell_nobody
        # First: wrong weights are told of now, not after an hour of reading films.
        network = _start(preset, imagenet, init).to(processes.device)
        store = CanvasCache(cache or out / "canvases", preset.network.canvas)
        if processes.first:  # the folder is the run's own: nobody else writes there
            clear_parts([*out.glob(PARTS), *out.glob(f"*/{PARTS}")])
        processes.wait()

        def reading(done: int, total: int) -> None:
            on_progress(Progress(
                "reading images", 0, len(preset.training.stages), 0, 0, done, total, {}, None))

        good, left_out = _read(records, store, processes, reading, named)
        if processes.first:
            lines = "".join(f"{line}\n" for line in left_out)
            (out / "left_out.txt").write_text(lines, encoding="utf-8")
        if not good:
            reason = left_out[0] if left_out else "the data set is empty"
            raise NothingToTrainOn(f"no image can be trained on: {reason}")
        identity = _identity(preset, good)
        state = load_checkpoint(out, identity=identity) if resume else None
        if state is not None:
            network.load_state_dict(state["network"])
        run = _Run(
            network, good, store, preset, out, processes, identity=identity,
            on_progress=on_progress, on_epoch=on_epoch, should_stop=must_stop,
        )  # fmt: skip
        with contextlib.ExitStack() as closing:
            if processes.first:
                from torch.utils.tensorboard import SummaryWriter  # slow to import

                run.board = SummaryWriter(str(out / "tensorboard"))
                closing.callback(run.board.close)
            finished = run.go(state)
        weights = out / "weights.safetensors"
        if processes.first:
            save_weights(weights, network, preset=preset, metadata=metadata or {})
        processes.wait()
        return Outcome(weights, finished, tuple(left_out))


def _tell_nobody(*_what: object) -> None:
    pass


def _read(
    records: Sequence[ImageRecord], store: CanvasCache, processes: Processes,
    reading: Callable[[int, int], None], named: Callable[[ImageRecord], str],
) -> tuple[list[ImageRecord], list[str]]:
    """The records whose canvas can be made, and why each other one is left out."""
    if processes.count > 1:  # each makes its share of the canvases; then all find them made
        readable(processes.share(records), store, reading, named)
        processes.wait()
    return readable(records, store, reading, named)


class _Run:
    """One run's moving parts; `done` counts steps over all stages."""

    board: SummaryWriter  # of the first process

    def __init__(self, network: FTMTLNet, records: Sequence[ImageRecord], store: CanvasCache,
                 preset: Preset, out: Path, processes: Processes, *, identity: str,
                 on_progress: Callable[[Progress], None],
                 on_epoch: Callable[[FTMTLNet, Progress], None],
                 should_stop: Callable[[], bool]) -> None:
        config = preset.training
        self.network, self.preset, self.out = network, preset, out
        self.processes, self.device = processes, processes.device
        self.identity = identity
        self.on_progress, self.on_epoch, self.should_stop = on_progress, on_epoch, should_stop
        self.images_at_once = config.batch_size
        self.steps_per_epoch = config.steps_per_epoch or max(1, len(records) // config.batch_size)
        self.samples = TrainingSet(records, store, augmentation=config.augment, seed=config.seed)
        self.sampler = BalancedSampler(records, length=self.steps_per_epoch * config.batch_size,
                                       seed=config.seed)
        self.done = 0
        self.rate_of_progress: float | None = None  # seconds a step, smoothed
        self.recent: dict[str, float] = {}
        self.last_saved = time.monotonic()

    def go(self, state: dict[str, object] | None) -> bool:
        """All stages from `state` on; false if stopped before the end."""
        at = (state or {}).get("at", [0, 0])  # stage, step within it
        assert isinstance(at, list)
        self.done = sum(s.epochs for s in self.preset.training.stages[: at[0]]) \
            * self.steps_per_epoch + at[1]
        for number, stage in enumerate(self.preset.training.stages):
            if number < at[0]:
                continue
            optimizer = optimizer_of(
                trainable(self.network, stage), stage, self.preset.training)
            first = 0
            if number == at[0] and state is not None:
                first = at[1]
                if state["optimizer"] is not None:
                    optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
            if not self._stage(number, optimizer, first):
                return False
        self._save([len(self.preset.training.stages), 0], None)
        return True

    def _stage(self, number: int, optimizer: torch.optim.Optimizer, first: int) -> bool:
        stage = self.preset.training.stages[number]
        steps = stage.epochs * self.steps_per_epoch
        self.network.train()
        began = time.monotonic()
        for step, batch in zip(range(first, steps), self._batches(number, first, stage.epochs),
                               strict=True):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.preset.training, stage, step, steps)
            values = self._step(number, batch, optimizer)
            now = time.monotonic()  # a step's time is with its images' reading and its checkpoint
            progress = self._report(number, step, values, now - began)
            began = now
            due = time.monotonic() - self.last_saved \
                > 60 * self.preset.training.checkpoint_minutes
            stop = self.processes.one_says(self.should_stop())
            if due or stop:
                self._save([number, step + 1], optimizer)
            last = step + 1 == steps and number + 1 == len(self.preset.training.stages)
            if stop and not last:  # after the last step there is nothing left to go on with
                return False
            if progress.step == progress.steps and not last:
                self.on_epoch(self.network, progress)
                began = time.monotonic()
        return True

    def _batches(self, stage: int, first: int, epochs: int) -> Iterator[list[Sample]]:
        """The stage's batches from step `first` on; stages draw different epochs."""
        before = sum(s.epochs for s in self.preset.training.stages[:stage])
        size = self.preset.training.batch_size
        order = [at for epoch in range(before, before + epochs) for at in self.sampler.epoch(epoch)]
        return made_ahead(self.samples, (self.processes.share(order[i : i + size])
                                         for i in range(first * size, len(order), size)))

    def _step(self, number: int, batch: list[Sample], optimizer: torch.optim.Optimizer
              ) -> dict[str, float]:
        values = None
        while values is None:
            values = self._try(number, batch, optimizer)
        return values

    def _try(self, number: int, batch: list[Sample], optimizer: torch.optim.Optimizer
             ) -> dict[str, float] | None:
        """The costs of one step; None, with fewer images at once from now on, if memory ran out.

        Costs are averages over images, so parts weighted by their share add up to the batch.
        """
        stage = self.preset.training.stages[number]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        values: dict[str, float] = {}
        optimizer.zero_grad(set_to_none=True)
        try:
            for first in range(0, len(batch), self.images_at_once):
                part = batch[first : first + self.images_at_once]
                with autocast(self.device):
                    terms = losses(
                        self.network, [s.to(self.device) for s in part], stage, self.preset
                    )
                share = len(part) / len(batch)
                total = torch.stack(list(terms.values())).sum() * share
                total.backward()
                for name, value in terms.items():
                    values[name] = values.get(name, 0.0) + float(value.detach()) * share
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        else:
            return self._learn(parameters, values, optimizer)
        self._take_fewer()  # here, where the error no longer holds what was computed
        return None

    def _learn(self, parameters: list[Parameter], values: dict[str, float],
               optimizer: torch.optim.Optimizer) -> dict[str, float]:
        values = self.processes.average(parameters, values)
        torch.nn.utils.clip_grad_norm_(parameters, self.preset.training.clip_norm,
                                       error_if_nonfinite=True)
        optimizer.step()
        return values

    def _take_fewer(self) -> None:
        if self.images_at_once == 1:
            raise OutOfMemory(
                "memory does not hold one image in training: free some, train on another device "
                "or with a smaller canvas"
            )
        self.images_at_once //= 2
        log.warning("memory ran out; from now on %d images at once", self.images_at_once)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _report(self, number: int, step: int, values: dict[str, float], seconds: float
                ) -> Progress:
        self.done += 1
        stage = self.preset.training.stages[number]
        if set(self.recent) != set(values):
            self.recent = dict(values)
        self.recent = {k: 0.95 * self.recent[k] + 0.05 * v for k, v in values.items()}
        old = self.rate_of_progress
        self.rate_of_progress = seconds if old is None else 0.95 * old + 0.05 * seconds
        if self.processes.first:
            for name, value in values.items():
                self.board.add_scalar(f"loss/{name}", value, self.done)
        total = sum(s.epochs for s in self.preset.training.stages) * self.steps_per_epoch
        progress = Progress(
            stage=stage.name, stage_number=number + 1, stages=len(self.preset.training.stages),
            epoch=step // self.steps_per_epoch + 1, epochs=stage.epochs,
            step=step % self.steps_per_epoch + 1, steps=self.steps_per_epoch,
            losses=dict(self.recent), seconds_left=(total - self.done) * self.rate_of_progress,
            images_at_once=self.images_at_once,
        )
        self.on_progress(progress)
        return progress

    def _save(self, at: list[int], optimizer: torch.optim.Optimizer | None) -> None:
        self.last_saved = time.monotonic()
        if not self.processes.first:
            return
        save_checkpoint(self.out, {
            "identity": self.identity, "at": at, "network": self.network.state_dict(),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
        })


def _start(preset: Preset, imagenet: Path | None, init: Path | None) -> FTMTLNet:
    torch.manual_seed(preset.training.seed)
    network = build(preset.network, frozen_backbone=preset.training.frozen_backbone)
    if init is not None:
        state, own = load_weights(init).state, network.state_dict()
        if other := sorted(name for name in own if own[name].shape != state[name].shape):
            raise UnusableWeights(
                f"{init}: made for another network ({other[0]} is {list(state[other[0]].shape)}, "
                f"not {list(own[other[0]].shape)}). Give weights of this recipe"
            )
        network.load_state_dict(state)
    elif imagenet is not None:
        network.backbone.load_imagenet(read_imagenet(imagenet))
    return network


def _is_out_of_memory(error: Exception) -> bool:
    """On CUDA torch has an error of its own for it; its CPU allocator says it in words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)


def _identity(preset: Preset, records: Sequence[ImageRecord]) -> str:
    """A digest of all that a resumed run must share with the interrupted one; films may move."""
    rows = [(str(r.image_id), fingerprint(r.path), r.pixel_aspect,
             [a.__dict__ for a in r.annotations]) for r in records]
    text = json.dumps([preset.to_json(), rows], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
