"""A folder of files that can be had again: what stays does not count, the longest unused goes."""

import os
import time
from pathlib import Path

from monailabel_app.lib.bounded import BoundedFolder


def test_what_stays_does_not_count(tmp_path: Path) -> None:
    def put(name: str, age: float) -> Path:
        file = tmp_path / name
        file.write_bytes(bytes(100))
        os.utime(file, (time.time() - age,) * 2)
        return file

    labelled = [put(f"labelled{n}", 9000) for n in range(20)]
    folder = BoundedFolder(
        tmp_path, "*", most_bytes=1000, in_use_seconds=600, stays=lambda: labelled
    )
    for n in range(10):
        folder.added(put(f"other{n}", 5000 - n))
    assert len(list(tmp_path.glob("other*"))) == 10, "they are 1000 bytes, and so many may stay"
    folder.added(put("new", 0))
    others = sorted(file.name for file in tmp_path.glob("other*"))
    assert others == [f"other{n}" for n in range(2, 10)], "down to nine tenths"
    assert all(file.exists() for file in labelled) and (tmp_path / "new").exists()
