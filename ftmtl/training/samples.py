"""From records to training samples: canvases made once, augmented on the fly.

Chance is seeded by (seed, epoch, image, which of its draws in the epoch): a sample is the same
whatever came before it, in which process, and whether or not training was interrupted.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from ftmtl.atomic import atomic_write
from ftmtl.canvas import EDITION, CanvasGeometry, make_canvas
from ftmtl.config import AugmentConfig
from ftmtl.datasets.film import check_size, read_film
from ftmtl.datasets.fitted import fitted_mask
from ftmtl.datasets.records import Annotation, ImageRecord, Kind
from ftmtl.mammogram import UnreadableMammogram
from ftmtl.prefetch import ahead
from ftmtl.rle import box_of

from .augment import augment

log = logging.getLogger(__name__)
Draw = tuple[int, int, int]  # epoch, index of the record, how often the epoch has had it before
LEAST_VISIBLE = 0.5  # a mass of which augmentation leaves less is ignored, neither way taught


@dataclass(frozen=True)
class Sample:
    """One canvas and its truth, boxes [·, 4] (x1, y1, x2, y2) in canvas pixels.

    `image` [1, H, W] in 0…1, `valid` [H, W]; of T masses `boxes`, `classes` [T] (1, 2),
    `class_known` [T], `masks` [T, H, W] (drawn, or fitted into the box); `ignore` boxes teach
    nothing, `hard_negatives` are boxes a reader rejected. `seed` drives the sampling of anchors and
    RoIs.
    """

    image: Tensor
    valid: Tensor
    boxes: Tensor
    classes: Tensor
    class_known: Tensor
    masks: Tensor
    ignore: Tensor
    hard_negatives: Tensor
    seed: int

    def to(self, device: torch.device) -> Sample:
        """The same sample with its tensors on `device`."""
        tensors: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


class CanvasCache:
    """The canvases of records as files of 16-bit pixels, so that each film is decoded once.

    A film that goes after it was seen once is still had: it ends no training that has begun.
    """

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        self.folder = folder
        self.size = size
        self._keys: dict[tuple[Path, float], str] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, record: ImageRecord) -> tuple[NDArray[np.float32], CanvasGeometry]:
        """The filled part of the canvas [h, w] in 0…1, and its geometry.

        Raises UnreadableMammogram, also where the file is not of the record's size.
        """
        file = self.folder / f"{self._key(record)}.npz"
        try:
            pixels, geometry = self._stored(file)
        except Exception:  # not made yet, or damaged, which numpy meets with errors of every class
            self._make(record, file)
            pixels, geometry = self._stored(file)
        check_size(record, geometry.image_size)
        return pixels, geometry

    def _stored(self, file: Path) -> tuple[NDArray[np.float32], CanvasGeometry]:
        with np.load(file) as stored:
            g = stored["geometry"]
            geometry = CanvasGeometry(
                origin=(int(g[0]), int(g[1])), extent=(int(g[2]), int(g[3])),
                scale=(float(g[4]), float(g[5])), image_size=(int(g[6]), int(g[7])),
                canvas_size=self.size,
            )
            return stored["pixels"].astype(np.float32) / 65535, geometry

    def _key(self, record: ImageRecord) -> str:
        film = record.path, record.pixel_aspect
        try:
            stat = record.path.stat()
        except OSError as error:
            if film in self._keys:
                return self._keys[film]
            raise UnreadableMammogram(
                record.path, "there is no such file", "Check the folder given as --images"
            ) from error
        identity = (str(record.path.resolve()), stat.st_mtime_ns, stat.st_size, record.pixel_aspect,
                    self.size, EDITION)
        self._keys[film] = hashlib.sha256(repr(identity).encode()).hexdigest()[:24]
        return self._keys[film]

    def _make(self, record: ImageRecord, file: Path) -> None:
        film = read_film(record)
        canvas = make_canvas(film.pixels, self.size, pixel_aspect=film.pixel_aspect)
        g = canvas.geometry
        rows, columns = g.filled
        with atomic_write(file) as stream:
            np.savez(
                stream,
                pixels=np.round(canvas.pixels[:rows, :columns] * 65535).astype(np.uint16),
                geometry=np.array([*g.origin, *g.extent, *g.scale, *g.image_size]),
            )


def by_path(record: ImageRecord) -> str:
    """What an image is called among its user's own files."""
    return str(record.path)


def readable(
    records: Sequence[ImageRecord],
    cache: CanvasCache,
    advance: Callable[[int, int], None],
    named: Callable[[ImageRecord], str] = by_path,
) -> tuple[list[ImageRecord], list[str]]:
    """The records whose canvas could be made, and why the others are left out.

    `named` is what an image is called in the reasons and in the log.
    """
    good, left_out = [], []
    for number, record in enumerate(records):
        advance(number, len(records))
        try:
            cache.get(record)
            good.append(record)
        except UnreadableMammogram as error:
            left_out.append(f"{named(record)}: {error.reason}. {error.remedy}")
            log.warning("left out: %s", left_out[-1])
    return good, left_out


class TrainingSet:
    """Samples by Draw."""

    def __init__(
        self,
        records: Sequence[ImageRecord],
        cache: CanvasCache,
        *,
        augmentation: AugmentConfig | None,
        seed: int,
    ) -> None:
        self.records = records
        self.cache = cache
        self.augmentation = augmentation
        self.seed = seed

    def __getitem__(self, at: Draw) -> Sample:
        epoch, index, before = at
        record = self.records[index]
        # A 0 at the end is no other seed: NumPy pads with zeros to four words.
        random = np.random.default_rng([self.seed, epoch, index, before])
        pixels, geometry = self.cache.get(record)
        shapes = [_shape_on_canvas(a, record, geometry)[: pixels.shape[0], : pixels.shape[1]]
                  for a in record.annotations]
        masks = np.array(shapes, dtype=bool).reshape(len(shapes), *pixels.shape)
        areas = masks.sum(axis=(1, 2))
        if self.augmentation is not None:
            pixels, masks = augment(pixels, masks, self.augmentation, random)
        return _sample(record.annotations, pixels, masks, areas, self.cache.size,
                       int(random.integers(2**31)))


def made_ahead(
    samples: TrainingSet, batches: Iterable[Sequence[Draw]]
) -> Iterator[list[Sample]]:
    """The samples of each batch of draws, made while the one before it is learned from.

    Threads do it and not processes: numpy, scipy and torch work side by side in them, no sample is
    sent anywhere, and a server that trains is not forked.
    """
    return ahead(lambda batch: [samples[at] for at in batch], batches)


def _shape_on_canvas(
    annotation: Annotation, record: ImageRecord, geometry: CanvasGeometry
) -> NDArray[np.bool_]:
    # What a model drew is no truth: of a finding that a reader accepted the box alone counts. It
    # teaches a mask as every box does. Taught none, the masks would learn from background alone,
    # empty ones, and fade.
    if annotation.segmentation is not None and annotation.mask_source != "model":
        rle: Any = annotation.segmentation
        if isinstance(rle, list) or isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, record.height, record.width)
        if isinstance(rle, list):
            rle = coco_mask.merge(rle)
        mask = coco_mask.decode(rle).astype(bool)
        if mask.any():
            return geometry.mask_to_canvas(mask)
    box = geometry.boxes_to_canvas(np.array([annotation.bbox]))[0]
    return fitted_mask((box[0], box[1], box[2], box[3]), geometry.canvas_size)


def _sample(
    annotations: Sequence[Annotation],
    pixels: NDArray[np.float32],
    masks: NDArray[np.bool_],
    areas: NDArray[np.int64],
    size: tuple[int, int],
    seed: int,
) -> Sample:
    image = np.zeros(size, dtype=np.float32)
    valid = np.zeros(size, dtype=bool)
    rows, columns = pixels.shape
    image[:rows, :columns] = pixels
    valid[:rows, :columns] = True
    kept: list[int] = []
    boxes: dict[str, list[tuple[float, ...]]] = {"mass": [], "ignore": [], "hard_negative": []}
    for number, (annotation, mask) in enumerate(zip(annotations, masks, strict=True)):
        box = _mask_box(mask)
        if box is None:
            continue
        role = annotation.role
        if role == "mass" and mask.sum() < LEAST_VISIBLE * areas[number]:
            role = "ignore"
        boxes[role].append(box)
        if role == "mass":
            kept.append(number)
    full = np.zeros((len(kept), *size), dtype=np.float32)
    full[:, :rows, :columns] = masks[kept]
    own = [annotations[i] for i in kept]
    return Sample(
        image=torch.from_numpy(image)[None],
        valid=torch.from_numpy(valid),
        boxes=_boxes(boxes["mass"]),
        classes=torch.tensor([a.category for a in own], dtype=torch.long),
        class_known=torch.tensor([a.class_known for a in own], dtype=torch.bool),
        masks=torch.from_numpy(full),
        ignore=_boxes(boxes["ignore"]),
        hard_negatives=_boxes(boxes["hard_negative"]),
        seed=seed,
    )


def _mask_box(mask: NDArray[np.bool_]) -> tuple[float, ...] | None:
    if not mask.any():
        return None
    x, y, width, height = box_of(mask)
    return x, y, x + width, y + height


def _boxes(rows: list[tuple[float, ...]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


class BalancedSampler:
    """The order of an epoch: malignant and benign images in equal number, others in their share.

    Others are normals, and films whose masses nobody has classified. Each kind is gone through in
    shuffled rounds, so that none is seen twice before all are once.
    A film of another round is augmented anew.
    """

    def __init__(self, records: Sequence[ImageRecord], *, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        kinds: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        for index, record in enumerate(records):
            kinds[record.kind].append(index)
        self.kinds = {kind: members for kind, members in kinds.items() if members}
        balanced = self.kinds.keys() & {Kind.BENIGN, Kind.MALIGNANT}
        own = {kind: len(members) / len(records) for kind, members in self.kinds.items()}
        equal = sum(own[kind] for kind in balanced) / max(1, len(balanced))
        self.share = {kind: equal if kind in balanced else own[kind] for kind in self.kinds}

    def epoch(self, epoch: int) -> list[Draw]:
        """Each sample's draw, in order."""
        random = np.random.default_rng([self.seed, epoch])
        # Largest remainders, so that the counts add up to the length.
        exact = {kind: share * self.length for kind, share in self.share.items()}
        counts = {kind: int(value) for kind, value in exact.items()}
        by_rest = sorted(exact, key=lambda kind: counts[kind] - exact[kind])
        for kind in by_rest[: self.length - sum(counts.values())]:
            counts[kind] += 1
        order = [(epoch, index, before) for kind, count in counts.items()
                 for index, before in self._rounds(self.kinds[kind], count, random)]
        return [order[i] for i in random.permutation(len(order))]

    def _rounds(
        self, members: list[int], count: int, random: np.random.Generator
    ) -> Iterator[tuple[int, int]]:
        for first in range(0, count, len(members)):
            for i in random.permutation(len(members))[: count - first]:
                yield members[i], first // len(members)
