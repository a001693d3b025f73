"""The server's requests, one method each. Blocking: `jobs` runs them off the main thread.

Every method takes `stop`, a `ports.Cancellation`, and raises `failures.Failure` with one sentence
for people, or `jobs.Cancelled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from .ports import Cancellation

MODEL = "ft_mtl_net"
TAG = "final"


class Client:
    """One server, one reader. `token` goes as `Authorization: Bearer`; TLS is verified."""

    def __init__(self, address: str, *, token: str = "", client_id: str = "") -> None:
        """Raises Failure for an address that is none; `address` is then `scheme://host:port`."""
        raise NotImplementedError

    # About the server
    def info(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """`GET /info/`, without a body."""
        raise NotImplementedError

    def requests(self, stop: Cancellation | None = None) -> frozenset[str]:
        """What the server answers, as "POST /scoring/{model}"; see `offers`."""
        raise NotImplementedError

    # Images
    def datastore(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """`GET /datastore/?output=all`."""
        raise NotImplementedError

    def next_image(
        self, strategy: str, *, after: str | None = None, stop: Cancellation | None = None
    ) -> dict[str, Any] | None:
        """{id, reason, held_until, …}; None when nothing is left."""
        raise NotImplementedError

    def download_image(
        self,
        image_id: str,
        file: Path,
        *,
        progress: Callable[[int, int], None] | None = None,
        stop: Cancellation | None = None,
    ) -> Path:
        """The image's file, whole or not at all. `progress(bytes, of how many)` on the thread."""
        raise NotImplementedError

    # Reading
    def infer(
        self,
        image_id: str,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        threshold: float | None = None,
        max_findings: int | None = None,
        stop: Cancellation | None = None,
    ) -> dict[str, Any]:
        """The findings document; of `boxes` alone (one finding a box, in order) if given."""
        raise NotImplementedError

    # Labels
    def submit_label(
        self,
        image_id: str,
        file: Path,
        *,
        submission_id: str,
        based_on: int,
        comment: str = "",
        stop: Cancellation | None = None,
    ) -> dict[str, Any]:
        """{version, sha256, time}. A stale `based_on` raises Failure of kind "conflict"."""
        raise NotImplementedError

    def label_info(self, image_id: str, *, stop: Cancellation | None = None) -> dict[str, Any]:
        """{current, versions: […]}; Failure of kind "missing" without a label."""
        raise NotImplementedError

    def download_label(
        self,
        image_id: str,
        file: Path,
        *,
        version: int | None = None,
        stop: Cancellation | None = None,
    ) -> Path:
        """The label file that stands, or its `version`."""
        raise NotImplementedError

    def withdraw_label(self, image_id: str, *, stop: Cancellation | None = None) -> None:
        """The label no longer speaks for the image."""
        raise NotImplementedError

    # The model
    def start_training(
        self, settings: dict[str, Any], stop: Cancellation | None = None
    ) -> dict[str, Any]:
        """`POST /train/ft_mtl_net`; progress is in `info`."""
        raise NotImplementedError

    def stop_training(self, stop: Cancellation | None = None) -> None:
        """`DELETE /train/`."""
        raise NotImplementedError

    def bring_back(self, version: str, stop: Cancellation | None = None) -> dict[str, Any]:
        """Takes a version of the model into service."""
        raise NotImplementedError

    def start_scoring(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """Scores the model in service on the labels."""
        raise NotImplementedError

    def start_batch(
        self, images: str = "unlabeled", stop: Cancellation | None = None
    ) -> dict[str, Any]:
        """Reads images ahead, so that they open at once."""
        raise NotImplementedError

    def batch(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """How the batch stands."""
        raise NotImplementedError

    def stop_batch(self, stop: Cancellation | None = None) -> None:
        """Stops it."""
        raise NotImplementedError


