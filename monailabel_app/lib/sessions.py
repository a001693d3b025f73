"""Images that a client sends for a while, without adding them to the list: MONAI Label's sessions.

Its own stop being cleared away, for good, at the first one whose file a kill or a full disk cut
off; and after a restart those of before stay until somebody begins another.
"""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from monailabel.utils.sessions import SessionInfo
from monailabel.utils.sessions import Sessions as MonaiLabelSessions

from ftmtl.atomic import atomic_write

logger = logging.getLogger(__name__)

LONGEST = 3600  # seconds after its last use


class Sessions(MonaiLabelSessions):  # type: ignore[misc]
    """The sessions below one folder; what is cut off is as if it had expired."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), LONGEST)
        self._folder = folder

    def __bool__(self) -> bool:
        # MONAI Label clears "no sessions" never; those on the disk are known when they are used.
        return True

    def get_session(
        self, session_id: str, update_ts: bool = True, fetch_cache: bool = True
    ) -> SessionInfo | None:
        """A session; None where there is none, or it is not whole."""
        try:
            return super().get_session(session_id, update_ts, fetch_cache)
        except (ValueError, TypeError, AttributeError) as error:
            logger.warning("A session is not whole: %s", type(error).__name__)
            return None

    def remove_expired(self) -> int:
        """Removes what was not used for its time. Returns how many there were."""
        removed = 0
        for place in self._folder.iterdir():
            if place.is_dir() and time.time() > self._end(place):
                self.pop(place.name, None)
                shutil.rmtree(place, ignore_errors=True)
                removed += 1
        return removed

    def _write_meta_info(self, session_id: str, session_info: SessionInfo) -> None:
        with atomic_write(self._folder / session_id / "meta.info") as stream:
            stream.write(session_info.to_str().encode())

    def _end(self, place: Path) -> float:
        info: Any = self.get_session(place.name, update_ts=False, fetch_cache=False)
        if info is not None:
            return float(info.last_access_ts + info.expiry)
        try:
            return place.stat().st_mtime + LONGEST  # it may be on its way in at this moment
        except FileNotFoundError:
            return float("inf")
