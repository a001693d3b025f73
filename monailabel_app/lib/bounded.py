"""A folder of files that can be had again: only so many bytes, the longest unused goes first."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path


class BoundedFolder:
    """The files of one folder that match a pattern, besides those that stay. Safe between threads.

    Processes may share it: each makes room when what it knows of is too much.
    """

    def __init__(
        self,
        folder: Path,
        pattern: str,
        *,
        most_bytes: int,
        in_use_seconds: float = 0,
        stays: Callable[[], Collection[Path]] = tuple,
    ) -> None:
        """At most `most_bytes` are kept of the files that `stays` does not name, which never go.

        Nor do files that were used less than `in_use_seconds` ago.
        """
        self._folder, self._pattern, self._most = folder, pattern, most_bytes
        self._in_use_seconds, self._stays = in_use_seconds, stays
        self._lock = threading.Lock()
        self._bytes = sum(size for _, size, _ in self._files())  # of all; what stays is told later

    def used(self, file: Path) -> None:
        """Somebody reads the file now. Its time of change stays, since content is known by it."""
        with suppress(OSError):  # another process was quicker
            os.utime(file, ns=(time.time_ns(), file.stat().st_mtime_ns))

    def added(self, file: Path) -> None:
        """The file has just been written."""
        with self._lock:
            with suppress(OSError):
                self._bytes += file.stat().st_size
            if self._bytes > self._most:
                self._make_room()

    def _make_room(self) -> None:
        """Down to nine tenths."""
        stays = set(self._stays())
        files = sorted(row for row in self._files() if row[2] not in stays)
        self._bytes = sum(size for _, size, _ in files)
        if self._bytes <= self._most:
            return
        latest = time.time_ns() - int(self._in_use_seconds * 1e9)
        for used, size, file in files:
            if self._bytes <= 0.9 * self._most or used > latest:
                return
            file.unlink(missing_ok=True)
            self._bytes -= size

    def _files(self) -> list[tuple[int, int, Path]]:
        """Last use in ns, size and path of each."""
        found = []
        for file in self._folder.glob(self._pattern):
            with suppress(OSError):  # another process was quicker
                stat = file.stat()
                found.append((max(stat.st_atime_ns, stat.st_mtime_ns), stat.st_size, file))
        return found
