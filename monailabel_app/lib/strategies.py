"""Which image to read next, and why: MONAI Label's side of `ftmtl.active`.

A strategy sees the images that have no label and that nobody else holds; those that could not be
read come last. Its figures are those of the table; where that is empty it falls back to the first
image, and says so.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.tasks.strategy import Strategy

from ftmtl import active
from ftmtl.atomic import write_json
from ftmtl.findings import ImageInfo

from .datastore import MammogramStore
from .refusals import NAME
from .tables import Serving

logger = logging.getLogger(__name__)

HOLD_SECONDS = 30 * 60
Choice = tuple[str, str]  # image id, reason
# request, store, free images -> choice; None where there is nothing to choose
Choose = Callable[[dict[str, Any], MammogramStore, list[str]], Choice | None]
IsUnreadable = Callable[[MammogramStore, str], bool]


class Holds:
    """Who was given which image just now, so that two annotators do not read the same one.

    A client holds one image: asking for the next, opening another, or submitting lets go of the one
    before. They outlive a restart in `file`.
    """

    def __init__(self, file: Path, seconds: float = HOLD_SECONDS) -> None:
        self._file, self.seconds = file, seconds
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, float]] = {}  # image -> client, until
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
            self._held = {image: (str(who), float(until)) for image, (who, until) in rows.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("What readers hold is forgotten: %s", error)

    def take(
        self, client: str, images: list[str], choose: Callable[[list[str]], Choice | None]
    ) -> tuple[Choice, float] | None:
        """Lets `choose` pick among the images that nobody else holds; holds the one it picks."""
        with self._lock:
            held = self._valid()
            free = [i for i in images if held.get(i, (client, 0.0))[0] == client]
            chosen = choose(free) if free else None
            if chosen is None:
                return None
            return chosen, self._hold(held, client, chosen[0])

    def release(self, image: str) -> None:
        """Nobody holds the image any longer."""
        with self._lock:
            if image in self._held:
                self._keep({i: hold for i, hold in self._valid().items() if i != image})

    def hold(self, client: str, image: str) -> None:
        """The client has opened an image by themselves, and holds it unless somebody else does."""
        with self._lock:
            held = self._valid()
            if held.get(image, (client, 0.0))[0] == client:
                self._hold(held, client, image)

    def holder(self, image: str) -> str | None:
        """Who holds it, "" where they gave no name; None where nobody does."""
        held = self._valid().get(image)
        return None if held is None else held[0]

    def images(self) -> list[str]:
        """All that are held."""
        return list(self._valid())

    def _hold(self, held: dict[str, tuple[str, float]], client: str, image: str) -> float:
        until = time.time() + self.seconds
        others = {i: hold for i, hold in held.items() if hold[0] != client}
        self._keep({**others, image: (client, until)})
        return until

    def _valid(self) -> dict[str, tuple[str, float]]:
        now = time.time()
        # One that ends later than any can was taken before the clock was put back.
        return {i: h for i, h in self._held.items() if now < h[1] <= now + self.seconds}

    def _keep(self, held: dict[str, tuple[str, float]]) -> None:
        self._held = held
        try:
            write_json(self._file, held)
        except OSError as error:
            logger.warning("Holds will not outlive a restart: %s", error)


class NextImage(Strategy):  # type: ignore[misc]
    """One way to choose among the unlabelled images."""

    def __init__(
        self,
        name: str,
        description: str,
        holds: Holds,
        choose: Choose,
        is_unreadable: IsUnreadable,
    ) -> None:
        super().__init__(description)
        self.name, self._holds, self._choose = name, holds, choose
        self._is_unreadable = is_unreadable

    def __call__(self, request: dict[str, Any], datastore: MammogramStore) -> dict[str, Any] | None:
        """{id, reason, held_until, strategy}; None where everything is labelled or held.

        `without` in the request: images that the client has in hand, open or on their way here.
        """
        client = request.get("client_id")
        if client is not None and not (isinstance(client, str) and NAME.fullmatch(client)):
            raise HTTPException(400, "client_id is 1 to 128 letters, digits and . _ - : + @")
        in_hand = request.get("without", [])
        if not (isinstance(in_hand, list) and all(isinstance(image, str) for image in in_hand)):
            raise HTTPException(400, "without is a list of image ids, those not to be given")
        unlabelled = datastore.get_unlabeled_images(request.get("label_tag"))
        images = [image for image in unlabelled if image not in set(in_hand)]
        taken = self._holds.take(
            client or "", images, lambda free: self._chosen(request, datastore, free)
        )
        if taken is None:
            return None
        (image, reason), until = taken
        return {"id": image, "reason": reason, "held_until": round(until), "strategy": self.name}

    def _chosen(
        self, request: dict[str, Any], store: MammogramStore, free: list[str]
    ) -> Choice | None:
        # A damaged file that came first would come again and again: nobody can label it.
        readable = [image for image in free if not self._is_unreadable(store, image)]
        choice = self._choose(request, store, readable or free)
        if choice is None or readable:
            return choice
        return choice[0], f"{choice[1]}; it could not be read when it was last tried"


def strategies(
    holds: Holds, serving: Callable[[], Serving], is_unreadable: IsUnreadable
) -> dict[str, NextImage]:
    """Every strategy by name; they share their holds and the table."""
    texts = {
        "uncertainty": "What the model is least certain about",
        "disagreement": "Where the model contradicts itself when the image is mirrored",
        "diversity": "What is least like anything labelled so far",
        "mixed": "Uncertainty, disagreement and diversity together",
        "suspicious": "The most suspicious first: triage",
    }
    chosen: dict[str, tuple[str, Choose]] = {
        "first": ("The first unlabelled image", first),
        "random": ("Any unlabelled image", at_random),
        "same_patient": ("The patient's other images, after one that was just read", same_patient),
    }
    for name, text in texts.items():
        chosen[name] = text, _by_table(name, active.STRATEGIES[name], holds, serving)
    return {
        name: NextImage(name, text, holds, how, is_unreadable)
        for name, (text, how) in chosen.items()
    }


def first(request: dict[str, Any], store: MammogramStore, free: list[str]) -> Choice:
    """The first of the work list."""
    return free[0], "the first image in the work list without a label"


def at_random(request: dict[str, Any], store: MammogramStore, free: list[str]) -> Choice:
    """One of them by chance."""
    return random.choice(free), f"drawn by chance from {len(free)} images without a label"


def same_patient(
    request: dict[str, Any], store: MammogramStore, free: list[str]
) -> Choice | None:
    """Another image of the patient of `after`; 400 without `after`."""
    after = request.get("after")
    if after is None:
        raise HTTPException(400, "same_patient needs after: the id of the image just read")
    just_read = store.image_info(after)
    images: list[ImageInfo] = [store.image_info(image) for image in free]
    choice = active.same_patient(images, just_read)
    return None if choice is None else (free[choice.index], choice.reason)


def _by_table(
    name: str, strategy: active.Strategy, holds: Holds, serving: Callable[[], Serving]
) -> Choose:
    def choose(
        request: dict[str, Any], store: MammogramStore, free: list[str]
    ) -> Choice | None:
        serves = serving()
        allowed = set(free)
        done = [*store.labels.labelled(), *(i for i in holds.images() if i not in allowed)]
        work, images = serves.table.work(free, done)
        choice = strategy(work)
        if choice is None:
            image, reason = first(request, store, free)
            return image, f"{reason}: the figures for {name} are not known yet"
        reason = choice.reason
        if serves.older:
            reason += (
                f"; by version {serves.table.version}, until the one in service has read as many"
            )
        elif len(work.free) < len(free):
            reason += f"; {len(free) - len(work.free)} more have not been read by the model yet"
        return images[choice.index], reason

    return choose
