"""What `/info/` says, in the panel's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .client import MODEL

THRESHOLD_WITHOUT_FIGURES = 0.5  # the server's own, for weights without held-out figures
FLOOR_WITHOUT_FIGURES = 0.05
FLOOR_SHARE = 0.5  # the slider goes down to this share of the 3.67-FPI point


@dataclass(frozen=True)
class Training:
    """Where the last training stands; state: "" (none yet) | running | done | failed | stopped."""

    state: str = ""
    stage: str = ""
    stage_number: int = 1
    stages: int = 1
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict, hash=False)
    seconds_left: float | None = None
    images: int = 0
    masses: int = 0
    version: str | None = None
    published: bool = False
    reason: str = ""
    verdict: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def share(self) -> float | None:
        """How much is done, 0 to 1; None while nothing can be said of it."""
        if not self.epochs or not self.steps:
            return None
        epochs = max(self.epoch - 1, 0) + min(self.step / self.steps, 1)
        stages = max(self.stage_number - 1, 0) + min(epochs / self.epochs, 1)
        return min(stages / max(self.stages, 1), 1.0)


class ServerInfo:
    """One answer of `/info/`; what it lacks is empty."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._model = _dict(_dict(document.get("models")).get(MODEL))
        self._metadata = _dict(self._model.get("metadata"))

    @property
    def has_model(self) -> bool:
        """It serves our model: it is a MammoReview server."""
        return bool(self._model)

    @property
    def model_version(self) -> str:
        """The version in service."""
        return str(self._model.get("version") or "")

    @property
    def malignant_means(self) -> str:
        """What "malignant" meant in the data that the model learned from."""
        return str(self._metadata.get("malignant_means") or "")

    @property
    def takes_birads(self) -> bool:
        """A label's findings may have a BI-RADS; servers of before it refuse such labels."""
        return "birads" in _list(self._document.get("label_fields"))

    @property
    def strategies(self) -> dict[str, str]:
        """The ways to choose the next image, with a description each."""
        rows = _dict(self._document.get("strategies"))
        return {name: str(_dict(row).get("description", name)) for name, row in rows.items()}

    @property
    def counts(self) -> tuple[int, int]:
        """Images, and how many of them are labelled."""
        store = _dict(self._document.get("datastore"))
        return int(store.get("total") or 0), int(store.get("completed") or 0)

    @property
    def versions(self) -> list[dict[str, Any]]:
        """All versions of the model, oldest first: version, origin, time, verdict, in_service."""
        return _list(self._model.get("versions"))

    @property
    def refused(self) -> frozenset[str]:
        """Versions that the gate found worse and that never served: the server takes none back."""
        served = {str(row.get("version")) for row in _list(self._model.get("publications"))}
        worse = (str(v.get("version")) for v in self.versions if v.get("verdict") == "worse")
        return frozenset(worse) - served

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The history of scores, oldest first, a row for each version scored."""
        return _list(self._model.get("scores"))

    @property
    def training(self) -> Training:
        """Where the last training stands."""
        stats = _dict(_dict(self._document.get("train_stats")).get(MODEL))
        known = {k: v for k, v in stats.items() if k in Training.__dataclass_fields__}
        return Training(**{k: v for k, v in known.items() if v is not None})

    @property
    def training_defaults(self) -> dict[str, Any]:
        """The settings of a training with their defaults; a list is a choice, its first default."""
        return _dict(_dict(_dict(self._document.get("trainers")).get(MODEL)).get("config"))

    # Thresholds

    @property
    def threshold(self) -> float:
        """The score at one false positive an image: where the slider starts."""
        return float(self._points().get("1", THRESHOLD_WITHOUT_FIGURES))

    @property
    def floor(self) -> float:
        """The score from which findings are asked for: the lower end of the slider."""
        points = self._points().values()
        return FLOOR_SHARE * min(points) if points else FLOOR_WITHOUT_FIGURES

    def false_positives(self, threshold: float) -> tuple[float, int | None] | None:
        """False positives an image from that score on, and how many images that rests on.

        From the server's own scoring of the version in service, else (number of images unknown)
        from the held-out figures that its weights carry. None where neither says anything.
        """
        rows = [row for row in self.scores if str(row.get("version")) == self.model_version]
        curve = _list(rows[-1].get("fpi_by_threshold")) if rows else []
        if curve:
            # Between two of its points the lower one speaks: never fewer than there are.
            below = [point for point in sorted(curve) if point[0] <= threshold + 1e-9]
            _at, fpi, images = below[-1] if below else min(curve)
            return float(fpi), int(images)
        points = sorted((score, float(fpi)) for fpi, score in self._points().items())
        between = list(zip(points, points[1:]))
        for (low, many), (high, few) in between:
            if low <= threshold <= high:
                share = (threshold - low) / (high - low) if high > low else 0.0
                return many + share * (few - many), None
        return None

    def _points(self) -> dict[str, float]:
        points = _dict(self._metadata.get("operating_points"))
        return {str(fpi): float(score) for fpi, score in points.items() if _is_number(score)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
