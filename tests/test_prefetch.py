"""Work done ahead: in order, bounded, over when nobody takes it; a folder in flat memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_files
from ftmtl.prefetch import ahead


def test_items_come_in_order_while_the_next_are_made() -> None:
    started: list[int] = []
    gate = threading.Event()

    def prepare(number: int) -> int:
        started.append(number)
        if number == 1:
            assert gate.wait(20)  # 2 is ready long before 1
        return number * number

    taken = ahead(prepare, range(5), depth=2)
    assert next(taken) == 0
    while 2 not in started:
        time.sleep(0.001)
    gate.set()
    assert list(taken) == [1, 4, 9, 16]


def test_no_more_than_the_depth_is_made_ahead() -> None:
    """Whoever takes is slow: what is ready must wait for it, not pile up."""
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            asked.append(number)
            yield number

    for number in ahead(lambda item: item, items(), depth=3):
        time.sleep(0.002)
        assert len(asked) <= number + 4


def test_an_error_comes_in_its_place_and_ends_the_work() -> None:
    def prepare(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    seen = []
    with pytest.raises(ValueError, match="three"):
        for number in ahead(prepare, range(1000)):
            seen.append(number)
    assert seen == [0, 1, 2]
    assert not [t for t in threading.enumerate() if t.name.startswith("ahead")]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_thousand_films_take_no_more_memory_than_a_hundred(
    untrained: Path, samples: Path, tmp_path: Path
) -> None:
    """Sample films under many names: a thousand files are opened, decoded and read."""
    films = []
    for sample in samples.glob("*.dcm"):
        film = pydicom.dcmread(sample)
        film.SOPInstanceUID = ""  # each name is then an image of its own
        films.append(tmp_path / sample.name)
        film.save_as(films[-1])
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number:04}.dcm").symlink_to(films[number % len(films)])
    resident: list[float] = []

    def note(done: int, total: int, path: Path) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    report = predict_files(Predictor.load(untrained, device="cpu"), [folder], tmp_path / "out",
                           on_file=note)
    assert report.read == len(resident) == 1000
    # Megabytes. One film kept by mistake is 25, its outlines a tenth of one.
    assert max(resident[900:]) < max(resident[:100]) + 40
