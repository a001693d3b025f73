"""Where a reader's drafts and outbox lie on this computer: a folder for each server and reader."""

from __future__ import annotations

from pathlib import Path

from . import disk
from .i18n import _

WHOSE = "whose.json"  # [address, reader]


def own_folder(root: Path, address: str, reader: str) -> Path:
    """That reader's folder, which says whose it is. Raises OSError."""
    own = root / disk.name_for(f"{address} {reader}")
    disk.write_json(own / WHOSE, [address, reader])
    return own


def waiting_elsewhere(root: Path, own: Path) -> tuple[str, ...]:
    """Of each other folder whose outbox holds labels: how many, whose, and for which server.

    They are sent when that reader connects to that server, under the same name and address.
    """
    words = _("{count} label(s) of {reader} for {address} wait here too: connect so to send them.")
    said = []
    for folder in sorted(root.glob("*")):
        rows = (folder / "outbox").glob("*.json")
        count = sum(row.with_suffix(".seg.nrrd").exists() for row in rows)
        whose = disk.read_json(folder / WHOSE)
        if folder != own and count and isinstance(whose, list) and len(whose) == 2:
            said.append(words.format(count=count, reader=whose[1], address=whose[0]))
    return tuple(said)
