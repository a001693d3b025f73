"""Reading images before anybody asks: a batch that was asked for, and the table in idle time.

Both end in the same place, a kept reading and a row of the table, so that each finds done what the
other did, and a second run what the first did before it was stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import HTTPException

from .background import Job, Steps
from .datastore import MammogramStore
from .infer import FindMasses, listed

logger = logging.getLogger(__name__)

WHICH = ("unlabeled", "labeled", "all")
SAVE_EVERY = 50  # images


def chosen_images(store: MammogramStore, which: Any) -> list[str]:
    """The images of a batch. 400 for a choice that is none."""
    if which == "unlabeled":
        return store.get_unlabeled_images()
    if which == "labeled":
        return store.get_labeled_images()
    if which == "all":
        return store.list_images()
    raise HTTPException(400, f"images is one of {', '.join(WHICH)}")


def read_all(
    infer: FindMasses, store: MammogramStore, images: Sequence[str], job: Job, *, device: str
) -> Steps:
    """Reads images, past those that cannot be read; `job` says how far it is and what failed."""
    job.total = len(images)
    for number, image in enumerate(images, start=1):
        try:
            job.cached += infer.remember(image, listed(store, image), device=device)
        except HTTPException as error:
            job.fail(image, str(error.detail))
        job.done += 1
        if number % SAVE_EVERY == 0:
            infer.save()
        yield
    infer.save()
    return {"read": job.done - job.failed, "left_out": store.catalogue.left_out()}


class BatchRead:
    """What MONAI Label's own launcher runs, in a process of its own, for `/batch/infer`."""

    def __init__(self, infer: FindMasses) -> None:
        self._infer = infer

    def __call__(
        self, request: dict[str, Any], datastore: MammogramStore, infer: Any
    ) -> dict[str, Any]:
        """Reads the images of `request` to the end. Returns the report."""
        images = chosen_images(datastore, request.get("images") or "unlabeled")
        job = Job("batch_infer", {})
        for _ in read_all(self._infer, datastore, images, job, device=self._infer.device):
            logger.info("%d of %d images, %d failed", job.done, job.total, job.failed)
        return job.to_json()


class IdleReading:
    """Fills the table of the version in service: first what is unlabelled, then all mirrored."""

    def __init__(self, infer: FindMasses, store: MammogramStore) -> None:
        self._infer, self._store = infer, store
        self._unreadable: set[tuple[str, str]] = set()  # SHA-256 of the weights, `content`

    def steps(self) -> Steps:
        """One pass over the work list; ends early when another version goes into service."""
        infer, store = self._infer, self._store
        model = infer.in_service()
        images = [*store.get_unlabeled_images(), *store.get_labeled_images()]
        read = 0
        for mirrored in (False, True):
            for image in images:
                content = self._due(image, model.sha256, mirrored=mirrored)
                if content is None:
                    continue
                try:
                    infer.remember(image, listed(store, image), mirrored=mirrored)
                except HTTPException as error:
                    self._unreadable.add((model.sha256, content))
                    named = store.names.of(image)
                    logger.info("%s is left out of the table: %s", named, error.detail)
                read += 1
                if read % SAVE_EVERY == 0:
                    infer.save()
                yield
                if infer.in_service().sha256 != model.sha256:
                    return
        infer.tables.filled()
        infer.save()

    def _due(self, image: str, model: str, *, mirrored: bool) -> str | None:
        """What the image's row is to rest on where it is yet to be made (mirrored), else None."""
        table = self._infer.table()
        figures = table.figures(image)
        lacks = figures is None or (mirrored and bool(np.isnan(figures["disagreement"])))
        try:
            if self._store.entry(image).changed == 0 and not lacks:
                return None  # in a PACS, where it never changes: it need not be fetched again
            content = self._infer.content(listed(self._store, image))
        except (HTTPException, OSError):
            return None  # it has gone
        if (model, content) in self._unreadable:
            return None
        return content if lacks or not table.knows(image, content) else None
