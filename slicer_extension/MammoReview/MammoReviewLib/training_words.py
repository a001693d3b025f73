"""A training in words: where it stands, what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .i18n import _
from .server_info import Training


def progress(training: Training) -> str:
    """One line beside the progress bar."""
    if training.state != "running":
        return ""
    if not training.stage:
        return _("The training begins …")
    if not training.epochs:
        return _("{stage} …").format(stage=training.stage)
    line = _("{stage}: epoch {epoch} of {epochs}, step {step} of {steps}").format(**vars(training))
    if training.seconds_left is None:
        return line
    left = _("{line}, about {time} left")
    return left.format(line=line, time=duration(training.seconds_left))


def losses(training: Training) -> str:
    """The losses, averages over the last steps."""
    return "   ".join(f"{name} {value:.3f}" for name, value in training.losses.items())


def result(training: Training) -> str:
    """What came of the last training: figures before and after, and whether it is in service."""
    if training.state == "failed":
        return _("The training failed: {reason}").format(reason=training.reason)
    if training.state == "stopped":
        return _("The training was stopped; the model in service is what it was.")
    if training.state != "done":
        return ""
    learned = _("Version {version} learned from {images} images with {masses} masses.")
    in_service = _("It is in service now.") if training.published else _("It is not in service.")
    return " ".join(
        (learned.format(**vars(training)), figures(training.verdict), in_service)
    )


def figures(verdict: dict[str, Any]) -> str:
    """What the gate measured, and its word."""
    if not verdict:
        return ""
    on = _("on {images} validation images with {masses} masses").format(
        images=verdict.get("images", 0), masses=verdict.get("masses", 0)
    )
    before, after = verdict.get("champion"), verdict.get("candidate")
    if before is None or after is None:
        return _("It was not judged ({on}: too few).").format(on=on)
    than = _("the model before")
    if verdict.get("against"):  # the server's anchor, an earlier model
        than = _("version {version}").format(version=verdict["against"])
    words = {
        "better": _("better than {model}").format(model=than),
        "not worse": _("not worse than {model}").format(model=than),
        "worse": _("worse than {model}").format(model=than),
    }
    word = verdict.get("word", "")
    said = _("Before {before:.3f}, after {after:.3f} {on}{outlines}: {word}.")
    return said.format(before=before, after=after, on=on, outlines=_outlines(verdict),
                       word=words.get(word, word))


def _outlines(verdict: dict[str, Any]) -> str:
    """How they fit, which can be why a version was refused; nothing where nobody drew any."""
    measured = verdict.get("outlines")
    if not measured:
        return ""
    said = _("; outlines (Dice, {masses} drawn masses) {champion:.2f} and {candidate:.2f}")
    return said.format(**measured)


def local_time(time: str) -> str:
    """A server's time, in UTC, as this computer's clock has it."""
    try:
        moment = datetime.fromisoformat(time.replace("Z", "+00:00"))
    except ValueError:
        return time
    if moment.tzinfo is not None:
        moment = moment.astimezone()
    return f"{moment:%Y-%m-%d %H:%M}"


def duration(seconds: float) -> str:
    """A time to wait, roughly."""
    if seconds < 90:
        return _("{count:.0f} s").format(count=seconds)
    if seconds < 5400:
        return _("{count:.0f} min").format(count=seconds / 60)
    return _("{count:.1f} h").format(count=seconds / 3600)
