"""The table that the next image is chosen from: figures and features of all images, by version.

    tables/<sha256 of the weights>.npz

A row comes from a reading. When another version goes into service a new table is begun, and the
old one serves until the new one knows as many images.
"""

from __future__ import annotations

import logging
import threading
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftmtl.active import FEATURES, FIGURES, FIGURES_EDITION, Figures, Work
from ftmtl.atomic import atomic_write
from ftmtl.core_set import CoreSet
from ftmtl.reading import READING_EDITION

logger = logging.getLogger(__name__)

MOST_TABLES = 3  # kept on disk


class Table:
    """The rows of one version. Safe between threads."""

    def __init__(self, model: str, version: str) -> None:
        self.model, self.version = model, version  # sha256, name
        self._lock = threading.Lock()
        self._index: dict[str, int] = {}
        self._digests: list[str] = []
        self._figures = np.zeros(64, FIGURES)
        self._features = np.zeros((64, FEATURES), np.float32)
        self._core_set = CoreSet()
        self.changed = False

    def __len__(self) -> int:
        return len(self._index)

    def put(
        self, image: str, digest: str, figures: Figures, features: NDArray[np.float32]
    ) -> None:
        """Sets an image's row; a disagreement that is known stays where the new row has none."""
        with self._lock:
            at = self._index.get(image)
            if at is None:
                at = len(self._digests)
                if at == len(self._figures):
                    self._figures = np.concatenate([self._figures, np.zeros(at, FIGURES)])
                    self._features = np.concatenate([self._features, np.zeros_like(self._features)])
                self._digests.append(digest)
            elif self._digests[at] == digest and np.isnan(figures["disagreement"]):
                figures = figures.copy()
                figures["disagreement"] = self._figures[at]["disagreement"]
            self._digests[at] = digest
            self._figures[at] = figures
            if not np.array_equal(self._features[at], features):
                self._features[at] = features
                self._core_set.forget(at)
            # Last: `figures` and `knows` wait for no lock, and find here only a row that is whole.
            self._index[image] = at
            self.changed = True

    def knows(self, image: str, digest: str | None = None) -> bool:
        """Whether there is a row of the image (of that content)."""
        at = self._index.get(image)
        return at is not None and (digest is None or self._digests[at] == digest)

    def figures(self, image: str) -> Figures | None:
        """The row of an image; constant-time."""
        at = self._index.get(image)
        return None if at is None else self._figures[at].copy()

    def work(self, free: Iterable[str], done: Iterable[str]) -> tuple[Work, list[str]]:
        """What the strategies are given, and the images that its rows stand for."""
        with self._lock:
            rows = len(self._digests)
            chosen, finished = (
                np.array([self._index[i] for i in images if i in self._index], dtype=np.int64)
                for images in (free, done)
            )
            return (
                Work(
                    self._figures[:rows], self._features[:rows], chosen, finished, self._core_set
                ),
                list(self._index),
            )

    def save(self, file: Path) -> None:
        """Writes it, whole or not at all. Raises OSError."""
        with self._lock:
            rows = len(self._digests)
            arrays = {
                "model": np.array([self.model, self.version]),
                "images": np.array(list(self._index), dtype=np.str_),
                "digests": np.array(self._digests, dtype=np.str_),
                "figures": self._figures[:rows].copy(),
                "features": self._features[:rows].copy(),
            }
            self.changed = False
        with atomic_write(file) as stream:
            np.savez(stream, **arrays)

    @classmethod
    def load(cls, file: Path) -> Table:
        """What `save` wrote. Raises ValueError, OSError."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                table = cls(*arrays["model"].tolist())
                images, digests = arrays["images"].tolist(), arrays["digests"].tolist()
                figures, features = arrays["figures"], arrays["features"]
        except (KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{file}: not a table ({error})") from error
        whole = len(images) == len(digests) == len(figures) == len(features)
        if not whole or figures.dtype != FIGURES or features.shape[1:] != (FEATURES,):
            raise ValueError(f"{file}: not a table of this program")
        if images:
            table._index = {image: at for at, image in enumerate(images)}
            table._digests, table._figures, table._features = digests, figures, features
        return table


@dataclass(frozen=True)
class Serving:
    """The table that answers now; `older` where it is not yet that of the model in service."""

    table: Table
    older: bool


class Tables:
    """The table of the version in service, and the one before while that is being filled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._current: Table | None = None
        self._before: Table | None = None

    def current(self, model: str, version: str) -> Table:
        """The table of the weights `model` (SHA-256), from disk or begun now."""
        with self._lock:
            table = self._current
            if table is None or table.model != model:
                if table is None:
                    self._before = self._newest_but(model)
                elif self._before is None or len(table) >= len(self._before):
                    self._before = table
                table = self._current = self._load(self._file(model)) or Table(model, version)
            return table

    def serving(self, model: str, version: str) -> Serving:
        """The table to choose from: the older one until the new one knows as many images."""
        current = self.current(model, version)
        before = self._before
        if before is not None and before.model != model and len(before) > len(current):
            return Serving(before, older=True)
        return Serving(current, older=False)

    def filled(self) -> None:
        """The current table knows all images there are: the older one has had its day."""
        self._before = None

    def save(self) -> None:
        """Keeps the current table for the next start, if it has changed. Raises OSError."""
        table = self._current
        if table is not None and table.changed:
            table.save(self._file(table.model))
            for file in self._files()[:-MOST_TABLES]:
                file.unlink(missing_ok=True)

    def _newest_but(self, model: str) -> Table | None:
        others = [file for file in self._files() if file != self._file(model)]
        return self._load(others[-1]) if others else None

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("[!.]*.npz"), key=lambda file: file.stat().st_mtime_ns)

    def _file(self, model: str) -> Path:
        # Readings of a new kind begin a new table, and so do figures that mean something new.
        return self._folder / f"{model[:16]}-{READING_EDITION}-{FIGURES_EDITION}.npz"

    def _load(self, file: Path) -> Table | None:
        try:
            return Table.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.warning("A table is made anew: %s", error)
            return None
