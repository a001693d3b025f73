"""`ftmtl bench`: how long each part of a reading takes on this machine, and how near the floor.

The floor of a part is the longer of two times: its floating point operations at the machine's rate
of matrix products, and the bytes that it cannot but move (weights and inputs read once, outputs
written once) at the machine's memory rate. Both rates are measured in the same run.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ftmtl.config import RECOMMENDED, Preset
from ftmtl.datasets.records import BENIGN, Annotation, ImageRecord
from ftmtl.device import autocast, has_bfloat16
from ftmtl.label_file import write_label_file
from ftmtl.mammogram import read_mammogram
from ftmtl.network.model import build, extents_of
from ftmtl.predict import Predictor, image_info
from ftmtl.predict_files import predict_files
from ftmtl.training.samples import CanvasCache, TrainingSet, made_ahead
from ftmtl.training.stages import losses, trainable

Action = Callable[[], Any]
OnPart = Callable[[str], None]
WARM_UP = 2  # runs that are not counted


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one part; `gflop` and `megabytes` where it is matrix work, else None."""

    part: str
    median: float
    fastest: float
    slowest: float
    gflop: float | None = None
    megabytes: float | None = None
    floor: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times longer than the floor."""
        return self.median / self.floor if self.floor else None


@dataclass
class Bench:
    """What one run measured."""

    machine: dict[str, Any]
    reading: list[Timing] = field(default_factory=list)
    throughput: dict[str, float] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain values."""
        document = asdict(self)
        for row, timing in zip(document["reading"], self.reading, strict=True):
            row["ratio"] = timing.ratio
        return document

    def table(self) -> str:
        """Everything, for a terminal."""
        lines = [f"{name:24} {value}" for name, value in self.machine.items()]
        lines += ["", f"{'ms':24} {'median':>8} {'fastest':>8} {'slowest':>8}"
                      f" {'GFLOP':>7} {'MB':>7} {'floor':>7} {'× floor':>7}"]
        for t in self.reading:
            numbers = (t.gflop, t.megabytes, t.floor, t.ratio)
            lines.append(f"{t.part:24} {t.median:8.1f} {t.fastest:8.1f} {t.slowest:8.1f} "
                         + " ".join(" " * 7 if n is None else f"{n:7.1f}" for n in numbers))
        for title, rows in (("throughput", self.throughput), ("training", self.training)):
            if rows:
                lines += ["", title, *(f"{name:44} {value:8.2f}" for name, value in rows.items())]
        return "\n".join(lines)


def bench(predictor: Predictor, films: Sequence[Path], *, repeats: int, batch: int,
          training_steps: int, on_part: OnPart = lambda part: None) -> Bench:
    """Time a reading of the first of `films`, reading many, and steps of training on them.

    `on_part` hears what is timed next.
    """
    on_part("the machine")
    device = predictor.device
    rates = _Rates.measure(device)
    out = Bench(machine={
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "precision": str(rates.dtype).removeprefix("torch."),
        "matrix products, GFLOP/s": round(rates.flops / 1e9, 1),
        "memory, GB/s": round(rates.bytes / 1e9, 1),
        "canvas": "×".join(map(str, predictor.preset.network.canvas)),
        "proposals": predictor.preset.network.proposals_infer,
    })
    out.reading = _reading(predictor, films[0], rates, repeats, on_part)
    out.throughput = _throughput(predictor, films, batch, repeats, on_part)
    if training_steps:
        on_part("training")
        out.training = _training(films, device, training_steps)
    return out


def milliseconds(action: Action, repeats: int, device: torch.device) -> list[float]:
    """Of `repeats` runs of `action` after two that are not counted; waits for the device."""
    taken = []
    for number in range(WARM_UP + repeats):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM_UP:
            taken.append(1000 * (time.perf_counter() - began))
    return taken


def count_flops(action: Action) -> int:
    """Floating point operations of the matrix products and convolutions in `action`."""
    with FlopCounterMode(display=False) as counter:
        action()
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class _Rates:
    """The best that the device was seen to do: operations and bytes a second."""

    dtype: torch.dtype
    flops: float
    bytes: float

    @classmethod
    def measure(cls, device: torch.device) -> _Rates:
        dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
        side, count = (8192, 2**28) if device.type == "cuda" else (2048, 2**26)
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = min(milliseconds(lambda: a @ b, 7, device))
        source = torch.zeros(count, device=device)
        target = torch.empty_like(source)
        copied = min(milliseconds(lambda: target.copy_(source), 7, device))
        return cls(dtype, 2 * side**3 / product * 1e3, 2 * source.nbytes / copied * 1e3)

    def floor(self, flops: int, moved: int) -> float:
        """Milliseconds."""
        return 1000 * max(flops / self.flops, moved / self.bytes)


def _reading(predictor: Predictor, film: Path, rates: _Rates, repeats: int, on_part: OnPart
             ) -> list[Timing]:
    """Each part on what the part before it really gave."""
    net, device, config = predictor.network, predictor.device, predictor.preset.network

    def timed(part: str, action: Action, *, modules: Sequence[nn.Module] = (),
              tensors: Sequence[Tensor] = ()) -> Timing:
        on_part(part)
        taken = milliseconds(action, repeats, device)
        spread = (statistics.median(taken), min(taken), max(taken))
        if not modules and not tensors:
            return Timing(part, *spread)
        flops = count_flops(action)
        moved = sum(t.nbytes for t in [*tensors, *(p for m in modules for p in m.parameters())])
        return Timing(part, *spread, flops / 1e9, moved / 1e6, rates.floor(flops, moved))

    mammogram = read_mammogram(film)
    canvas = predictor.canvas(mammogram)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        image = torch.from_numpy(canvas.pixels)[None, None].to(device)
        valid = torch.from_numpy(canvas.valid)[None].to(device)
        theta0 = net.backbone(image, valid)
        rpn = net.rpn(theta0)
        extents = extents_of(valid)
        proposals = net.proposals(rpn, extents, config.proposals_infer)
        refined = net.refine(theta0, proposals, extents)
        prepared = net.prepare(theta0)
        pooled = list(net.pooled_pieces(prepared[0], refined[0]))
        described = net.describe(prepared, refined)
        detections = net.detect(image, valid)[0]
        reading = predictor.read_canvas(canvas)
        findings = predictor.findings(reading, image_info(mammogram, None))
        label = Path(folder, "label.seg.nrrd")
        heads = [net.segmentation, net.classification]
        network = [net.backbone, net.rpn, net.detection, *heads]
        return [
            timed("read", lambda: read_mammogram(film)),
            timed("canvas", lambda: predictor.canvas(mammogram)),
            timed("backbone", lambda: net.backbone(image, valid), modules=[net.backbone],
                  tensors=[image, valid, theta0]),
            timed("RPN", lambda: net.rpn(theta0), modules=[net.rpn],
                  tensors=[theta0, rpn.objectness, rpn.deltas]),
            timed("proposals, NMS",
                  lambda: net.proposals(rpn, extents, config.proposals_infer)),
            timed("refinement", lambda: net.refine(theta0, proposals, extents),
                  modules=[net.detection], tensors=[theta0, *refined]),
            timed("first deconvolution", lambda: net.prepare(theta0),
                  modules=[net.segmentation.deconv1], tensors=[theta0, prepared]),
            timed("RoIAlign", lambda: list(net.pooled_pieces(prepared[0], refined[0])),
                  tensors=[prepared, *(t for piece in pooled for t in piece)]),
            timed("heads", lambda: [net.heads_of(*piece) for piece in pooled], modules=heads,
                  tensors=[*(t for piece in pooled for t in piece), *described[0]]),
            timed("settling", lambda: net.settle(described[0][0], described[0][1])),
            timed("outlines", lambda: net.describe(prepared, [detections.boxes])),
            timed("network, whole", lambda: net.detect(image, valid), modules=network,
                  tensors=[image, valid, detections.boxes, detections.masks]),
            timed("candidates", lambda: predictor.gathered(detections, canvas)),
            timed("findings", lambda: predictor.findings(reading, image_info(mammogram, None))),
            timed("label file", lambda: write_label_file(label, findings)),
            timed("film to findings", lambda: predictor(read_mammogram(film))),
        ]


def _throughput(predictor: Predictor, films: Sequence[Path], batch: int, repeats: int,
                on_part: OnPart) -> dict[str, float]:
    """Images a second, of the network alone by batch and of films from the disk."""
    canvases = [predictor.canvas(read_mammogram(film)) for film in films]
    out = {}
    for size in sorted({1, batch}):
        chosen = [canvases[i % len(canvases)] for i in range(size)]
        images = torch.stack([torch.from_numpy(c.pixels)[None] for c in chosen])
        valid = torch.stack([torch.from_numpy(c.valid) for c in chosen])
        images, valid = images.to(predictor.device), valid.to(predictor.device)
        on_part(f"network, batch {size}")
        taken = milliseconds(lambda i=images, v=valid: predictor.network.detect(i, v),  # type: ignore[misc]
                             max(1, repeats // 2), predictor.device)
        out[f"network, batch {size}, images/s"] = 1000 * size / statistics.median(taken)
    on_part("films")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        report = predict_files(predictor, films, Path(folder))
        out["films to findings and pictures, films/s"] = report.read / (time.perf_counter() - began)
    return out


def _training(films: Sequence[Path], device: torch.device, steps: int) -> dict[str, float]:
    """Steps of the recommended recipe on `films` with one made-up mass each."""
    preset: Preset = RECOMMENDED
    network = build(preset.network, frozen_backbone=preset.training.frozen_backbone).to(device)
    network.train()
    stage = preset.training.stages[0]
    parameters = trainable(network, stage)
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=preset.training.momentum)
    size = preset.training.batch_size
    waited, stepped = [], []
    with tempfile.TemporaryDirectory() as folder:
        cache = CanvasCache(Path(folder), preset.network.canvas)
        samples = TrainingSet([_made_up(i, film) for i, film in enumerate(films)], cache,
                              augmentation=preset.training.augment, seed=0)
        for index in range(len(films)):
            samples[0, index, 0]  # decoded once, as before a training
        batches = made_ahead(samples, ([(step, (step * size + i) % len(films), 0)
                                        for i in range(size)] for step in range(steps + 1)))
        for step in range(steps + 1):
            began = time.perf_counter()
            batch = next(batches)
            ready = time.perf_counter()
            with autocast(device):
                terms = losses(network, [s.to(device) for s in batch], stage, preset)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(parameters, preset.training.clip_norm)
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if step:  # the first warms up
                waited.append(ready - began)
                stepped.append(time.perf_counter() - ready)
    step_time, wait = statistics.median(stepped), statistics.median(waited)
    return {
        f"step of {size} images, s": step_time,
        "slowest step, s": max(stepped),
        "waits for the data of a step, s": wait,
        "share that waits for data": wait / (wait + step_time),
        "images/s": size / (wait + step_time),
    }


def _made_up(number: int, film: Path) -> ImageRecord:
    """A record of a film with one mass in the middle of it; good for timing alone."""
    mammogram = read_mammogram(film)
    box = (mammogram.width * 0.4, mammogram.height * 0.45, mammogram.width * 0.1,
           mammogram.height * 0.06)
    return ImageRecord(
        image_id=number, path=film, width=mammogram.width, height=mammogram.height,
        patient_id=str(number), annotations=(Annotation(id=number, bbox=box, category=BENIGN),),
    )
