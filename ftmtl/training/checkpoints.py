"""The state of a training run on disk: complete, atomic, of plain tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ftmtl.atomic import atomic_write

FILE = "checkpoint.pt"


class UnusableCheckpoint(ValueError):
    """A checkpoint that cannot be resumed; names the file, the reason and the remedy."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replace the run's checkpoint in one step; a kill leaves the old or the new one."""
    with atomic_write(folder / FILE) as stream:
        torch.save(state, stream)


def load_checkpoint(folder: Path, *, identity: str) -> dict[str, Any] | None:
    """The run's last state, None if there is none.

    `identity` stands for the recipe and the images; UnusableCheckpoint if the state is of others.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch meets damaged bytes with errors of every class
        raise UnusableCheckpoint(
            f"{file}: not a checkpoint ({error}). Remove it or train into another folder"
        ) from error
    if state.get("identity") != identity:
        raise UnusableCheckpoint(
            f"{file}: made with other images or another recipe. "
            "Resume with the same, or train into another folder"
        )
    return state
