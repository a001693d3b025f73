"""How good the model in service is on what the readers of this server have labelled.

Every scoring is a row of `scores.json`, the history that `/info/` shows. Its figures rest on images
that did not teach the model; those that did stand apart, in `taught`, since a model looks better
on them than it is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from filelock import FileLock
from monailabel.interfaces.tasks.scoring import ScoringMethod

from ftmtl.atomic import write_json
from ftmtl.datasets.coco import to_coco
from ftmtl.datasets.labels import FINAL, read_labels
from ftmtl.datasets.records import ImageRecord
from ftmtl.evaluation.agreement import agreement
from ftmtl.evaluation.evaluate import evaluate
from ftmtl.evaluation.inputs import parse_predictions, parse_truth
from ftmtl.evaluation.matching import CRITERIA, FALSE_POSITIVE, match
from ftmtl.predict import SCORE_FLOOR
from ftmtl.predict_files import coco_results

from .background import Job, Steps
from .datastore import MammogramStore
from .files import set_aside
from .infer import FindMasses, listed
from .models import ModelRegistry, ModelVersion
from .stamps import now

FPI = ("0.3", "1", "3.67")
THRESHOLDS = [round(0.05 * step, 2) for step in range(1, 20)]
MOST_ROWS = 200  # the latest that `/info/` shows


class ScoreHistory:
    """The rows, oldest first, in one file; safe between threads and processes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = FileLock(f"{file}.lock")
        self._guard = threading.Lock()
        self._seen: tuple[int, list[dict[str, Any]]] = (0, [])

    def rows(self) -> list[dict[str, Any]]:
        """All rows; constant-time unless one was added. A damaged file is set aside."""
        try:
            with self._guard:
                changed = self._file.stat().st_mtime_ns
                if self._seen[0] != changed:
                    self._seen = (changed, self._read())
                return list(self._seen[1])
        except FileNotFoundError:
            return []

    def _read(self) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = json.loads(self._file.read_text(encoding="utf-8"))
            for row in rows:
                row["sha256"], row["labels"]
            return rows
        except (ValueError, TypeError, KeyError) as error:
            set_aside(self._file, error)
            return []

    def shown(self) -> list[dict[str, Any]]:
        """The latest rows without the names of their images."""
        hidden = ("unseen_images", "taught_images")
        return [{k: v for k, v in r.items() if k not in hidden} for r in self.rows()[-MOST_ROWS:]]

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row; one of the same version and the same labels takes the place of the last.

        Raises OSError.
        """
        with self._lock:
            rows = self.rows()
            if rows and all(rows[-1][k] == row[k] for k in ("sha256", "labels")):
                rows.pop()
            write_json(self._file, [*rows, row])


def score(infer: FindMasses, store: MammogramStore, history: ScoreHistory, job: Job) -> Steps:
    """Scores the version in service, an image a step. Returns the row; 409 without any label."""
    predictor = infer.predictor(infer.device)
    version = infer.registry.get(predictor.model.version)
    records, damaged = read_labels(store.workspace, images=store.labelled_files())
    if not records:
        raise HTTPException(409, "There is no label to score the model against yet")
    job.total = len(records)
    results: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        image = str(record.image_id)
        try:
            reading, info, known = infer.recall(predictor, listed(store, image))
            job.cached += known
            findings = predictor.findings(reading, info, threshold=SCORE_FLOOR)
            results[image] = coco_results(findings, image)
        except HTTPException as error:
            job.fail(image, str(error.detail))
        job.done += 1
        yield
    since = taught_since(infer.registry, version)
    sides = store.sides.all()
    # Of all labels that there ever were: one that was withdrawn since, or whose film has gone, has
    # taught the patient's other films all the same.
    labelled = {str(v.image["patient_key"]) for v in store.labels.records(FINAL) if v.time < since}
    taught = {patient for patient in labelled if sides.get(patient) != "validation"}
    read = [r for r in records if r.image_id in results]
    parts = {
        "unseen": [r for r in read if r.patient_id not in taught],
        "taught": [r for r in read if r.patient_id in taught],
    }
    threshold = predictor.default_threshold
    row = {
        "version": version.version,
        "sha256": version.sha256,
        "time": now(),
        "rests_on": "images that did not teach this version",
        **_figures(parts["unseen"], results, threshold),
        "taught": _figures(parts["taught"], results, threshold),
        "left_out": len(damaged) + job.failed,
        "labels": _labels(store),
        **{f"{part}_images": [r.image_id for r in rows] for part, rows in parts.items()},
    }
    history.add(row)
    return {k: v for k, v in row.items() if k != "labels"}


class ScoreModel(ScoringMethod):  # type: ignore[misc]
    """What MONAI Label's own launcher runs, in a process of its own, for `/scoring`."""

    def __init__(self, infer: FindMasses, history: ScoreHistory) -> None:
        super().__init__("The version in service against the final labels of this server")
        self._infer, self._history = infer, history

    def __call__(self, request: dict[str, Any], datastore: MammogramStore) -> dict[str, Any]:
        """Scores to the end. Returns the row."""
        job = Job("scoring", {})
        steps = score(self._infer, datastore, self._history, job)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            return dict(end.value)


def taught_since(registry: ModelRegistry, version: ModelVersion) -> str:
    """Labels older than this time may have taught `version`; empty where none did."""
    versions = {v.version: v for v in registry.versions()}
    ancestor: ModelVersion | None = version
    while ancestor is not None:
        if ancestor.origin == "training":
            return ancestor.time
        ancestor = versions.get(ancestor.parent or "")
    return ""


def is_due(infer: FindMasses, store: MammogramStore, history: ScoreHistory) -> bool:
    """Whether the version in service was never scored, and there is something to score it on."""
    version = infer.in_service()
    scored = any(row["sha256"] == version.sha256 for row in history.rows())
    return not scored and bool(store.get_labeled_images())


def _labels(store: MammogramStore) -> dict[str, int]:
    """Which version of which label was scored against."""
    present = {image: store.labels.current(image) for image in store.labels.labelled()}
    return {image: label.version for image, label in sorted(present.items()) if label is not None}


def _figures(
    records: Sequence[ImageRecord], results: dict[str, list[dict[str, Any]]], threshold: float
) -> dict[str, Any]:
    """The figures over some images; None, with the reason, where there is nothing to tell."""
    none: dict[str, Any] = {
        "images": 0, "masses": 0, "tpr": dict.fromkeys(FPI), "auc_mass": None, "auc_image": None,
        "dice": None, "dice_all": None, "fpi_by_threshold": [], "agreement": None,
        "reasons": {"images": "there is no such image"},
    }
    if not records:
        return none
    coco = to_coco(records)
    predictions = [entry for r in records for entry in results[str(r.image_id)]]
    whole = evaluate(coco, predictions, bootstraps=0)
    truth = parse_truth(coco)
    settled = parse_predictions(predictions, truth)
    false = settled.score[match(truth, settled, CRITERIA["iou>0.2"]) == FALSE_POSITIVE]
    searched = int(truth.searched_image.sum())
    shown_as = np.array([entry["category_id"] for entry in predictions], dtype=np.int64)
    found, ranked, drawn = (
        whole["detection"]["iou>0.2"], whole["classification"], whole["segmentation"]
    )
    wanted = {"auc_mass_all", "auc_image", "dice_detected", "dice_all", *FPI}
    reasons = {**found["reasons"], **ranked["reasons"], **drawn["reasons"]}
    return {
        "images": whole["images"],
        "masses": whole["masses"],
        "tpr": {rate: found["tpr_at_fpi"][rate] for rate in FPI},
        "auc_mass": ranked["auc_mass_all"],
        "auc_image": ranked["auc_image"],
        "dice": drawn["dice_detected"],
        "dice_all": drawn["dice_all"],
        "fpi_by_threshold": [
            [t, float((false >= t).sum()) / searched, searched] for t in THRESHOLDS if searched
        ],
        "agreement": agreement(truth, settled, shown_as, threshold),
        "reasons": {key: reason for key, reason in reasons.items() if key in wanted},
    }
