"""Fetching a case: what is asked of the server before a mammogram can be shown. Blocking."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from . import disk, failures
from .client import Client
from .failures import Failure
from .findings import Findings, InvalidFindings
from .i18n import _
from .ports import Cancellation
from .unpacking import unpack
from .worklist import Row

MOST_FINDINGS = 100


@dataclass(frozen=True)
class Fetched:
    """What came: the image, and its label file or the model's document (or neither)."""

    image_file: Path
    label: Path | None = None
    document: Findings | None = None
    version: int = 0  # of the label that stands; 0 without one
    annotator: str | None = None
    comment: str = ""  # on the image as a whole, sent with that label


def fetch(
    client: Client,
    row: Row,
    folder: Path,
    floor: float,
    *,
    stored: bool,
    hold: bool = True,
    stop: Cancellation,
) -> Fetched:
    """The image, and what is said about it: the label that stands, else the model's findings.

    `stored`: this computer has the findings already, the image is enough. Files go to `folder`;
    an image that is there is not fetched again. `hold`: see `Client.infer`. Raises Failure,
    Cancelled, InvalidFindings.
    """
    name = disk.name_for(f"{client.address} {row.id}")
    image_file = folder / (name + row.suffix)
    if image_file.exists():
        image_file.touch()  # what is read now is not what goes first
    else:
        _download(client, row, image_file, stop)
    if stored:
        return Fetched(image_file)
    version, annotator, comment = _standing(client, row.id, stop)
    if version:
        label = folder / f"{name}-{version}.seg.nrrd"
        client.download_label(row.id, label, version=version, stop=stop)
        return Fetched(
            image_file, label=label, version=version, annotator=annotator, comment=comment
        )
    answer = client.infer(row.id, threshold=floor, max_findings=MOST_FINDINGS, hold=hold, stop=stop)
    document = Findings.from_json(answer)
    if document.image.id != row.id:
        raise InvalidFindings(_("The server's findings belong to another image."))
    return Fetched(image_file, document=document)


def _download(client: Client, row: Row, image_file: Path, stop: Cancellation) -> None:
    """Two may fetch the same image at once: it is there when it is whole and unpacked."""
    image_file.parent.mkdir(parents=True, exist_ok=True)
    fresh = image_file.with_name(f".{secrets.token_hex(8)}{row.suffix}")
    try:
        client.download_image(row.id, fresh, stop=stop)
        unpack(fresh)
        fresh.replace(image_file)
    except OSError as error:
        if not image_file.exists():  # Windows replaces no file that is open: the other one's
            raise failures.of_disk(error) from error
    finally:
        disk.remove(fresh)


def _standing(client: Client, image_id: str, stop: Cancellation) -> tuple[int, str | None, str]:
    """Which version of the label stands, whose it is, its comment; (0, None, "") without one."""
    try:
        info = client.label_info(image_id, stop=stop)
    except Failure as failure:
        if failure.kind == "missing":
            return 0, None, ""
        raise
    current = int(info.get("current") or 0)
    versions = {row.get("version"): row for row in info.get("versions") or []}
    standing = versions.get(current, {})
    return current, standing.get("annotator"), str(standing.get("comment") or "")
