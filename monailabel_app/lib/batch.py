"""Reading images before anybody asks: a batch that was asked for, and the table in idle time.

Both end in the same place, a kept reading and a row of the table, so that each finds done what the
other did, and a second run what the first did before it was stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import HTTPException

from .background import IdleSteps, Job, Steps
from .datastore import MammogramStore
from .infer import FindMasses, listed
from .tables import Table

logger = logging.getLogger(__name__)

WHICH = ("unlabeled", "labeled", "all")
SAVE_EVERY = 50  # images
LOOKED_AT = 100  # images with nothing to do, until what was asked for meanwhile may begin
LONGEST_PAUSE = 600.0  # seconds; files that all have a new time take long to look at, but once
UNHEARD_SECONDS = 600.0  # until an other view that could not be had is asked for again


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
        # By the weights' SHA-256 and `content`:
        self._unreadable: set[tuple[str, str]] = set()
        self._unheard: dict[tuple[str, str], float] = {}  # when that was, by the monotonic clock

    def steps(self) -> IdleSteps:
        """One pass over the work list; ends early when another version goes into service.

        Returns the seconds until another pass is worth while.
        """
        infer, store = self._infer, self._store
        table = infer.table()
        images = [*store.get_unlabeled_images(), *store.get_labeled_images()]
        read, looked = 0, 0.0
        for mirrored in (False, True):
            for number, image in enumerate(images, start=1):
                began = time.monotonic()
                content = self._due(image, table, mirrored=mirrored)
                if content is not None:
                    self._read(image, content, table, mirrored=mirrored)
                    read += 1
                    if read % SAVE_EVERY == 0:
                        infer.save()
                else:
                    looked += time.monotonic() - began
                if content is not None or number % LOOKED_AT == 0:
                    yield
                    if infer.in_service().sha256 != table.model:
                        return 0.0
        infer.tables.filled()
        infer.save()
        return min(20 * looked, LONGEST_PAUSE)

    def _read(self, image: str, content: str, table: Table, *, mirrored: bool) -> None:
        try:
            source = listed(self._store, image)
        except HTTPException:
            return  # it has gone, or the PACS does not give it: the next pass asks again
        try:
            self._infer.remember(image, source, mirrored=mirrored)
        except HTTPException as error:
            self._unreadable.add((table.model, content))
            named = self._store.names.of(image)
            logger.info("%s is left out of the table: %s", named, error.detail)
        else:
            if self._due(image, table, mirrored=False) == content:  # an other view is still missed
                self._unheard[table.model, content] = time.monotonic()

    def _due(self, image: str, table: Table, *, mirrored: bool) -> str | None:
        """What the image's row is to rest on where it is yet to be made (mirrored), else None."""
        figures = table.figures(image)
        if mirrored and (figures is None or not np.isnan(figures["disagreement"])):
            return None  # there is no row, or it is whole; the pass has been through all else
        lacks = mirrored or figures is None
        pacs = self._store.pacs
        if not lacks and pacs is not None and not pacs.is_up:
            return None  # the list is short, and a row made now would miss what it has heard
        try:
            content = self._infer.content(self._store, image)
        except (HTTPException, OSError):
            return None  # it has gone
        if (table.model, content) in self._unreadable:
            return None
        if lacks:
            return content
        tried = self._unheard.get((table.model, content), -math.inf)
        waits = time.monotonic() < tried + UNHEARD_SECONDS
        return None if waits or table.knows(image, content) else content
