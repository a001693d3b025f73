"""Mammograms in a PACS, by SOP instance: every view is an image of its own.

The list is kept up to date by a thread of the server; a file is brought here when somebody wants
it, and stays as long as there is room. So reading goes on while the PACS is down, with what is
here, and a start needs no PACS. An entry's path is STUDY/SERIES/INSTANCE.dcm, below the cache
folder and in the PACS alike.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from ftmtl.atomic import atomic_write
from ftmtl.mammogram import UnreadableMammogram

from .bounded import BoundedFolder
from .catalogue import Entry
from .dicomweb import UID, DicomWeb, PacsError, Unreachable
from .folder import Describe, Folder

logger = logging.getLogger(__name__)

PAUSE = 10.0  # seconds between two looks, at least
TELL_EVERY = 5.0  # seconds, while a long list is read
IN_USE_SECONDS = 600.0  # from when a file is asked for until its reader has surely opened it

# header, path -> what is known of the image; raises UnreadableMammogram
DescribeHeader = Callable[[Dataset, Path], dict[str, Any]]


class Pacs:
    """The mammograms that a DICOMweb service has; their files come into `top`."""

    name = "pacs"

    def __init__(
        self,
        client: DicomWeb,
        top: Path,
        describe: DescribeHeader,
        describe_file: Describe,
        *,
        most_bytes: int,
        stays: Callable[[], Collection[str]],
    ) -> None:
        """At most `most_bytes` are kept, besides the images that `stays` names, which teach."""
        self.client, self.top = client, top
        top.mkdir(exist_ok=True, mode=0o700)
        self._describe = describe
        self._bounded = BoundedFolder(
            top,
            "*/*/*.dcm",
            most_bytes=most_bytes,
            in_use_seconds=IN_USE_SECONDS,
            stays=lambda: self._files_of(stays()),
        )
        self._here = Folder(self.name, top, describe_file)
        self._entries: dict[str, Entry] | None = None
        self._changed_since: set[str] = set()  # series of which an instance has gone
        self._state, self._reason = "not asked yet", ""
        self._since = time.time()

    def look(self, known: Mapping[str, Entry]) -> Iterable[Entry]:
        """What is known of the PACS; it is not asked here."""
        if self._entries is None:
            # Without a list of earlier, what was fetched is known by its own header.
            self._entries = dict(known) or {e.path: e for e in self._here.look({})}
        return list(self._entries.values())

    def fetch(self, entry: Entry) -> Path:
        """An entry's file; raises PacsError where it is not here and cannot be had."""
        file = self.top / entry.path
        if not file.is_file():
            try:
                dataset = self.client.instance(entry.path.removesuffix(".dcm"))
            except Unreachable:
                raise
            except PacsError:
                self._changed_since.add(entry.path.rpartition("/")[0])
                raise
            if str(dataset.get("SOPInstanceUID")) != entry.image_id:
                raise PacsError("The PACS sent another image than it was asked for")
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as stream:
                dataset.save_as(stream)
            self._bounded.added(file)
        else:
            self._bounded.used(file)
        return file

    def _files_of(self, images: Collection[str]) -> list[Path]:
        wanted = set(images)
        return [self.top / e.path for e in (self._entries or {}).values() if e.image_id in wanted]

    def withheld(self, entry: Entry) -> str | None:
        """Why an image cannot be had now: the PACS is down, and it was never fetched."""
        if self._state == "down" and not (self.top / entry.path).is_file():
            return "the PACS does not answer, and this image was not fetched before"
        return None

    @property
    def is_up(self) -> bool:
        """Whether it answered when it was last asked; only then is the list whole."""
        return self._state == "up"

    def status(self) -> dict[str, Any]:
        """Whether the PACS answers, since when, and how many images it has."""
        return {
            "url": self.client.url,
            "state": self._state,
            "reason": self._reason,
            "seconds": round(time.time() - self._since),
            "images": sum(e.image_id is not None for e in (self._entries or {}).values()),
        }

    def watch(self, *, changed: Callable[[], None], and_then: Callable[[], None]) -> None:
        """Looks again and again, in a thread that ends with the process.

        `changed` is called whenever there is news, `and_then` after each look that succeeded.
        """

        def run() -> None:
            while True:
                began, pause = time.monotonic(), PAUSE
                try:
                    if self.sync(changed):
                        pause = max(PAUSE, 20 * (time.monotonic() - began))
                        and_then()
                except Exception:  # the next look may go well; reading goes on meanwhile
                    logger.exception("Looking through the PACS failed")
                # A long list is asked for seldom; what was down may be back at any moment.
                time.sleep(pause)

        threading.Thread(target=run, name="pacs", daemon=True).start()

    def sync(self, changed: Callable[[], None]) -> bool:
        """Takes note of what the PACS has now. Headers are read of new or changed series alone."""
        known: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        for path, entry in (self._entries or {}).items():
            known[path.rpartition("/")[0]][path] = entry
        found: dict[str, Entry] = {}
        told = time.monotonic()
        try:
            for place, count in self.client.series().items():
                entries = known.get(place, {})
                if not entries or len(entries) != count or place in self._changed_since:
                    entries = self._read(place) or entries
                found |= entries
                if time.monotonic() > told + TELL_EVERY:
                    self._entries = {**(self._entries or {}), **found}
                    changed()
                    told = time.monotonic()
        except PacsError as error:
            self._is("down", str(error), changed)
            return False
        news = found != self._entries
        self._entries = found
        self._is("up", "", changed)
        if news:
            changed()
        return True

    def _read(self, place: str) -> dict[str, Entry]:
        """The entries of a series; none where the PACS answers but not with this series."""
        try:
            headers = self.client.headers(place)
        except Unreachable:
            raise
        except PacsError as error:
            logger.warning("A series of the PACS was passed over: %s", error)
            return {}
        entries = {}
        for header in headers:
            instance = str(header.get("SOPInstanceUID", ""))
            if UID.fullmatch(instance) and len(instance) <= 64:
                entry = self._examine(f"{place}/{instance}.dcm", header)
                entries[entry.path] = entry
        self._changed_since.discard(place)
        return entries

    def _examine(self, path: str, header: Dataset) -> Entry:
        entry = Entry(path=path, root=self.name, changed=0, size=0)
        try:
            image = self._describe(header, self.top / path)
        except UnreadableMammogram as error:
            return replace(entry, problem=f"{error.reason}. {error.remedy}")
        return replace(entry, image_id=image["id"], image=image)

    def _is(self, state: str, reason: str, changed: Callable[[], None]) -> None:
        if state != self._state:
            logger.log(
                logging.INFO if state == "up" else logging.WARNING,
                "The PACS at %s is %s%s", self.client.url, state, reason and f": {reason}",
            )  # fmt: skip
            self._state, self._since = state, time.time()
            changed()
        self._reason = reason
