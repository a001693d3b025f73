"""The list of images: nothing goes missing without a word, and many requests make one look."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from monailabel_app.lib.catalogue import Catalogue, Entry
from monailabel_app.lib.folder import Folder

NOBODY = 65534


@pytest.fixture
def studies() -> Iterator[Path]:
    """A folder that another user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "studies").mkdir()
        yield Path(folder) / "studies"


def described(file: Path, root: Path) -> dict[str, Any]:
    return {"id": file.name}


def test_what_is_passed_over_is_told(studies: Path) -> None:
    for name in ("ok/a.png", "locked/b.png", "deep/locked/c.png", "shut/no_suffix"):
        (studies / name).parent.mkdir(parents=True)
        (studies / name).touch()
    elsewhere = studies.with_name("elsewhere")
    elsewhere.mkdir()
    (studies / "2024").symlink_to(elsewhere)
    (studies / "x.png").symlink_to(studies / "ok" / "a.png")  # a link to a file is that file
    (studies / ".hidden").symlink_to(elsewhere)
    locked = [studies / name for name in ("locked", "deep/locked", "shut/no_suffix")]
    for place in locked:
        place.chmod(0)
    source = Folder("studies", studies, described)
    root = os.geteuid() == 0  # whom no permission stops
    if root:
        os.seteuid(NOBODY)
    try:
        entries = {entry.path: entry for entry in source.look({})}
        again = list(source.look(entries))
    finally:
        if root:
            os.seteuid(0)
        for place in locked:
            place.chmod(0o700)
    told = {path: entry.problem or "" for path, entry in entries.items()}
    assert told.keys() == {"ok/a.png", "x.png", "2024", "locked", "deep/locked", "shut/no_suffix"}
    assert told["ok/a.png"] == told["x.png"] == ""
    assert "links are not followed" in told["2024"]
    refused = [told[str(place.relative_to(studies))] for place in locked]
    assert refused == ["it may not be read by this user. Change its permissions"] * 3
    assert all(entry is entries[entry.path] for entry in again), "it is no news a second time"
    assert {e.path for e in source.look(entries)} >= {"locked/b.png", "deep/locked/c.png"}


def test_studies_that_are_not_there_are_told(
    studies: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a network share has gone, when the list is as empty as when all is done."""
    caplog.set_level("INFO")
    for name in ("a.png", "b.png"):
        (studies / name).touch()
    source = Folder("studies", studies, described)
    catalogue = Catalogue([source], studies.parent / "images.json", stamp="x")
    assert catalogue.count() == 2 and "2 images, and 0 files" in caplog.text
    studies.rename(studies.with_name("away"))
    catalogue.refresh()
    (row,) = catalogue.left_out()
    assert "the folder of the studies is not there" in row["reason"]
    assert catalogue.count() == 0 and "0 images, and 1 files" in caplog.text
    studies.with_name("away").rename(studies)
    catalogue.refresh()
    assert catalogue.count() == 2 and not catalogue.left_out()


class Slow:
    """A place that takes a while to look through."""

    name, top, looks = "studies", Path("/nowhere"), 0

    def look(self, known: Mapping[str, Entry]) -> Iterator[Entry]:
        self.looks += 1
        time.sleep(0.3)
        yield Entry(path="a", root=self.name, changed=1, size=1, image_id="1.2", image={})

    def fetch(self, entry: Entry) -> Path:
        return self.top

    def withheld(self, entry: Entry) -> None:
        return None


def test_requests_that_come_together_make_one_look(tmp_path: Path) -> None:
    source = Slow()
    catalogue = Catalogue([source], tmp_path / "images.json", stamp="x")
    catalogue._next_look = 0.0  # the next is due
    together = [threading.Thread(target=catalogue.ids) for _ in range(8)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert source.looks == 2, "one at the start, one for all eight"
