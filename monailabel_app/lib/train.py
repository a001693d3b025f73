"""The training task: learns from the labels while reading goes on.

MONAI Label runs it in a process of its own, which ends with the server. What it says of itself it
writes to `training/progress.json` in the workspace, where the server reads it for `/info/`.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from fastapi import HTTPException
from monailabel.interfaces.tasks.train import TrainTask

from ftmtl.atomic import write_json
from ftmtl.config import Preset, Stage
from ftmtl.datasets.labels import read_labels
from ftmtl.training.loop import Progress, train
from ftmtl.weights_file import load_weights

from .datastore import MammogramStore
from .gate import Verdict, compare
from .infer import check_device
from .models import ModelRegistry, now

logger = logging.getLogger(__name__)

STAGES = {
    "proposals": Stage(name="proposals", trains=("rpn",), minimises=("proposal",), epochs=1),
    "heads": Stage(name="heads", trains=("heads",), minimises=("unified",), epochs=1),
    "together": Stage(
        name="together",
        trains=("backbone", "rpn", "heads"),
        minimises=("proposal", "unified"),
        epochs=1,
    ),
}
FEW_IMAGES = 50  # with fewer, only the heads learn: the rest would forget more than it gains
PUBLISH = ("gate", "always")
# MONAI Label and its clients add these; they change nothing here.
PASSED_OVER = {"client_id", "model", "gpus", "local_rank", "name", "multi_gpu"}


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What a training is asked to do; every setting has a default."""

    max_epochs: int = 5  # of each stage
    steps: int | None = None  # an epoch; None: each labelled image about once
    learning_rate: float = 0.001
    max_minutes: float | None = None
    stages: tuple[str, ...] = ()  # empty: heads alone where there are few images
    publish: str = "gate"
    device: str = "auto"

    @classmethod
    def of(cls, settings: dict[str, Any], *, device: str) -> TrainingRequest:
        """The request in `settings`; 400 with the reason where one makes no sense."""
        asked = {k: v for k, v in settings.items() if k not in PASSED_OVER and v is not None}
        if unknown := set(asked) - set(cls.__dataclass_fields__):
            raise HTTPException(
                400,
                f"Unknown settings: {', '.join(sorted(unknown))}. "
                f"Settings: {', '.join(cls.__dataclass_fields__)}",
            )
        for name, whole, least, most in (
            ("max_epochs", True, 1, 1000),
            ("steps", True, 1, 100_000),
            ("learning_rate", False, 1e-7, 0.1),
            ("max_minutes", False, 0.01, 10_000),
        ):
            value = asked.get(name)
            kind = int if whole else int | float
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most
            ):
                number = "a whole number" if whole else "a number"
                raise HTTPException(400, f"{name} is {number} from {least:g} to {most:g}")
        if "stages" in asked:
            names = asked["stages"]
            names = [names] if isinstance(names, str) else names
            if not isinstance(names, list) or not names or any(n not in STAGES for n in names):
                if names != ["auto"]:
                    raise HTTPException(400, f"stages is auto or a list of {', '.join(STAGES)}")
                names = ()
            asked["stages"] = tuple(names)
        if asked.get("publish", "gate") not in PUBLISH:
            raise HTTPException(400, f"publish is {' or '.join(PUBLISH)}")
        asked["device"] = check_device(asked.get("device") or device)
        return cls(**asked)

    def preset(self, preset: Preset, images: int) -> Preset:
        """The recipe of the weights that training begins from, for this request."""
        names = self.stages or (("heads",) if images < FEW_IMAGES else ("together",))
        batch = preset.training.batch_size
        steps = self.steps or max(1, -(-images // batch))
        return replace(
            preset,
            training=replace(
                preset.training,
                stages=tuple(replace(STAGES[name], epochs=self.max_epochs) for name in names),
                steps_per_epoch=steps,
                learning_rate=self.learning_rate,
                warmup_steps=min(preset.training.warmup_steps, steps * self.max_epochs // 10),
            ),
        )


class LearnFromLabels(TrainTask):  # type: ignore[misc]
    """Trains the model in service on the labelled studies, judges the result, publishes it."""

    def __init__(self, registry: ModelRegistry, folder: Path, *, device: str) -> None:
        super().__init__("Learn from the labels of this server")
        self.registry, self.folder, self.device = registry, folder, device
        folder.mkdir(exist_ok=True)
        self._progress = folder / "progress.json"

    def config(self) -> dict[str, Any]:
        """The settings that MONAI Label's own clients show."""
        defaults = TrainingRequest()
        # A list is a choice, in MONAI Label's clients; the first is the default.
        return {
            "max_epochs": defaults.max_epochs,
            "learning_rate": defaults.learning_rate,
            "stages": ["auto", *STAGES],
            "publish": list(PUBLISH),
        }

    def stats(self) -> dict[str, Any]:
        """Where the last training stands; `state` is running, done, failed or stopped."""
        try:
            stats: dict[str, Any] = json.loads(self._progress.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if stats.get("state") == "running" and not _is_alive(stats.get("process")):
            stats["state"] = "stopped"
        return {k: v for k, v in stats.items() if k != "process"}

    def __call__(self, request: dict[str, Any], datastore: MammogramStore) -> dict[str, Any]:
        """Runs one training to its end. Returns what `stats` says then."""
        asked = TrainingRequest.of(request, device=self.device)
        report = _Report(self._progress)
        try:
            return self._run(asked, datastore, report)
        except Exception as error:
            report.say(state="failed", reason=str(getattr(error, "detail", error)))
            raise

    def _run(
        self, asked: TrainingRequest, store: MammogramStore, report: _Report
    ) -> dict[str, Any]:
        images = {
            image: store.catalogue.path(entry)
            for image in store.list_images()
            if (entry := store.catalogue.get(image)) is not None
        }
        records, damaged = read_labels(store.workspace, store.studies, images=images)
        sides = store.sides.all()
        learned = [r for r in records if sides.get(r.patient_id) != "validation"]
        judged = [r for r in records if sides.get(r.patient_id) == "validation"]
        champion = self.registry.current()
        if champion is None or not learned:
            raise HTTPException(409, "There is no label to learn from yet")
        report.say(
            settings=asdict(asked),
            images=len(learned),
            masses=sum(len(r.masses) for r in learned),
            validation={"images": len(judged), "masses": sum(len(r.masses) for r in judged)},
            parent=champion.version,
        )
        weights = self.registry.path(champion)
        begun = load_weights(weights)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="run-") as run:
            outcome = train(
                learned,
                preset=asked.preset(begun.preset, len(learned)),
                out=Path(run),
                init=weights,
                device=asked.device,
                max_minutes=asked.max_minutes,
                on_progress=report.progress,
                cache=self.folder / "canvases",
                # Its thresholds and calibration stay those of the weights that it began from:
                # a few labels are too few to measure new ones.
                metadata={**begun.metadata, "trained_from": champion.to_json()},
            )
            left_out = [_fileless(line) for line in (*damaged, *outcome.left_out)]
            report.say(stage="judging", left_out=left_out)
            verdict = compare(weights, outcome.weights, judged, device=asked.device)
            version = self.registry.add(
                outcome.weights,
                origin="training",
                parent=champion.version,
                verdict=verdict.word,
                details={
                    "settings": asdict(asked),
                    "images": len(learned),
                    "masses": sum(len(r.masses) for r in learned),
                    "finished": outcome.finished,
                    "gate": verdict.to_json(),
                },
            )
        published = asked.publish == "always" or verdict.passes
        if published:
            self.registry.publish(version.version, reason=_reason(asked, verdict))
        return report.say(
            state="done",
            stage=None,
            seconds_left=0,
            version=version.version,
            sha256=version.sha256,
            published=published,
            verdict=verdict.to_json(),
        )


class _Report:
    """The progress file: what `/info/` shows, at most twice a second."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._written = 0.0
        me = psutil.Process()
        self._stats: dict[str, Any] = {
            "state": "running",
            "started": now(),
            "process": [me.pid, me.create_time()],
        }
        write_json(file, self._stats)

    def say(self, **news: Any) -> dict[str, Any]:
        self._stats.update(news, time=now())
        write_json(self._file, self._stats)
        self._written = time.monotonic()
        return {k: v for k, v in self._stats.items() if k != "process"}

    def progress(self, progress: Progress) -> None:
        self._stats.update(asdict(progress))
        if time.monotonic() - self._written > 0.5:
            self.say()
            losses = " ".join(f"{k} {v:.3f}" for k, v in progress.losses.items())
            logger.info(
                "%s: epoch %d/%d step %d/%d %s",
                *(progress.stage, progress.epoch, progress.epochs),
                *(progress.step, progress.steps, losses),
            )


def die_with_parent() -> None:
    """Asks the kernel to end this process with the one that started it (Linux; else nothing)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent or parent == 1:
        sys.exit("The server that started this has gone")


def _reason(asked: TrainingRequest, verdict: Verdict) -> str:
    return f"publish: {asked.publish}; {verdict.word}"


def _fileless(line: str) -> str:
    """A reason without the server's folders: "/a/b/x.dcm: truncated" -> "x.dcm: truncated"."""
    path, colon, rest = line.partition(": ")
    return f"{Path(path).name}{colon}{rest}"


def _is_alive(process: Any) -> bool:
    try:
        pid, born = process
        return bool(abs(psutil.Process(pid).create_time() - born) < 1)
    except (psutil.Error, TypeError, ValueError):
        return False
