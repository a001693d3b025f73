"""The training task: learns from the labels while reading goes on.

MONAI Label runs it in a process of its own, which ends with the server. What it says of itself it
writes to `training/progress.json` in the workspace, where the server reads it for `/info/`. It may
be ended at any moment, so whatever is better than the model in service goes there at once: the gate
judges after epochs, as often as that costs a fifth of the time at most, and at each stage's end.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.tasks.train import TrainTask

from ftmtl.config import Preset
from ftmtl.datasets.labels import read_labels
from ftmtl.datasets.records import ImageRecord
from ftmtl.mammogram import UnreadableMammogram
from ftmtl.network.model import FTMTLNet
from ftmtl.training.loop import Progress, train
from ftmtl.weights_file import Weights, load_weights, save_weights

from .datastore import MammogramStore
from .gate import WORDS, Gate, Verdict
from .models import ModelRegistry, ModelVersion, Overtaken
from .progress import Report, read_report
from .training_request import PUBLISH, STAGES, TrainingRequest

logger = logging.getLogger(__name__)

JUDGING_SHARE = 0.2  # of the time, at most, before the end
NICENESS = 10  # readers come first


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
            "learning_rate": "auto",
            "stages": ["auto", *STAGES],
            "publish": list(PUBLISH),
        }

    def stats(self) -> dict[str, Any]:
        """Where the last training stands; `state` is running, done, failed or stopped."""
        return read_report(self._progress)

    def __call__(self, request: dict[str, Any], datastore: MammogramStore) -> dict[str, Any]:
        """Runs one training to its end. Returns what `stats` says then."""
        os.nice(NICENESS)
        asked = TrainingRequest.of(request, device=self.device)
        for killed in self.folder.glob("run-*"):  # only one training runs at a time
            shutil.rmtree(killed, ignore_errors=True)
        report = Report(self._progress)
        try:
            return self._run(asked, datastore, report)
        except UnreadableMammogram as error:  # it names a file, and what is raised is written down
            reason = f"an image can no longer be read: {error.reason}. {error.remedy}"
            report.say(state="failed", reason=reason)
            raise RuntimeError(reason) from None
        except Exception as error:
            report.say(state="failed", reason=str(getattr(error, "detail", error)))
            raise

    def _run(self, asked: TrainingRequest, store: MammogramStore, report: Report) -> dict[str, Any]:
        records, damaged = read_labels(
            store.workspace, images=store.labelled_files(), named=store.names.of
        )
        sides = store.sides.all()
        learned = [r for r in records if sides.get(r.patient_id) != "validation"]
        judged = [r for r in records if sides.get(r.patient_id) == "validation"]
        parent = self.registry.current()
        if parent is None or not learned:
            raise HTTPException(409, "There is no label to learn from yet")
        counts = {"images": len(learned), "masses": sum(len(r.masses) for r in learned)}
        report.say(
            settings=asdict(asked),
            **counts,
            validation={"images": len(judged), "masses": sum(len(r.masses) for r in judged)},
            parent=parent.version,
        )
        begun = load_weights(self.registry.path(parent))
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="run-") as folder:
            run = _Run(asked, self.registry, parent, begun, judged, report, Path(folder), counts)
            outcome = train(
                learned,
                preset=run.preset,
                out=run.folder,
                init=self.registry.path(parent),
                device=asked.device,
                max_minutes=asked.max_minutes,
                on_progress=report.progress,
                on_epoch=run.after_epoch,
                cache=self.folder / "canvases",
                metadata=run.metadata,
                named=lambda record: store.names.of(str(record.image_id)),
            )
            report.say(stage="judging", left_out=[*damaged, *outcome.left_out])
            return run.end(outcome.weights, finished=outcome.finished)


class _Run:
    """One training: its candidates, judged and taken into service."""

    def __init__(
        self,
        asked: TrainingRequest,
        registry: ModelRegistry,
        parent: ModelVersion,
        begun: Weights,
        judged: Sequence[ImageRecord],
        report: Report,
        folder: Path,
        counts: dict[str, int],
    ) -> None:
        self.asked, self.registry, self.parent, self.report = asked, registry, parent, report
        self.folder, self.counts = folder, counts
        self.preset: Preset = asked.preset(begun.preset, counts["images"])
        self.metadata = {
            **begun.metadata,
            "trained_from": parent.to_json(),
        }
        self.gate = Gate(judged, device=asked.device)
        self.published: list[str] = []
        self.figures: list[dict[str, Any]] = []
        self._judged_at = time.monotonic()
        self._judging_took = 0.0

    def after_epoch(self, network: FTMTLNet, progress: Progress) -> None:
        """Takes what has been learned so far into service if it is better than what is there."""
        ends_stage = progress.epoch == progress.epochs
        due = time.monotonic() - self._judged_at > self._judging_took / JUDGING_SHARE
        if not self.gate.can_judge or not (due or ends_stage):
            return
        began = time.monotonic()
        candidate = self.folder / "candidate.safetensors"
        save_weights(candidate, network, preset=self.preset, metadata=self.metadata)
        where = {"stage": progress.stage, "epoch": progress.epoch}
        verdict = self._judge(candidate, where)
        # One that is merely not worse waits: the end of the training may bring a better one.
        if verdict.word == "better":
            self._publish(self._add(candidate, verdict, finished=False), verdict)
        self._judged_at = time.monotonic()
        self._judging_took = self._judged_at - began

    def end(self, candidate: Path, *, finished: bool) -> dict[str, Any]:
        """Judges the last candidate and publishes it if it may. Returns the report."""
        verdict = self._judge(candidate, {"stage": None, "epoch": None})
        version = self._add(candidate, verdict, finished=finished)
        # What this training has published already was better than what it began from; only a
        # better one takes its place, so that no run goes down by a little each time.
        if self.published:
            passes = verdict.word == "better"
        else:
            unjudged = verdict.word == "not judged" and self.asked.publish == "always"
            passes = verdict.passes or unjudged
        if passes:
            self._publish(version, verdict)
        return self.report.say(
            state="done",
            stage=None,
            seconds_left=0,
            version=self.published[-1] if self.published else version.version,
            candidate=version.version,
            sha256=version.sha256,
            published=bool(self.published),
            verdict=verdict.to_json(),
        )

    def _judge(self, candidate: Path, where: dict[str, Any]) -> Verdict:
        champion = self.registry.current() or self.parent
        anchor = self.registry.anchor() or champion
        self.gate.keep(self.registry.path(champion), self.registry.path(anchor), candidate)
        verdict = self.gate.compare(self.registry.path(champion), candidate)
        if verdict.passes and anchor != champion:
            held = self.gate.compare(self.registry.path(anchor), candidate)
            held = replace(held, against=anchor.version)
            # The lower word counts: one that only makes up for what was lost is not better.
            verdict = max(verdict, held, key=lambda said: WORDS.index(said.word))
        self.figures.append({**where, "champion_version": champion.version, **verdict.to_json()})
        self.report.say(figures=self.figures, verdict=verdict.to_json())
        return verdict

    def _add(self, candidate: Path, verdict: Verdict, *, finished: bool) -> ModelVersion:
        self.gate.write_operating_points(candidate, parent=self.parent.version)
        return self.registry.add(
            candidate,
            origin="training",
            parent=self.parent.version,
            verdict=verdict.word,
            details={
                "settings": asdict(self.asked),
                **self.counts,
                "finished": finished,
                "gate": self.figures[-1],
            },
        )

    def _publish(self, version: ModelVersion, verdict: Verdict) -> None:
        reason = f"publish: {self.asked.publish}; {verdict.word}"
        try:
            self.registry.publish(
                version.version, reason=reason, over=self.figures[-1]["champion_version"]
            )
        except Overtaken as error:  # a person has chosen another version meanwhile
            logger.warning("%s", error)
            return
        self.published.append(version.version)
        self.report.say(version=version.version, sha256=version.sha256, published=True)
