"""The panel's scene in a Slicer core: the red slice view, and the yellow one beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from MammoReviewLib.scene import Scene
from MammoReviewLib.scene_companion import Companion
from MammoReviewLib.scene_handles import Later
from MammoReviewLib.scene_view import ALONE, RIGHT, SliceView
from slicer_qt.core import SlicerCore


def scene_in(core: SlicerCore, later: Later) -> Scene:
    red, yellow = (
        SliceView(core.scene, view.logic, view.interactor, frame, place)
        for view, frame, place in (
            (core.view, core.frame, ALONE),
            (core.beside, core.frame_beside, RIGHT),
        )
    )
    return Scene(core.scene, red, Companion(core.scene, yellow), later)


@contextlib.contextmanager
def scene_on(core: SlicerCore) -> Iterator[Scene]:
    """A scene whose events end when the test says so: `events_pass`."""
    later: list[Any] = []
    scene = scene_in(core, later.append)
    scene.later = later  # type: ignore[attr-defined]
    yield scene
    scene.close()


def events_pass(scene: Scene) -> None:
    """What waits for the end of an event happens."""
    calls = scene.later[:]  # type: ignore[attr-defined]
    scene.later.clear()  # type: ignore[attr-defined]
    for call in calls:
        call()
