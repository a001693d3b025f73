"""Train and predict every fold of every model, on as many devices as there are.

A fold is done when its weights and its `predictions.json`, of its own films, lie in
`OUT/MODEL/fold-N`. What is done is never done again, and a fold that was interrupted, by whatever,
goes on from its checkpoint. Nothing is chosen on a reported fold: the epochs are fixed beforehand.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from ftmtl.atomic import PARTS, clear_parts, write_json
from ftmtl.config import Preset, preset_of
from ftmtl.crossval.folds import SPLITS, Folds, Split
from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.records import ImageRecord
from ftmtl.evaluation.inputs import InvalidPredictions, load_json, parse_predictions, parse_truth
from ftmtl.fingerprint import fingerprint
from ftmtl.network.backbone import Backbone, read_imagenet
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records
from ftmtl.training.checkpoints import FILE as CHECKPOINT
from ftmtl.training.loop import NothingToTrainOn, Progress, train
from ftmtl.training.samples import CanvasCache, readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnContext, SpawnProcess

log = logging.getLogger(__name__)
PREDICTIONS, WEIGHTS = "predictions.json", "weights.safetensors"
TRAINING_SHARE = 0.95  # of a fold's work, for the progress bar; the rest is reading its films


class OtherExperiment(ValueError):
    """The folder holds, or is busy with, another experiment; says what to do."""


class FoldFailed(RuntimeError):
    """A fold's training or reading failed; names it and carries the reason."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where the experiment stands: `share` of all work, `done` of `jobs`, and what is at hand."""

    share: float
    done: int
    jobs: int
    words: str


OnProgress = Callable[[Standing], None]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained and tested, and where it lies. `identity` stands for data and recipe."""

    out: Path
    folds: Folds
    preset: Preset
    models: tuple[str, ...]
    imagenet: Path | None
    malignant_means: str
    left_out: tuple[str, ...]
    identity: str

    def preset_of(self, model: str) -> Preset:
        """A model's own recipe."""
        return preset_of(model, self.preset)

    def folder(self, model: str, fold: int) -> Path:
        """Where a fold's weights and predictions lie."""
        return self.out / model / f"fold-{fold + 1}"

    def predictions(self, model: str) -> list[dict[str, Any]]:
        """The out-of-fold predictions of all images, fold by fold."""
        return [
            result
            for fold in range(self.folds.count)
            for result in json.loads((self.folder(model, fold) / PREDICTIONS).read_text("utf-8"))
        ]


@dataclass(frozen=True, kw_only=True)
class _Job:
    model: str
    fold: int
    folder: Path
    preset: Preset
    training: list[ImageRecord]
    test: list[ImageRecord]
    imagenet: Path | None
    canvases: Path
    metadata: dict[str, object]

    @property
    def name(self) -> str:
        return f"{self.model} fold {self.fold + 1}"

    @property
    def done(self) -> bool:
        return (self.folder / PREDICTIONS).exists() and self.fault() is None

    def fault(self) -> str | None:
        """Why what lies there is not this fold's outcome, None where it is."""
        try:
            with safe_open(self.folder / WEIGHTS, framework="pt"):
                pass
            results, name = load_json(self.folder / PREDICTIONS, InvalidPredictions, PREDICTIONS)
            parse_predictions(results, parse_truth(to_coco(self.test), "its films"), name)
        except (OSError, SafetensorError) as error:
            return f"{self.folder / WEIGHTS}: cannot be read ({error})"
        except InvalidPredictions as error:
            return str(error)
        return None


def available_devices() -> list[str]:
    """Every CUDA device, or the CPU."""
    return [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]


def prepare(
    records: Sequence[ImageRecord], *, out: Path, preset: Preset, models: Sequence[str],
    folds: int, split: Split, seed: int, imagenet: Path | None, malignant_means: str,
    on_progress: OnProgress = lambda standing: None,
) -> Experiment:
    """Read every film once, fold the readable ones, and write the plan down.

    Raises OtherExperiment where `out` holds another plan, TooFewToFold, NothingToTrainOn,
    NotResNet50.
    """
    out.mkdir(parents=True, exist_ok=True)
    if imagenet is not None:  # wrong weights are told of now, not after an hour of reading films
        Backbone().load_imagenet(read_imagenet(imagenet))
    store = CanvasCache(out / "canvases", preset.network.canvas)
    good, left_out = readable(records, store, lambda done, total: on_progress(
        Standing(share=0, done=0, jobs=0, words=f"reading film {done + 1} of {total}")))
    if not good:
        raise NothingToTrainOn(left_out[0] if left_out else "the data set is empty")
    split_up = SPLITS[split](good, folds, seed)
    preset = replace(preset, training=replace(preset.training, seed=seed))
    truth = split_up.truth()
    start = None if imagenet is None else hashlib.sha256(imagenet.read_bytes()).hexdigest()
    films = {str(r.image_id): fingerprint(r.path) for r in good}  # wherever they lie now
    identity = hashlib.sha256(json.dumps(
        [preset.to_json(), truth, films, split, start]
    ).encode()).hexdigest()
    plan = out / "plan.json"
    if plan.exists() and _identity_in(plan) != identity:
        raise OtherExperiment(
            f"{plan}: made with other images, another recipe or other folds. "
            "Go on with the same, or give another --out"
        )
    write_json(plan, {"identity": identity, "split": split, "folds": folds, "seed": seed,
                      "preset": preset.to_json(), "start": start})
    write_json(out / "truth.json", truth)
    return Experiment(
        out=out, folds=split_up, preset=preset, models=tuple(models), imagenet=imagenet,
        malignant_means=malignant_means, left_out=tuple(left_out), identity=identity,
    )


def _identity_in(plan: Path) -> Any:
    try:
        return json.loads(plan.read_text("utf-8"))["identity"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise OtherExperiment(
            f"{plan}: cannot be read ({error!r}). Remove it if images, recipe and folds are the "
            "same as before, or give another --out"
        ) from error


@contextmanager
def owned(out: Path) -> Iterator[None]:
    """Keep a second command off the folder, cleared of what killed writes left.

    The lock goes with the process, however it ends.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            # A fold's own go when it is trained: an orphan of a killed run may be at its last step.
            clear_parts([*out.glob(PARTS), *out.glob(f"*/{PARTS}")])
            yield
    except Timeout as error:
        raise OtherExperiment(
            f"{out}: another command is at work in it. Wait for it, or give another --out"
        ) from error


def run(
    experiment: Experiment, *, devices: Sequence[str],
    on_progress: OnProgress = lambda standing: None,
) -> None:
    """Do what is not done yet. Several devices work at once, each at a fold of its own.

    Raises FoldFailed; what the other folds have reached stays, and a second run goes on.
    """
    jobs = [_job(experiment, model, fold)
            for fold in range(experiment.folds.count) for model in experiment.models]
    pending = [job for job in jobs if not job.done]
    for job in pending:
        if (job.folder / PREDICTIONS).exists():
            log.warning("%s is done again: %s", job.name, job.fault())
    shares = {job.name: float(job not in pending) for job in jobs}

    def report(name: str, share: float, words: str) -> None:
        shares[name] = share
        done = sum(value == 1.0 for value in shares.values())
        on_progress(Standing(share=sum(shares.values()) / len(shares), done=done,
                             jobs=len(jobs), words=f"{name}: {words}"))

    if len(devices) == 1:
        for job in pending:
            _do(job, devices[0], report, lambda: False)
    elif pending:
        _in_parallel(pending, devices, report)
    for model in experiment.models:
        write_json(experiment.out / model / PREDICTIONS, experiment.predictions(model))


def _job(experiment: Experiment, model: str, fold: int) -> _Job:
    split = experiment.folds
    return _Job(
        model=model, fold=fold, folder=experiment.folder(model, fold),
        preset=experiment.preset_of(model), training=split.training(fold),
        test=split.test(fold), imagenet=experiment.imagenet,
        canvases=experiment.out / "canvases",
        metadata={
            "malignant_means": experiment.malignant_means, "version": f"{model}-fold-{fold + 1}",
            "held_out": f"fold {fold + 1} of {split.count}, by {split.split}",
        },
    )


def _do(job: _Job, device: str, report: Callable[[str, float, str], None],
        should_stop: Callable[[], bool]) -> None:
    """One fold, from where it stands to its predictions."""
    job.folder.mkdir(parents=True, exist_ok=True)

    def training(progress: Progress) -> None:
        at = (progress.epoch - 1) * progress.steps + progress.step
        part = at / max(1, progress.epochs * progress.steps)
        share = (progress.stage_number - 1 + part) / progress.stages
        losses = " ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        if progress.stage_number:
            report(job.name, TRAINING_SHARE * share,
                   f"{progress.stage} epoch {progress.epoch}/{progress.epochs} {losses}")

    def reading(done: int, total: int, file: Path) -> None:
        report(job.name, TRAINING_SHARE + (0.99 - TRAINING_SHARE) * done / total, "reading")

    # An orphan of a killed run may still be at its last step: wait for it.
    with FileLock(job.folder / ".lock"):
        if not job.done:
            # Else it would vouch for weights of which a second interruption leaves the half.
            (job.folder / PREDICTIONS).unlink(missing_ok=True)
            outcome = train(
                job.training, preset=job.preset, out=job.folder, imagenet=job.imagenet,
                resume=True, device=device, cache=job.canvases, on_progress=training,
                should_stop=should_stop, metadata=job.metadata,
            )
            if not outcome.finished:
                return
            predictor = Predictor.load(outcome.weights, device=device)
            results, read = predict_records(predictor, job.test, on_file=reading)
            if read.refused:
                raise FoldFailed(f"{job.name}: {read.refused[0]}")
            write_json(job.folder / PREDICTIONS, results)
            (job.folder / CHECKPOINT).unlink(missing_ok=True)
    report(job.name, 1.0, "done")


def _in_parallel(
    jobs: list[_Job], devices: Sequence[str], report: Callable[[str, float, str], None]
) -> None:
    """A process for each fold, as many at once as there are devices; they share the processors."""
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    waiting = list(jobs)
    threads = max(1, torch.get_num_threads() // len(devices))
    at_work: dict[int, _AtWork] = {}
    try:
        while waiting or at_work:
            for slot, device in enumerate(devices):
                if slot not in at_work and waiting:
                    at_work[slot] = _begin(context, waiting.pop(0), device, messages, threads)
            over = [slot for slot, fold in at_work.items() if fold.process.exitcode is not None]
            for kind, *content in _said(messages):
                if kind == "failed":
                    raise FoldFailed(f"{content[0]}: {content[1]}")
                report(*content)
            for slot in over:  # all that they said has been heard
                fold = at_work.pop(slot)
                fold.process.join()
                if not fold.job.done:
                    raise FoldFailed(
                        f"{fold.job.name}: its process ended with {fold.process.exitcode}; "
                        "was it out of memory?")
    finally:
        for fold in at_work.values():
            fold.process.terminate()
            fold.process.join()


@dataclass(frozen=True)
class _AtWork:
    job: _Job
    process: SpawnProcess
    handing: threading.Thread  # lives until the child has its job


def _begin(
    context: SpawnContext, job: _Job, device: str, messages: Any, threads: int
) -> _AtWork:
    """A process at work on `job` with so many threads.

    A thread hands it the job, which is more than a pipe holds. As an argument we would hand it over
    here, and wait for as long as the child imports torch: the others would start one by one.
    """
    inbox, ours = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(inbox, device, messages, threads))
    process.start()
    inbox.close()  # the child's alone, so that each learns of it when the other ends

    def hand_over() -> None:
        with ours, suppress(OSError):  # it ended early: its exit code says so
            ours.send(job)

    handing = threading.Thread(target=hand_over, daemon=True)
    handing.start()
    return _AtWork(job, process, handing)


def _said(messages: Any) -> Iterator[tuple[Any, ...]]:
    """What has been said so far; waits a moment for the first word."""
    with suppress(queue.Empty):
        yield messages.get(timeout=0.2)
        while True:
            yield messages.get_nowait()


def _child(inbox: Connection, device: str, messages: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    job: _Job = inbox.recv()
    parent = multiprocessing.parent_process()

    def orphaned() -> bool:
        return parent is not None and not parent.is_alive()

    try:
        _do(job, device, lambda *content: messages.put(("at", *content)), orphaned)
    except Exception as error:
        known = type(error).__module__.startswith("ftmtl.")
        messages.put(("failed", job.name, str(error) if known else traceback.format_exc()))
