"""Augmentation (paper 3.2): image, mask and box go through the same change."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from ftmtl.config import PAPER, RECOMMENDED, AugmentConfig
from ftmtl.training import augment as room
from ftmtl.training.augment import augment

CONFIG = AugmentConfig()
GEOMETRIC, TONAL = ["rotate", "flip", "zoom", "crop"], ["contrast", "smooth"]
SHAPES = [(96, 96), (120, 60), (60, 120)]


def scene(shape: tuple[int, int], *, radius: float = 9, seed: int = 0
          ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A bright disc on grey, off the centre, and its mask [1, height, width]."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    distance = np.hypot(x - 0.6 * shape[1], y - 0.45 * shape[0])
    image = 0.2 + 0.6 * np.clip(radius + 0.5 - distance, 0, 1)
    return image.astype(np.float32), (distance <= radius)[None]


def only(*names: str, **ranges: Any) -> Any:
    """An `augment` that draws just these operations, by their own code."""
    def run(pixels: NDArray[np.float32], masks: NDArray[np.bool_], random: np.random.Generator
            ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        config = replace(CONFIG, operations=(len(names), len(names)), **ranges)
        with pytest.MonkeyPatch.context() as patch:
            for table in ("_GEOMETRIC", "_TONAL"):
                every = getattr(room, table)
                patch.setattr(room, table, {k: v for k, v in every.items() if k in names})
            return augment(pixels, masks, config, random)
    return run


def test_two_to_five_of_the_six_operations_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted([*room._GEOMETRIC, *room._TONAL]) == sorted(GEOMETRIC + TONAL)
    drawn: list[str] = []

    def counted(name: str, operation: Any) -> Any:
        def run(*given: Any) -> Any:
            drawn.append(name)
            return operation(*given)
        return run

    for table in (room._GEOMETRIC, room._TONAL):
        for name, operation in list(table.items()):
            monkeypatch.setitem(table, name, counted(name, operation))
    pixels, masks = scene((24, 16), radius=3)
    counts, names = Counter[int](), Counter[str]()
    for seed in range(600):
        drawn.clear()
        augment(pixels, masks, CONFIG, np.random.default_rng(seed))
        assert len(set(drawn)) == len(drawn)
        counts[len(drawn)] += 1
        names.update(drawn)
    assert sorted(counts) == [2, 3, 4, 5]
    assert min(counts.values()) > 100  # 150 expected
    assert min(names.values()) > 280 and max(names.values()) < 420  # 350 expected of each


def agreement(pixels: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """The IoU of the mask with the disc, found in the picture by its brightness alone."""
    background = np.median(pixels[pixels > 0])
    disc = pixels > (background + pixels.max()) / 2
    return float((disc & mask).sum() / (disc | mask).sum())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", GEOMETRIC + TONAL)
def test_the_mask_stays_on_the_disc_after_each_operation(name: str, shape: tuple[int, int]) -> None:
    pixels, masks = scene(shape)
    assert agreement(pixels, masks[0]) > 0.95
    changed = 0
    for seed in range(10):
        image, moved = only(name)(pixels, masks, np.random.default_rng(seed))
        assert image.shape == shape and image.dtype == np.float32
        assert moved.shape == (1, *shape) and moved.dtype == bool
        assert agreement(image, moved[0]) > 0.85, seed
        changed += not np.array_equal(image, pixels)
    assert changed >= 9


@settings(max_examples=150, deadline=None)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**32 - 1),
       config=st.sampled_from([PAPER.training.augment, RECOMMENDED.training.augment]))
def test_the_mask_stays_on_the_disc_after_any_combination(
    shape: tuple[int, int], seed: int, config: AugmentConfig
) -> None:
    pixels, masks = scene(shape)
    image, moved = augment(pixels, masks, config, np.random.default_rng(seed))
    assert image.min() >= 0 and image.max() <= 1
    if moved.sum() >= 0.3 * masks.sum():  # not brought out of the picture
        assert agreement(image, moved[0]) > 0.8


@pytest.mark.parametrize("shape", SHAPES)
def test_the_boxes_of_masks_are_moved_as_their_corners_are(shape: tuple[int, int]) -> None:
    """Two masks keep apart, in their order, each on its own place."""
    pixels = np.full(shape, 0.5, dtype=np.float32)
    masks = np.zeros((2, *shape), dtype=bool)
    masks[0, 20:30, 14:22] = True
    masks[1, 32:40, 30:44] = True
    image, moved = only("flip", vertical_flip=False)(pixels, masks, np.random.default_rng(0))
    np.testing.assert_array_equal(moved, masks[:, :, ::-1])
    assert moved.shape == masks.shape and image.shape == shape
    image, moved = augment(pixels, masks[:0], CONFIG, np.random.default_rng(0))
    assert moved.shape == (0, *shape)  # a film without masses is changed too


@pytest.mark.parametrize("shape", [*SHAPES, (75, 41)])
def test_a_flip_is_numpys(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random(shape, dtype=np.float32)
    masks = np.random.default_rng(1).random((3, *shape)) < 0.5
    ways = {"both": np.s_[::-1, ::-1], "up": np.s_[::-1], "across": np.s_[:, ::-1]}
    seen = set()
    for seed in range(20):
        image, moved = only("flip")(pixels, masks, np.random.default_rng(seed))
        [way] = [w for w, cut in ways.items() if np.allclose(image, pixels[cut], atol=1e-4)]
        np.testing.assert_array_equal(moved, np.array([m[ways[way]] for m in masks]))
        seen.add(way)
        level, _ = only("flip", vertical_flip=False)(pixels, masks, np.random.default_rng(seed))
        np.testing.assert_allclose(level, pixels[:, ::-1], atol=1e-4)
    assert seen == set(ways)


@pytest.mark.parametrize("shape", [*SHAPES, (75, 41)])
@pytest.mark.parametrize("seed", range(4))
def test_a_rotation_is_scipys(shape: tuple[int, int], seed: int) -> None:
    """On films that are not square too: there a sheared grid would show."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(5).random(shape), 2)
    pixels = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)
    masks = (pixels > 0.6)[None]
    image, moved = only("rotate")(pixels, masks, np.random.default_rng(seed))
    random = np.random.default_rng(seed)
    random.permutation(1), random.integers(1, 2)  # the drawing of operations
    degrees = random.uniform(-15, 15)
    # scipy turns counter-clockwise on the screen, with a y axis that points down.
    expected = ndimage.rotate(pixels, -degrees, reshape=False, order=1, mode="constant")
    inner = ndimage.rotate(np.ones(shape), -degrees, reshape=False, order=1) > 0.999
    np.testing.assert_allclose(image[inner], expected[inner], atol=2e-3)
    turned = ndimage.rotate(masks[0].astype(float), -degrees, reshape=False, order=1)
    clear = np.abs(turned - 0.5) > 0.01
    np.testing.assert_array_equal(moved[0][clear & inner], (turned > 0.5)[clear & inner])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_circle_stays_a_circle_under_rotation_and_crop(shape: tuple[int, int]) -> None:
    pixels, masks = scene(shape, radius=12)
    for name in ("rotate", "crop"):
        for seed in range(5):
            _, moved = only(name)(pixels, masks, np.random.default_rng(seed))
            rows, columns = np.nonzero(moved[0])
            assert np.ptp(rows) + 1 == pytest.approx(24, abs=1.5)
            assert np.ptp(columns) + 1 == pytest.approx(24, abs=1.5)
            assert moved.sum() == pytest.approx(masks.sum(), rel=0.02)


def test_zoom_scales_both_ways_alike_and_within_its_range() -> None:
    pixels, masks = scene((120, 60), radius=8)
    factors = []
    for seed in range(30):
        _, moved = only("zoom")(pixels, masks, np.random.default_rng(seed))
        rows, columns = np.nonzero(moved[0])
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1)
        factors.append(np.sqrt(moved.sum() / masks.sum()))
    assert 0.77 < min(factors) < 0.9 and 1.1 < max(factors) < 1.28  # in and out


def test_crop_leaves_black_what_it_takes_away_and_no_more_than_its_share() -> None:
    pixels = np.random.default_rng(0).uniform(0.3, 1, (100, 80)).astype(np.float32)
    shares = []
    for seed in range(10):
        image, _ = only("crop", crop=0.2)(pixels, np.zeros((0, 100, 80), bool),
                                          np.random.default_rng(seed))
        shares.append((image == 0).mean())
    assert max(shares) < 1 - 0.8 * 0.8 and np.median(shares) > 0.02


def test_contrast_keeps_the_order_of_greys_and_smoothing_takes_noise_away() -> None:
    pixels = np.random.default_rng(0).uniform(0.01, 0.8, (40, 30)).astype(np.float32)
    masks = np.random.default_rng(1).random((2, 40, 30)) < 0.5
    for seed in range(10):
        image, moved = only("contrast")(pixels, masks, np.random.default_rng(seed))
        order = np.argsort(pixels, axis=None)
        assert (np.diff(image.ravel()[order]) >= 0).all() and not np.array_equal(image, pixels)
        np.testing.assert_array_equal(moved, masks)
        image, moved = only("smooth")(pixels, masks, np.random.default_rng(seed))
        assert image.std() <= pixels.std()
        assert image.mean() == pytest.approx(pixels.mean(), rel=0.02)
        np.testing.assert_array_equal(moved, masks)


def test_chance_comes_from_the_generator_alone() -> None:
    pixels, masks = scene((60, 50))
    before = pixels.copy(), masks.copy()
    np.random.seed(1)
    one = augment(pixels, masks, CONFIG, np.random.default_rng([3, 1, 4]))
    np.random.seed(2)
    same = augment(pixels, masks, CONFIG, np.random.default_rng([3, 1, 4]))
    other = augment(pixels, masks, CONFIG, np.random.default_rng([3, 2, 4]))
    for first, second in zip(one, same, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one[0], other[0])
    np.testing.assert_array_equal(pixels, before[0])  # what came in is left alone
    np.testing.assert_array_equal(masks, before[1])


def test_without_a_geometric_operation_every_pixel_stays_where_it_is() -> None:
    pixels, masks = scene((61, 43))
    image, moved = only("contrast", "smooth", gamma=(1, 1), gain=(1, 1), smooth_sigma=0.0)(
        pixels, masks, np.random.default_rng(0))
    np.testing.assert_allclose(image, pixels, atol=1e-6)
    assert moved is masks
