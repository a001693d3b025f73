"""What each version of the model saw in each image: kept on disk, so that it is asked once.

    readings/<sha256 of the weights>/<sha256 of the image>.npz

The key is the content of both files, so that a renamed image is known, a changed one is not, and
nothing ever has to be taken back. The folder is bounded: what was not used for longest goes first.
A file that is damaged is forgotten, and its image is read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from pathlib import Path

from ftmtl.atomic import write_json
from ftmtl.digest import sha256_of
from ftmtl.reading import READING_EDITION, DamagedReading, Reading

from .bounded import BoundedFolder

logger = logging.getLogger(__name__)

MOST_BYTES = 2 << 30


class Readings:
    """The readings below one folder; safe between threads, and processes may share them."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._bounded = BoundedFolder(folder, "*/*.npz", most_bytes=most_bytes)

    def get(self, model: str, image: str) -> Reading | None:
        """What the weights `model` saw in the content `image` (both SHA-256); None if unknown."""
        file = self._file(model, image)
        try:
            reading = Reading.load(file)
            self._bounded.used(file)
        except FileNotFoundError:
            return None
        except DamagedReading as error:
            logger.warning("%s; the image is read again", error)
            file.unlink(missing_ok=True)
            return None
        except OSError:
            return None
        return reading

    def put(self, model: str, image: str, reading: Reading) -> None:
        """Keeps a reading. A full disk costs time later, not the answer now."""
        file = self._file(model, image)
        try:
            file.parent.mkdir(exist_ok=True)
            reading.save(file)
        except OSError as error:
            logger.warning("A reading could not be kept: %s", error)
            return
        self._bounded.added(file)

    def _file(self, model: str, image: str) -> Path:
        # After an update of the program the same weights may see something else.
        return self._folder / f"{model[:16]}-{READING_EDITION}" / f"{image}.npz"


class Digests:
    """The SHA-256 of files, computed once for each path, time and size.

    A path may hold a patient's name: what is kept on disk is its hash.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._news = False
        self._known: dict[str, tuple[int, int, str]] = {}  # hash of the path -> time, size, digest
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
            self._known = {name: (int(t), int(s), str(d)) for name, (t, s, d) in rows.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("The digests of the images are computed anew: %s", error)

    def of(self, path: Path, listed_as: tuple[int, int] | None = None) -> str:
        """The digest of a file's content. Raises OSError.

        `listed_as`: its time in ns and its size by a list. If these are known, it is not looked at.
        """
        name = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:32]
        known = self._known.get(name)
        if known is not None and known[:2] == listed_as:
            return known[2]
        stat = path.stat()
        if known is not None and known[:2] == (stat.st_mtime_ns, stat.st_size):
            return known[2]
        digest = sha256_of(path)
        with self._lock:
            self._known[name] = (stat.st_mtime_ns, stat.st_size, digest)
            self._news = True
        return digest

    def save(self) -> None:
        """Keeps them for the next start, if there are new ones. Raises OSError."""
        with self._lock:
            if not self._news:
                return
            rows = dict(self._known)
            self._news = False
        write_json(self._file, rows)
