"""The server's requests, one method each. Blocking: `jobs` runs them off the main thread.

Every method takes `stop`, a `ports.Cancellation`, and raises `failures.Failure` with one sentence
for people, or `ports.Cancelled`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Callable

from . import failures, multipart
from .failures import Failure
from .multipart import Form
from .ports import Cancellation
from .transport import Address, Transport

MODEL = "ft_mtl_net"
TAG = "final"
MODEL_SECONDS = 900.0  # others may be read first, and the first reading of all loads the model
UPLOAD_SECONDS = 120.0
# What MONAI Label's own server has; ours says what it has in addition.
STOCK = frozenset(
    (
        "GET /info/",
        "GET /datastore/",
        "GET /datastore/image",
        "GET /datastore/label",
        "PUT /datastore/label",
        "GET /datastore/label/info",
        "DELETE /datastore/label",
        "POST /activelearning/{strategy}",
        "POST /infer/{model}",
        "POST /train/{model}",
        "DELETE /train/",
    )
)

OURS = {  # each with a path that can be asked about without doing anything
    "POST /versions/{model}/{version}": f"/versions/{MODEL}/0",
    "POST /scoring/{model}": f"/scoring/{MODEL}",
    "POST /batch/infer/{model}": f"/batch/infer/{MODEL}",
}


class Client:
    """One server, one reader. `token` goes as `Authorization: Bearer`; TLS is verified.

    Raises Failure for an address that is none; `address` is the one spelling of it, and
    `exposes_token` says that the token would travel readable for others.
    """

    def __init__(self, address: str, *, token: str = "", client_id: str = "") -> None:
        where = Address(address)
        self.address, self.place = where.text, where.place
        self.exposes_token = bool(token) and not where.is_private
        self.client_id = client_id
        self._transport = Transport(where, token.strip())

    # About the server

    def info(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """`GET /info/`."""
        return self._object("GET", "/info/", stop=stop)

    def requests(self, stop: Cancellation | None = None) -> frozenset[str]:
        """What the server answers, as "POST /scoring/{model}"."""
        return STOCK.union(name for name, path in OURS.items() if self._has(path, stop))

    # Images

    def datastore(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """`GET /datastore/?output=all`."""
        return self._object("GET", "/datastore/", query={"output": "all"}, stop=stop)

    def next_image(
        self,
        strategy: str,
        *,
        after: str | None = None,
        without: Iterable[str] = (),
        stop: Cancellation | None = None,
    ) -> dict[str, Any] | None:
        """{id, reason, held_until, …}; None when nothing is left but those of `without`."""
        body: dict[str, Any] = {"client_id": self.client_id, "without": sorted(without)}
        if after is not None:
            body["after"] = after
        found = self._object("POST", f"/activelearning/{strategy}", body=body, stop=stop)
        return found if found.get("id") else None

    def download_image(
        self,
        image_id: str,
        file: Path,
        *,
        progress: Callable[[int, int], None] | None = None,
        stop: Cancellation | None = None,
    ) -> Path:
        """The image's file, whole or not at all. `progress(bytes, of how many)` on the thread."""
        query = {"image": image_id}
        self._transport.send(
            "GET", "/datastore/image", query=query, file=file, progress=progress, stop=stop
        )
        return file

    # Reading

    def infer(
        self,
        image_id: str,
        *,
        boxes: Sequence[Sequence[float]] | None = None,
        threshold: float | None = None,
        max_findings: int | None = None,
        hold: bool = True,
        label_file: Path | None = None,
        stop: Cancellation | None = None,
    ) -> dict[str, Any]:
        """The findings document; of `boxes` alone (one finding a box, in order) if given.

        `hold`: the server keeps the image for this client, so that nobody else is given it next.
        With `label_file`, the same as a `.seg.nrrd` is written there.
        """
        asked = {"boxes": boxes, "threshold": threshold, "max_findings": max_findings}
        params: dict[str, Any] = {"client_id": self.client_id} if hold else {}
        params.update((name, value) for name, value in asked.items() if value is not None)
        kind, body = self._transport.send(
            "POST",
            f"/infer/{MODEL}",
            query={"image": image_id, "output": "json" if label_file is None else "all"},
            body=Form({"params": json.dumps(params)}),
            read_seconds=MODEL_SECONDS,
            stop=stop,
        )
        try:
            if label_file is not None:
                parts = multipart.parse(kind, body)
                body = parts["params"]
                label_file.write_bytes(parts["image"])
            document = json.loads(body)
        except (ValueError, KeyError):
            raise failures.not_ours(self.place) from None
        except OSError as error:
            raise failures.of_disk(error) from error
        return self._checked(document)

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
        params = {
            "client_id": self.client_id,
            "submission_id": submission_id,
            "based_on": based_on,
            **({"comment": comment} if comment else {}),
        }
        try:
            form = Form({"params": json.dumps(params)}, file=file, name="label")
        except OSError as error:
            raise failures.of_disk(error) from error
        return self._object(
            "PUT",
            "/datastore/label",
            query={"image": image_id, "tag": TAG},
            body=form,
            read_seconds=UPLOAD_SECONDS,
            stop=stop,
        )

    def label_info(self, image_id: str, *, stop: Cancellation | None = None) -> dict[str, Any]:
        """{current, versions: […]}; Failure of kind "missing" without a label."""
        query = {"label": image_id, "tag": TAG}
        return self._object("GET", "/datastore/label/info", query=query, stop=stop)

    def download_label(
        self,
        image_id: str,
        file: Path,
        *,
        version: int | None = None,
        stop: Cancellation | None = None,
    ) -> Path:
        """The label file that stands, or its `version`."""
        name = image_id if version is None else f"{image_id}@{version}"
        query = {"label": name, "tag": TAG}
        self._transport.send("GET", "/datastore/label", query=query, file=file, stop=stop)
        return file

    def withdraw_label(self, image_id: str, *, stop: Cancellation | None = None) -> None:
        """The label no longer speaks for the image."""
        query = {"id": image_id, "tag": TAG}
        self._transport.send("DELETE", "/datastore/label", query=query, stop=stop)

    # The model

    def start_training(
        self, settings: dict[str, Any], stop: Cancellation | None = None
    ) -> dict[str, Any]:
        """`POST /train/ft_mtl_net`; progress is in `info`."""
        return self._object("POST", f"/train/{MODEL}", body=settings, stop=stop)

    def stop_training(self, stop: Cancellation | None = None) -> None:
        """`DELETE /train/`."""
        self._transport.send("DELETE", "/train/", stop=stop)

    def bring_back(self, version: str, stop: Cancellation | None = None) -> dict[str, Any]:
        """Takes a version of the model into service."""
        return self._object("POST", f"/versions/{MODEL}/{version}", stop=stop)

    def start_scoring(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """Scores the model in service on the labels; the result is in `info`."""
        return self._object("POST", f"/scoring/{MODEL}", body={}, stop=stop)

    def start_batch(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """Reads the unlabelled images ahead, so that they open at once."""
        query = {"images": "unlabeled"}
        return self._object("POST", f"/batch/infer/{MODEL}", query=query, body={}, stop=stop)

    def batch(self, stop: Cancellation | None = None) -> dict[str, Any]:
        """How reading ahead stands."""
        return self._object("GET", "/batch/infer", stop=stop)

    def stop_batch(self, stop: Cancellation | None = None) -> None:
        """Stops reading ahead."""
        self._transport.send("DELETE", "/batch/infer", stop=stop)

    def _has(self, path: str, stop: Cancellation | None) -> bool:
        # What is there for another method says so (405). The list of requests in /openapi.json is
        # not open everywhere.
        try:
            self._transport.send("OPTIONS", path, stop=stop)
        except Failure as failure:
            return failure.status == 405
        return True

    def _object(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._checked(self._transport.json(method, path, **options))

    def _checked(self, document: Any) -> dict[str, Any]:
        if not isinstance(document, dict):
            raise failures.not_ours(self.place)
        return document
