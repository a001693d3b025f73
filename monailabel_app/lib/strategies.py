"""Which image to read next, and why."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.tasks.strategy import Strategy

from .datastore import NAME, MammogramStore

HOLD_SECONDS = 30 * 60
Choice = tuple[str, str]  # image id, reason


class Holds:
    """Who was given which image just now, so that two annotators do not read the same one."""

    def __init__(self, seconds: float = HOLD_SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}  # image -> client, until

    def take(
        self, client: str, images: list[str], choose: Callable[[list[str]], Choice]
    ) -> tuple[Choice, float] | None:
        """Lets `choose` pick among the images that nobody else holds; holds the one it picks."""
        with self._lock:
            now = time.time()
            self._held = {i: hold for i, hold in self._held.items() if hold[1] > now}
            free = [i for i in images if self._held.get(i, (client, 0.0))[0] == client]
            if not free:
                return None
            image, reason = choose(free)
            until = now + self.seconds
            self._held[image] = (client, until)
            return (image, reason), until


class NextImage(Strategy):  # type: ignore[misc]
    """One way to choose among the unlabelled images."""

    def __init__(
        self, description: str, holds: Holds, choose: Callable[[list[str]], Choice]
    ) -> None:
        super().__init__(description)
        self._holds, self._choose = holds, choose

    def __call__(self, request: dict[str, Any], datastore: MammogramStore) -> dict[str, Any] | None:
        """{id, reason, held_until}; None where everything is labelled or held by others."""
        client = request.get("client_id")
        if client is not None and not (isinstance(client, str) and NAME.fullmatch(client)):
            raise HTTPException(400, "client_id is 1 to 128 letters, digits and . _ - : + @")
        images = datastore.get_unlabeled_images(request.get("label_tag"))
        taken = self._holds.take(client or "", images, self._choose)
        if taken is None:
            return None
        (image, reason), until = taken
        return {"id": image, "reason": reason, "held_until": round(until)}


def strategies() -> dict[str, NextImage]:
    """Every strategy by name; they share their holds."""
    holds = Holds()
    return {
        "first": NextImage("The first unlabelled image", holds, first),
        "random": NextImage("Any unlabelled image", holds, at_random),
    }


def first(images: list[str]) -> Choice:
    """The first of the work list."""
    return images[0], "the first image in the work list without a label"


def at_random(images: list[str]) -> Choice:
    """One of them by chance."""
    return random.choice(images), f"drawn by chance from {len(images)} images without a label"
