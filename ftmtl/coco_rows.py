"""What the rows of a COCO file may hold, and what they mean where they do not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def is_number(value: Any) -> bool:
    """Whether value is a number of sane size (and not a bool, which Python takes for one)."""
    number = isinstance(value, int | float | np.integer | np.floating)
    # The limits hold for no NaN.
    return number and not isinstance(value, bool) and bool(-1e9 < value < 1e9)


def is_identity(value: Any) -> bool:
    """Whether value can be an id: a number or a name (and not a bool)."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def role_of(annotation: Mapping[str, Any]) -> Any:
    """Its `role`, unchecked; a crowd is COCO's word for a region in which nothing is counted."""
    return annotation.get("role", "ignore" if annotation.get("iscrowd") else "mass")


def class_known_of(annotation: Mapping[str, Any]) -> Any:
    """Its `class_known`, unchecked; of a region that nobody decided about, only if the set says so.
    """
    return annotation.get("class_known", role_of(annotation) == "mass")


def mask_source_of(annotation: Mapping[str, Any]) -> Any:
    """Its `mask_source`, unchecked; a mask of unknown source is taken for annotated."""
    source = annotation.get("mask_source")
    if source is None:
        return "annotated" if annotation.get("segmentation") else "none"
    return source
