"""A clinic's server with real films and a reader's screen, for tests of a reading as a whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panel_screen import Screen
from serving import Server, serve

from ftmtl.samples import prepare_samples
from ftmtl.weights_file import load_weights, save_weights

SHOTS = os.environ.get("PANEL_SHOTS")  # a folder: pictures of the panel are left there


class Morning:
    """The clinic's server and the reader's screen, for all tests of this file."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder, self.weights, self.stack = folder, weights, contextlib.ExitStack()
        self.studies = folder / "studies"
        prepare_samples(self.studies)
        for file in self.studies.glob("P_00820*"):  # four views of one woman are enough here
            file.unlink()
        self.server = self.serve()
        self.screen = Screen(folder)

    def serve(self, **more: Any) -> Server:
        workspace = self.folder / "workspace"
        return self.stack.enter_context(
            serve(self.folder, self.studies, workspace=workspace, weights=self.weights, **more)
        )

    def shot(self, name: str) -> None:
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.screen.shot(Path(SHOTS) / f"{name}.png")


@contextlib.contextmanager
def quick_morning(folder: Path, untrained: Path) -> Iterator[Morning]:
    """One whose network is small and finds something on every film."""
    morning = Morning(folder, quick_weights(untrained, folder))
    yield morning
    morning.screen.close()
    morning.stack.close()


def quick_weights(untrained: Path, folder: Path) -> Path:
    """A small network that finds something on every film, with figures as if any was held out."""
    weights = load_weights(untrained)
    points = {"0.3": 0.09, "1": 0.06, "3.67": 0.02}
    file = folder / "quick.safetensors"
    metadata = {"operating_points": points, "malignant_means": "pathology"}
    save_weights(file, weights.network(), preset=weights.preset, metadata=metadata)
    return file
