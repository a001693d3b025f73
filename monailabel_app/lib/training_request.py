"""What a training is asked to do, checked before it begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fastapi import HTTPException

from ftmtl.config import Preset, Stage

from .question import check_device

STAGES = {
    "proposals": Stage(name="proposals", trains=("rpn",), minimises=("proposal",), epochs=1,
                       learning_rate=0.001),
    # By Adam, as the shipped heads were made: SGD at a rate that moves one layer upsets another.
    # At 0.001 what they knew of real films suffers (docs/experiments/retraining.md).
    "heads": Stage(name="heads", trains=("heads",), minimises=("unified",), epochs=1,
                   optimizer="adamw", learning_rate=3e-4, refined_rois=True),
    "together": Stage(
        name="together",
        trains=("backbone", "rpn", "heads"),
        minimises=("proposal", "unified"),
        epochs=1,
        learning_rate=0.001,
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
    learning_rate: float | None = None  # None: each stage's own
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
        if asked.get("learning_rate") == "auto":
            del asked["learning_rate"]
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
            known = isinstance(names, list) and all(n in tuple(STAGES) for n in names)
            if not known or not names:
                if names != ["auto"]:
                    raise HTTPException(400, f"stages is auto or a list of {', '.join(STAGES)}")
                names = ()
            asked["stages"] = tuple(names)
        if asked.get("publish", "gate") not in PUBLISH:
            raise HTTPException(400, f"publish is {' or '.join(PUBLISH)}")
        asked["device"] = check_device(asked.get("device") or device)
        return cls(**asked)

    def _stage(self, name: str) -> Stage:
        rate = self.learning_rate or STAGES[name].learning_rate
        return replace(STAGES[name], epochs=self.max_epochs, learning_rate=rate)

    def preset(self, preset: Preset, images: int) -> Preset:
        """The recipe of the weights that training begins from, for this request."""
        names = self.stages or (("heads",) if images < FEW_IMAGES else ("together",))
        batch = preset.training.batch_size
        steps = self.steps or max(1, -(-images // batch))
        return replace(
            preset,
            # Background that is new to a network teaches it in the first steps to draw less of
            # everything (docs/training.md): here masses alone teach masks.
            targets=replace(preset.targets, masks_on="positives"),
            training=replace(
                preset.training,
                stages=tuple(self._stage(name) for name in names),
                steps_per_epoch=steps,
                warmup_steps=min(preset.training.warmup_steps, steps * self.max_epochs // 10),
            ),
        )
