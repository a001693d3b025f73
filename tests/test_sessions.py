"""Images that were sent for a while go when their time is over, whatever happened meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from monailabel_app.lib.sessions import Sessions


def begin(sessions: Sessions, folder: Path, name: str) -> str:
    (folder / name).write_bytes(b"image")
    session_id, _ = sessions.add_session(str(folder / name))
    return str(session_id)


def test_what_a_kill_cut_off_neither_stays_nor_keeps_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    before = Sessions(folder)
    whole, emptied, listed = (begin(before, tmp_path, name) for name in ("a", "b", "c"))
    (folder / emptied / "meta.info").write_bytes(b"")
    (folder / listed / "meta.info").write_bytes(b"[1]")
    (folder / "no-meta").mkdir()

    after = Sessions(folder)  # the next start, where nobody has begun a session yet
    assert after, "MONAI Label clears nothing away where this is false"
    assert after.get_session(emptied) is None and after.get_session(listed) is None
    assert after.get_session(whole) is not None
    assert after.remove_expired() == 0
    long_ago = time.time() - 2 * 3600
    for name in (emptied, listed, "no-meta"):
        os.utime(folder / name, (long_ago, long_ago))
    assert after.remove_expired() == 3
    assert [place.name for place in folder.iterdir()] == [whole]


def test_the_last_use_is_written_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    session_id = begin(Sessions(folder), tmp_path, "a")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        Sessions(folder).get_session(session_id)
    monkeypatch.undo()
    assert Sessions(folder).get_session(session_id) is not None
