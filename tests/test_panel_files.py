"""Mammograms on the reader's computer: few of them, and none that a crash left behind."""

import os
import tempfile
import time

from MammoReviewLib.image_files import KEPT, LEFT_BEHIND_SECONDS, ImageFiles


def test_the_latest_stay_and_all_go_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = ImageFiles()
    now = time.time()
    for number in range(KEPT + 3):
        file = files.folder / f"{number}.dcm"
        file.write_bytes(b"film")
        os.utime(file, (now + number, now + number))
    files.forget_old()
    assert {int(file.stem) for file in files.folder.iterdir()} == set(range(3, KEPT + 3))
    files.close()
    assert not files.folder.exists()


def test_what_a_crash_left_goes_a_day_later(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, young, others = (tmp_path / name for name in ("mammoreview-a", "mammoreview-b", "mail"))
    for folder, age in ((old, LEFT_BEHIND_SECONDS + 60), (young, 60), (others, 10**6)):
        folder.mkdir()
        (folder / "film.dcm").write_bytes(b"film")
        os.utime(folder, (time.time() - age,) * 2)
    ImageFiles()
    assert not old.exists() and young.exists() and others.exists()
