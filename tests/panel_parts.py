"""What stands in for Slicer's main thread and label files where the panel is tested without it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from MammoReviewLib.findings import Findings, ImageInfo, InvalidFindings
from MammoReviewLib.jobs import Jobs

from ftmtl import findings as server
from ftmtl.label_file import UnreadableLabel, read_label_file, write_label_file


class HandTimer:
    """A timer that only `wait` below makes tick: the test's thread is the main thread."""

    def start(self, milliseconds: int, callback: Callable[[], None]) -> None:
        self.tick = callback

    def stop(self) -> None:
        self.tick = lambda: None


class ServerLabelFiles:
    """Label files as the server's own code writes and reads them."""

    def write(self, findings: Findings, file: Path) -> None:
        write_label_file(file, server.Findings.from_json(findings.to_json()))

    def read(self, file: Path, image: ImageInfo) -> Findings:
        try:
            read = read_label_file(file, image=server.ImageInfo(**vars(image)))
        except UnreadableLabel as error:
            raise InvalidFindings(str(error)) from error
        return Findings.from_json(read.to_json())


def wait(jobs: Jobs, until: Callable[[], object], seconds: float = 120) -> None:
    """Runs the main thread's timer until something holds."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it never came"
        jobs.pump()
        time.sleep(0.005)
