"""Labels on their way to the PACS as DICOM Segmentations.

What is to be sent is written down before the label's submission is answered, and sent by a thread:
a PACS that is down is waited for, also over a restart.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from ftmtl.atomic import write_json
from ftmtl.datasets.labels import LabelVersion, image_folder

from .dicomweb import DicomWeb, PacsError, Unreachable
from .files import set_aside
from .stamps import now

logger = logging.getLogger(__name__)


class Withdrawn(LookupError):
    """A label that no longer speaks for its image; the message says what happened."""


class Outbox:
    """One small file a label: waiting, sent, refused or withdrawn."""

    def __init__(
        self, folder: Path, client: DicomWeb, segmentation: Callable[[str, str, int], Dataset]
    ) -> None:
        """`segmentation` makes the object of (image id, tag, version); Withdrawn if none is due."""
        self._waiting, self._done = folder / "waiting", folder / "done"
        for place in (self._waiting, self._done):
            place.mkdir(parents=True, exist_ok=True)
        self._client, self._segmentation = client, segmentation
        self._busy = threading.Lock()

    def put(self, version: LabelVersion) -> None:
        """Notes that a label is to be sent; nothing happens where it was sent already."""
        name = self._name(str(version.image["id"]), version.tag, version.version)
        if not (self._done / name).exists():
            place = {"image": version.image["id"], "tag": version.tag, "version": version.version}
            write_json(self._waiting / name, {**place, "state": "waiting"})

    def state(self, image_id: str, tag: str, version: int) -> dict[str, Any] | None:
        """What became of a label: {"state", …}, or None if nobody asked for it to be sent.

        The state is "waiting" (with the reason, where the PACS could not take it), "sent",
        "refused" or "withdrawn".
        """
        name = self._name(image_id, tag, version)
        if waiting := _read(self._waiting / name):
            return {k: v for k, v in waiting.items() if k in ("state", "reason")}
        if done := _read(self._done / name):
            return {k: done.get(k) for k in ("state", "reason", "sop_instance_uid", "time")}
        return None

    def send(self) -> None:
        """Sends what waits and still stands, until the PACS does not answer.

        An object over which the PACS fails holds up no other; it is sent again the next time.
        """
        from ftmtl.dicom_seg import NothingToSegment  # slow to import: not at the server's start

        with self._busy:
            for file in sorted(self._waiting.glob("*.json")):
                try:
                    place = json.loads(file.read_text(encoding="utf-8"))
                    where = str(place["image"]), str(place["tag"]), int(place["version"])
                except (ValueError, KeyError, TypeError) as error:
                    set_aside(file, error)
                    continue
                outcome: dict[str, Any] = {"reason": None, "sop_instance_uid": None}
                try:
                    dataset = self._segmentation(*where)
                    self._client.store(dataset)
                    uid = str(dataset.SOPInstanceUID)
                    outcome |= {"state": "sent", "sop_instance_uid": uid}
                except Unreachable as error:
                    if not self._client.answers():
                        return
                    self._waits(file, place, str(error))
                    continue
                except Withdrawn as error:
                    outcome |= {"state": "withdrawn", "reason": str(error)}
                except (PacsError, NothingToSegment, LookupError) as error:
                    logger.warning("A label does not go to the PACS: %s", error)
                    outcome |= {"state": "refused", "reason": str(error)}
                except OSError:
                    raise  # of this machine's disk: the label waits
                except Exception as error:  # one odd image must not hold up the others
                    logger.exception("A label does not go to the PACS")
                    reason = f"no Segmentation can be made of it ({type(error).__name__})"
                    outcome |= {"state": "refused", "reason": reason}
                write_json(self._done / file.name, {**place, **outcome, "time": now()})
                file.unlink()

    def _waits(self, file: Path, place: dict[str, Any], reason: str) -> None:
        if place.get("reason") != reason:  # said once, not at every look
            logger.warning("A label waits for the PACS: %s", reason)
            write_json(file, {**place, "reason": reason})

    def _name(self, image_id: str, tag: str, version: int) -> str:
        return f"{image_folder(self._done, image_id).name}.{tag}.{version:04d}.json"


def _read(file: Path) -> dict[str, Any]:
    """What a file of the outbox says; empty where there is none."""
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {"state": "waiting", **row} if isinstance(row, dict) else {}
