"""The picture of a made-up breast: tissue in space, projected twice, and masses drawn exactly.

A breast lives in normalised coordinates: z from the chest wall (0) to the nipple (1), x from medial
(-1) to lateral (1), y from below (-1) to above (1). CC looks down on x and z; MLO looks obliquely,
at the sum of x and y. z is seen in both, so that a mass lies equally deep in either view.
Parenchyma is random tissue with a power spectrum of 1/f^β: β is 3 in mammograms (Burgess et al.,
Medical Physics 28:419, 2001), and the projection of such a volume has the β of the volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage, sparse

View = Literal["CC", "MLO"]
Kind = Literal["benign", "malignant"]
FloatArray = NDArray[np.float32]

BETA = 3.0
HEIGHT_MM = 240.0  # of the detector, which is three quarters as wide
VOXELS = 80  # of the tissue from medial to lateral, and from below to above
DEEP = 44  # and from chest wall to nipple, so that voxels are about cubes of 2 mm
# The vertical coordinate of a view is x·a + y·b; what a tilted view adds in reach is taken back.
UP: dict[View, tuple[float, float]] = {"CC": (1.0, 0.0), "MLO": (0.6, 0.6)}
NIPPLE: dict[View, float] = {"CC": 0.5, "MLO": 0.58}  # its height, from the top of the detector
RIM_MM = 14.0  # where compressed tissue begins to thin towards the skin
SKIN_MM = 1.5
SPICULES = 18
REACH = 2.6  # of the longest spicule, in radii of its mass


@dataclass(frozen=True, kw_only=True)
class Mass:
    """One mass: its centre (z, x, y), radius in mm, brightness beside fat, and its own chance."""

    kind: Kind
    centre: tuple[float, float, float]
    radius: float
    contrast: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Breast:
    """One breast: its size in mm, share of glandular tissue (about), masses, its own chance."""

    depth: float
    half_width: float  # in CC
    half_height: float  # in MLO
    density: float
    muscle: float  # width of the pectoral muscle at the top of the MLO view
    masses: tuple[Mass, ...]
    seed: int

    def place(self, centre: tuple[float, float, float], view: View) -> tuple[float, float]:
        """Where a point lies in a view: mm from the chest wall, mm above the nipple."""
        z, x, y = centre
        a, b = UP[view]
        return z * self.depth, (a * x + b * y) * self._half(view)

    def _half(self, view: View) -> float:
        return self.half_width if view == "CC" else self.half_height


def outline(breast: Breast, view: View, deep: FloatArray, up: FloatArray) -> NDArray[np.bool_]:
    """Whether points, mm deep and mm above the nipple, lie in the breast."""
    if view == "CC":
        edge = _bow(up / breast.half_width, 2.3) * breast.depth
    else:
        above = _bow(up / (1.3 * breast.half_height), 1.7)
        below = _bow(up / (0.85 * breast.half_height), 2.4)
        axilla = 0.6 / (1 + np.exp(-(up / breast.half_height - 0.6) / 0.22))
        edge = np.where(up > 0, (above**3 + axilla**3) ** (1 / 3), below) * breast.depth
    nipple = np.hypot(deep - breast.depth + 1, up) < 5
    return np.asarray((deep < edge) | nipple)


def in_muscle(breast: Breast, view: View, deep: FloatArray, up: FloatArray) -> FloatArray:
    """How far points lie inside the pectoral muscle, in mm; below 0 outside."""
    if view == "CC":
        return np.full(np.broadcast_shapes(deep.shape, up.shape), -99, dtype=np.float32)
    down = (NIPPLE["MLO"] * HEIGHT_MM - up) / (0.75 * HEIGHT_MM)
    return np.asarray(breast.muscle * (1 - down - 0.25 * down * (1 - down)) - deep, np.float32)


def render(
    breast: Breast, view: View, tissue: FloatArray, rows: int
) -> tuple[NDArray[np.uint16], list[NDArray[np.bool_]]]:
    """The view of a left breast, 12 bits [rows, 3/4 rows], chest wall at the left; its masks."""
    random = np.random.default_rng([breast.seed, len(view)])
    mm = HEIGHT_MM / rows
    deep = ((np.arange(rows * 3 // 4, dtype=np.float32) + 0.5) * mm)[None, :]
    up = (NIPPLE[view] * HEIGHT_MM - (np.arange(rows, dtype=np.float32)[:, None] + 0.5) * mm)
    inside = outline(breast, view, deep, up)
    skin = _distance(inside) * mm
    thickness = np.sqrt(1 - (1 - np.clip(skin / RIM_MM, 0, 1)) ** 2)

    half = breast.half_width if view == "CC" else breast.half_height
    gland = _spread(up[:, 0] / half, -1.2, 1.2, VOXELS) @ _project(tissue, view).T \
        @ _spread(deep[0] / breast.depth, 0, 1, DEEP).T
    gland *= np.clip((skin - SKIN_MM) / RIM_MM, 0, 1)  # fat lies under the skin
    grain = power_law((rows, rows * 3 // 4), random)
    strands = np.exp(-((power_law((rows, rows * 3 // 4), random) / 0.06) ** 2))
    light = 0.2 + 0.62 * gland + (0.025 + 0.07 * gland) * grain \
        + (0.04 + 0.08 * gland) * ndimage.gaussian_filter(strands, 0.25 / mm)
    muscle = 1 / (1 + np.exp(-np.clip(in_muscle(breast, view, deep, up) / 1.2, -30, 30)))
    light += muscle * (0.5 + 0.3 * (light - 0.2) - light + 0.03 * grain)
    masks = [
        _draw(mass, breast.place(mass.centre, view), deep, up, view, light)
        for mass in breast.masses
    ]
    light *= 0.25 + 0.75 * thickness
    light += 0.10 * np.exp(-((skin - SKIN_MM / 2) / SKIN_MM) ** 2)
    light += 0.007 * random.standard_normal(light.shape, dtype=np.float32)
    # Presentation values: the shoulder of the curve keeps dense tissue from burning out.
    shown = np.where(inside, 0.06 + 0.94 * np.tanh(1.15 * np.maximum(light, 0)), 0)
    return np.round(4095 * np.clip(shown, 0, 1)).astype(np.uint16), masks


def tissue(breast: Breast) -> FloatArray:
    """Glandular share [z, x, y] of the voxels of a breast, 0…1: a cone behind the nipple."""
    random = np.random.default_rng([breast.seed, 0])
    z, x, y = np.meshgrid(
        np.linspace(0, 1, DEEP, dtype=np.float32),
        *[np.linspace(-1, 1, VOXELS, dtype=np.float32)] * 2, indexing="ij", sparse=True,
    )
    where = random.normal(0.15, 0.08, size=2).astype(np.float32)  # more of it above and outside
    gland = 2.6 * np.exp(-(((z - 0.52) / 0.33) ** 2) - ((x - where[0]) / 0.55) ** 2
                         - ((y - where[1]) / 0.55) ** 2)
    field = power_law((DEEP, VOXELS, VOXELS), random) + gland - 2.4 + 1.9 * breast.density
    return np.asarray(1 / (1 + np.exp(-4 * field)), dtype=np.float32)


def power_law(shape: tuple[int, ...], random: np.random.Generator) -> FloatArray:
    """A field of mean 0 and deviation 1 whose power falls as 1/f^BETA; it wraps around."""
    white = scipy.fft.rfftn(random.standard_normal(shape, dtype=np.float32))
    field = scipy.fft.irfftn(white * _amplitude(shape), s=shape)
    return np.asarray(field / field.std(), dtype=np.float32)


@lru_cache(maxsize=4)
def _amplitude(shape: tuple[int, ...]) -> FloatArray:
    axes = [*(np.fft.fftfreq(n) for n in shape[:-1]), np.fft.rfftfreq(shape[-1])]
    squared = np.linalg.norm(np.meshgrid(*axes, indexing="ij"), axis=0) ** 2
    squared[(0,) * len(shape)] = np.inf
    return np.asarray(squared ** (-BETA / 4), dtype=np.float32)


def _bow(t: FloatArray, power: float) -> FloatArray:
    """1 in the middle, 0 from |t| = 1 on."""
    return np.asarray(np.sqrt(np.clip(1 - np.abs(t) ** power, 0, 1)), dtype=np.float32)


def _distance(inside: NDArray[np.bool_]) -> FloatArray:
    """Pixels to the nearest point outside; measured on every second one, which is enough."""
    half = ndimage.distance_transform_edt(inside[::2, ::2]).astype(np.float32) * 2
    full = np.repeat(np.repeat(half, 2, axis=0), 2, axis=1)[: inside.shape[0], : inside.shape[1]]
    return np.asarray(ndimage.uniform_filter(full, 3) * inside, dtype=np.float32)


@lru_cache(maxsize=2)
def _rays(view: View) -> sparse.csr_array:
    """[VOXELS, VOXELS²]: the mean over the voxels (x, y) that each line of the view sees."""
    axis = np.linspace(-1, 1, VOXELS)
    a, b = UP[view]
    at = (a * axis[:, None] + b * axis[None, :]).ravel() / 1.2 * 0.5 + 0.5
    at *= VOXELS - 1
    low = np.clip(np.floor(at).astype(int), 0, VOXELS - 2)
    voxel = np.arange(VOXELS * VOXELS)
    weights = sparse.coo_array(
        (np.concatenate([low + 1 - at, at - low]),
         (np.concatenate([low, low + 1]), np.concatenate([voxel, voxel]))),
        shape=(VOXELS, VOXELS * VOXELS),
    ).tocsr()
    return sparse.csr_array(weights / np.maximum(weights.sum(axis=1), VOXELS / 2)[:, None])


def _project(volume: FloatArray, view: View) -> FloatArray:
    """Mean glandular share [z, lines] along the rays of a view."""
    return np.asarray(_rays(view) @ volume.reshape(DEEP, -1).T, dtype=np.float32).T


def _spread(at: FloatArray, low: float, high: float, samples: int) -> FloatArray:
    """[len(at), samples]: smooth interpolation weights of samples from `low` to `high`."""
    position = (at - low) / (high - low) * (samples - 1)
    weight = np.exp(-(((position[:, None] - np.arange(samples)) / 0.8) ** 2))
    return np.asarray(weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-3), np.float32)


def _draw(
    mass: Mass, centre: tuple[float, float], deep: FloatArray, up: FloatArray, view: View,
    light: FloatArray,
) -> NDArray[np.bool_]:
    """Add a mass to `light`; gives its mask: the body, without the strands that run on beyond."""
    random = np.random.default_rng([mass.seed, len(view)])
    near = (np.abs(up[:, 0] - centre[1]) < REACH * mass.radius,
            np.abs(deep[0] - centre[0]) < REACH * mass.radius)
    rows, columns = (slice(*np.flatnonzero(axis)[[0, -1]] + (0, 1)) for axis in near)
    z, v = deep[:, columns] - centre[0], up[rows] - centre[1]
    r, angle = np.hypot(z, v), np.arctan2(v, z)
    edge, added = (_smooth if mass.kind == "benign" else _spiculated)(mass, r, angle, random)
    light[rows, columns] += mass.contrast * added
    mask = np.zeros(light.shape, dtype=bool)
    mask[rows, columns] = r < edge
    return mask


def _smooth(
    mass: Mass, r: FloatArray, angle: FloatArray, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """An oval with a sharp border: its edge and its brightness."""
    squeeze, turn = random.uniform(0.72, 0.95), random.uniform(0, 2 * np.pi, 2)
    edge = mass.radius / np.hypot(np.cos(angle - turn[0]) * squeeze**0.5,
                                  np.sin(angle - turn[0]) / squeeze**0.5)
    edge *= 1 + 0.03 * np.cos(3 * angle + turn[1])
    return edge, np.clip(1 - (r / edge) ** 2, 0, 1) ** 0.4


def _spiculated(
    mass: Mass, r: FloatArray, angle: FloatArray, random: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """A lobed body with spikes, from which thin strands radiate: its edge and its brightness."""
    turn = random.uniform(0, 2 * np.pi, 6)
    edge = np.full_like(r, 0.85)
    for lobes in range(2, 6):
        edge += 0.09 * np.cos(lobes * angle + turn[lobes])
    strands = np.zeros_like(r)
    for direction in (np.arange(SPICULES) + random.uniform(-0.4, 0.4, SPICULES)) / SPICULES:
        off = np.abs((angle - 2 * np.pi * direction + np.pi) % (2 * np.pi) - np.pi)
        edge += random.uniform(0.0, 0.3) * np.exp(-((off / 0.11) ** 2))
        fading = np.clip(1 - r / (random.uniform(1.5, REACH) * mass.radius), 0, 1)
        across = np.where(off < 1, r * off, 99) / (0.3 + 0.6 * fading)
        strands = np.maximum(strands, np.exp(-(across**2)) * fading)
    edge *= mass.radius
    return edge, np.maximum(np.clip(1 - (r / edge) ** 2, 0, 1) ** 0.7, 0.6 * strands)
