"""The bar that a command shows on the terminal while it works."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftmtl.crossval.run import Standing
    from ftmtl.training.loop import Progress


class ProgressBar:
    """One bar for whatever the command is at."""

    def __enter__(self) -> ProgressBar:
        from tqdm import tqdm

        # In a log file a line every half minute is enough.
        interval = 0.2 if sys.stderr.isatty() else 30
        self.bar = tqdm(unit="step", dynamic_ncols=True, mininterval=interval, leave=False)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def training(self, progress: Progress) -> None:
        """Stage, epoch, losses; tqdm adds the time left of the epoch, we that of the run."""
        losses = " ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        left = "" if progress.seconds_left is None \
            else f", {progress.seconds_left / 60:.0f} min left"
        if progress.stage_number:
            where = f"{progress.stage} ({progress.stage_number}/{progress.stages})" \
                f" epoch {progress.epoch}/{progress.epochs}{left}"
        else:
            where = progress.stage
        self._show(progress.step, progress.steps, where, losses)

    def files(self, done: int, total: int, path: Path) -> None:
        """Which file of how many is being read."""
        self._show(done, total, "reading", path.name)

    def experiment(self, standing: Standing) -> None:
        """The share of all folds' work; tqdm adds the time left of all."""
        where = f"{standing.done} of {standing.jobs} folds done" if standing.jobs else "crossval"
        self._show(round(1000 * standing.share), 1000, where, standing.words)

    def part(self, name: str) -> None:
        """What is being timed; how many parts there are is not known."""
        self.bar.set_description(f"timing {name}")

    def _show(self, done: int, total: int, where: str, detail: str) -> None:
        if done < self.bar.n or self.bar.total != total:
            self.bar.reset(total=total)
        self.bar.set_description(where, refresh=False)
        self.bar.set_postfix_str(detail, refresh=False)
        self.bar.update(done - self.bar.n)
