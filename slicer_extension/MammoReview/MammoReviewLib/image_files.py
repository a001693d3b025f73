"""Mammograms on this computer while they are read: a folder of the session's, never many."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "mammoreview-"
KEPT = 20  # those read last: going back to one of them is at once
LEFT_BEHIND_SECONDS = 24 * 3600.0


class ImageFiles:
    """`folder` is deleted by `close`; one that a crash left behind goes a day later."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        for other in self.folder.parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if time.time() - other.stat().st_mtime > LEFT_BEHIND_SECONDS:
                    shutil.rmtree(other, ignore_errors=True)

    def forget_old(self) -> None:
        """Deletes all but those read last; one that is in use stays where the system says so."""
        with contextlib.suppress(OSError):
            files = [file for file in self.folder.iterdir() if not file.name.startswith(".")]
            for file in sorted(files, key=lambda file: file.stat().st_mtime)[:-KEPT]:
                with contextlib.suppress(OSError):
                    file.unlink()

    def close(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
