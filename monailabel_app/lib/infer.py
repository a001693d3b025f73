"""The inference task: one mammogram in, the findings document and a file of it out.

Masses hear the other view of their breast (`ftmtl.other_view`) wherever the server speaks: in
answers, in the table, in scores. What is kept on disk is what the network saw in each film alone.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from ftmtl.active import figures_of
from ftmtl.datasets.labels import LABEL_SUFFIX
from ftmtl.digest import sha256_of
from ftmtl.findings import Findings, ImageInfo
from ftmtl.mammogram import (
    Mammogram,
    MammogramHeader,
    UnreadableMammogram,
    read_header,
    read_mammogram,
)
from ftmtl.other_view import with_other_view
from ftmtl.patient_key import PatientKey
from ftmtl.predict import InvalidBoxes, Predictor, image_info
from ftmtl.reading import Reading

from .answer_file import LABELS, write_answer
from .datastore import MammogramStore
from .models import MODEL, ModelRegistry, ModelVersion
from .pacs import Pacs
from .question import Question, check_device
from .readings import Digests, Readings
from .tables import Serving, Table, Tables
from .turns import Turns

logger = logging.getLogger(__name__)

# In the place of a digest:
UNHEARD = "unheard"  # the other view is no image, or could not be had
IN_PACS = "in a PACS"  # where nothing changes under its id, so that it need not be fetched to know
Turn = Callable[[], AbstractContextManager[None]]
Read = TypeVar("Read", Mammogram, MammogramHeader)


@dataclass(frozen=True)
class ImageFile:
    """Where an image lies; `image` is what the work list knows of it, None for an upload.

    `others`: the images of its breast's other view, and what brings each of them here.
    """

    path: Path
    root: Path
    image: ImageInfo | None = None
    others: Mapping[str, Callable[[], ImageFile]] = field(default_factory=dict)
    in_pacs: bool = False


@dataclass(frozen=True)
class Seen:
    """What the model sees in an image alone, and whether that was known."""

    reading: Reading
    image: ImageInfo
    was_known: bool
    digest: str  # of the image's bytes, or IN_PACS


@dataclass(frozen=True)
class Heard:
    """The reading of an image after its breast's other view was heard."""

    reading: Reading
    image: ImageInfo
    was_known: bool  # alone
    others: Sequence[Reading]
    content: str  # what it rests on, as FindMasses.content tells


class FindMasses(InferTask):  # type: ignore[misc]
    """Boxes, masks and malignancy of the masses in a mammogram."""

    def __init__(
        self, registry: ModelRegistry, key: PatientKey, workspace: Path, *, device: str
    ) -> None:
        """What the model has seen is kept below `workspace`."""
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=LABELS,
            dimension=2,
            description="Breast masses in a mammogram: box, mask, benign or malignant",
        )
        self.registry, self.key, self.device = registry, key, check_device(device)
        self.readings = Readings(workspace / "readings")
        self.digests = Digests(workspace / "digests.json")
        self.tables = Tables(workspace / "tables")
        self.turns = Turns()
        self._unreadable: dict[str, str] = {}  # listed image -> SHA-256 of what was no image
        self._read_along: set[str] = set()  # read for their other view's sake, not yet for theirs
        self._loaded: dict[str, tuple[ModelVersion, Predictor]] = {}
        self._loading = threading.Lock()

    def is_valid(self) -> bool:
        """There is a model in service."""
        return self.registry.current() is not None

    def info(self) -> dict[str, Any]:
        """What `/info/` says of the model: also which version is in service, and all others."""
        current = self.registry.current()
        return {
            **super().info(),
            "name": MODEL,
            "version": current.version if current else None,
            "sha256": current.sha256 if current else None,
            "device": self.device,
            "metadata": self._metadata(),
            "versions": [
                {**v.to_json(), "in_service": current is not None and v.version == current.version}
                for v in self.registry.versions()
            ],
            "publications": self.registry.publications(),
            "images_read": len(self.table()) if current else 0,
        }

    def get_path(self, validate: bool = True) -> str | None:
        """The weights in service."""
        current = self.registry.current()
        return str(self.registry.path(current)) if current else None

    def warm_up(self) -> None:
        """Loads the model and runs it once, so that the first reader does not wait for that.

        It counts as a reader, so that idle work does not begin before she can have asked.
        """
        height, width = 1024, 768
        y, x = np.mgrid[:height, :width]
        breast = (x / 500) ** 2 + ((y - 512) / 480) ** 2 < 1
        noise = np.random.default_rng(0).integers(800, 1600, size=breast.shape)
        pixels = np.where(breast, noise, 0).astype(np.uint16)
        nobody = Mammogram(pixels=pixels, image_id="warm-up", path=Path("warm-up"))
        predictor = self.predictor(self.device)
        with self.turns.reader():
            predictor(nobody, boxes=[[100, 400, 200, 200]])
            predictor(nobody)

    def in_service(self) -> ModelVersion:
        """The version in service; 503 where there is none."""
        current = self.registry.current()
        if current is None:
            raise HTTPException(503, "No version of the model is in service")
        return current

    def table(self) -> Table:
        """The table of the version in service."""
        current = self.in_service()
        return self.tables.current(current.sha256, current.version)

    def serving(self) -> Serving:
        """The table to choose from."""
        current = self.in_service()
        return self.tables.serving(current.sha256, current.version)

    def state(self, image_id: str, *, held_by: str | None) -> dict[str, Any]:
        """What a work list shows of an image: its state, and its verdict where it was read."""
        row = self.table().figures(image_id)
        return {
            "state": "held" if held_by is not None else "new" if row is None else "read",
            "held_by": held_by,
            "malignancy": None if row is None else float(row["malignancy"]),
        }

    def predictor(self, device: str) -> Predictor:
        """The model in service, loaded; again when another version has been published."""
        current = self.in_service()
        with self._loading:
            loaded = self._loaded.get(device)
            if loaded is None or loaded[0].sha256 != current.sha256:
                file = self.registry.path(current)
                predictor = Predictor.load(file, device=device, version=current.version)
                loaded = self._loaded[device] = (current, predictor)
                logger.info("Version %s of %s is loaded on %s", current.version, MODEL, device)
            return loaded[1]

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """The answer to a request whose `source` the app has vouched for.

        Returns the file (None where only JSON is wanted; the caller deletes it) and the document.
        """
        question = Question.of(request, device=self.device)
        source: ImageFile = request["source"]
        began = time.monotonic()
        predictor = self.predictor(question.device)
        if question.boxes is not None:
            findings = self._describe(predictor, source, question.boxes)
        else:
            heard = self._heard(predictor, source, turn=self.turns.reader, fresh=question.fresh)
            findings = predictor.findings(
                heard.reading, heard.image,
                threshold=question.threshold, max_findings=question.max_findings,
            )
        was_found = time.monotonic()
        file = None
        if not question.json_alone:
            file = write_answer(findings, question.extension, compress=question.compress)
        document = findings.to_json()
        if question.extension != LABEL_SUFFIX:
            document["label_names"] = LABELS  # the stock plugin reads a label map by it
        logger.info(
            "%d findings after %.3f s, written in %.3f s",
            len(findings.findings), was_found - began, time.monotonic() - was_found,
        )
        return file, document

    def remember(
        self, image_id: str, source: ImageFile, *, device: str | None = None, mirrored: bool = False
    ) -> bool:
        """Sees to it that an image's reading is kept and stands in the table.

        `mirrored` reads its mirror image too, for the disagreement. Whether the network was
        spared. 422 where the image cannot be read.
        """
        predictor = self.predictor(device or self.device)
        heard = self._heard(predictor, source, turn=self.turns.other)
        was_known = heard.was_known and image_id not in self._read_along
        self._read_along.discard(image_id)
        if mirrored:
            with self.turns.other():
                alone = predictor.read_mirrored(read(source.path, source.root))
            self._enter(predictor, heard, with_other_view(alone, heard.others))
        return was_known and not mirrored

    def recall(self, predictor: Predictor, source: ImageFile) -> tuple[Reading, ImageInfo, bool]:
        """An image's reading, made now if it is not known; no reader waits for more than it."""
        heard = self._heard(predictor, source, turn=self.turns.other)
        return heard.reading, heard.image, heard.was_known

    def known(self, store: MammogramStore, image_id: str) -> Findings | None:
        """All that the version in service has seen in a listed image; None if nothing is kept.

        Of the other view what is kept is heard; nothing is read for it.
        """
        try:
            predictor = self.predictor(self.device)
            own = self._kept(predictor, listed(store, image_id).path)
            image = store.image_info(image_id)
        except HTTPException:  # no version in service, or the file cannot be had
            return None
        if own is None:
            return None
        found = map(store.catalogue.get, store.other_views(image_id))
        entries = [entry for entry in found if entry is not None]
        others = (self._kept(predictor, store.catalogue.path(entry)) for entry in entries)
        heard = with_other_view(own, [other for other in others if other is not None])
        return predictor.findings(heard, image, threshold=0.0)

    def content(self, store: MammogramStore, image_id: str) -> str:
        """What a listed image's row is to rest on now: its bytes and its breast's other view's.

        By what the list says of their files: one that was digested before is not looked at, and
        nothing is fetched. Raises HTTPException, OSError where the image has gone.
        """
        others = {}
        for other in store.other_views(image_id):
            others[other] = UNHEARD
            with suppress(HTTPException, OSError):
                if not self.is_unreadable(store, other):
                    others[other] = self._digest(store, other)
        return _content(image_id, self._digest(store, image_id), others)

    def is_unreadable(self, store: MammogramStore, image_id: str) -> bool:
        """Whether a listed image could not be read when it was last tried, and is the same."""
        digest = self._unreadable.get(image_id)
        if digest is None:
            return False
        try:
            return self.digests.of(store.catalogue.path(store.entry(image_id))) == digest
        except (HTTPException, OSError):
            return True  # it has gone

    def save(self) -> None:
        """Keeps the table and the digests for the next start; a full disk costs time then."""
        try:
            self.tables.save()
            self.digests.save()
        except OSError as error:
            logger.warning("The table could not be kept: %s", error)

    def _digest(self, store: MammogramStore, image_id: str) -> str:
        entry = store.entry(image_id)
        if entry.root == Pacs.name:
            return IN_PACS
        return self.digests.of(store.catalogue.path(entry), (entry.changed, entry.size))

    def _describe(
        self, predictor: Predictor, source: ImageFile, boxes: list[list[float]]
    ) -> Findings:
        seen = self._others(predictor, source, self.turns.reader).values()
        others = [other.reading for other in seen if other is not None]
        with self.turns.reader():
            mammogram = read(source.path, source.root)
            key = self.key.of(mammogram)
            try:
                return predictor(mammogram, boxes=boxes, patient_key=key, others=others)
            except InvalidBoxes as error:
                raise HTTPException(400, str(error)) from error

    def _heard(
        self, predictor: Predictor, source: ImageFile, *, turn: Turn, fresh: bool = False
    ) -> Heard:
        """An image's reading, made now if it is not known; a listed one is then in the table."""
        alone = self._alone(predictor, source, turn=turn, fresh=fresh)
        seen = self._others(predictor, source, turn)
        others = [other.reading for other in seen.values() if other is not None]
        digests = {name: other.digest if other else UNHEARD for name, other in seen.items()}
        heard = Heard(
            with_other_view(alone.reading, others), alone.image, alone.was_known, others,
            _content(alone.image.id, alone.digest, digests),
        )  # fmt: skip
        if source.image is not None and not (
            heard.was_known and self.table().knows(heard.image.id, heard.content)
        ):
            self._enter(predictor, heard)
        return heard

    def _others(
        self, predictor: Predictor, source: ImageFile, turn: Turn
    ) -> dict[str, Seen | None]:
        """What is seen in the breast's other view, looked for now if it is not known, by image.

        None for one that is no image or cannot be had.
        """
        found: dict[str, Seen | None] = dict.fromkeys(source.others)
        for image_id, bring in source.others.items():
            try:
                other = bring()
                if self._unreadable.get(image_id) == self.digests.of(other.path):
                    continue
                seen = found[image_id] = self._alone(predictor, other, turn=turn)
            except HTTPException as error:  # unreadable, or the PACS does not give it
                logger.info("The other view of a breast is not heard: %s", error.detail)
                continue
            except OSError:  # it has gone; the error would name the file, and with it a patient
                continue
            if not seen.was_known:
                self._read_along.add(image_id)
        return found

    def _kept(self, predictor: Predictor, file: Path) -> Reading | None:
        try:
            return self.readings.get(predictor.model.sha256, self.digests.of(file))
        except OSError:
            return None

    def _alone(
        self, predictor: Predictor, source: ImageFile, *, turn: Turn, fresh: bool = False
    ) -> Seen:
        model = predictor.model.sha256
        try:
            is_upload = source.image is None
            digest = sha256_of(source.path) if is_upload else self.digests.of(source.path)
        except OSError as error:
            raise HTTPException(404, "The file of the image has gone") from error
        facts: Mammogram | MammogramHeader | None = None
        reading = None if fresh else self.readings.get(model, digest)
        if reading is None:
            with turn():
                # Somebody who stood before us in line may have asked the same.
                reading = None if fresh else self.readings.get(model, digest)
                if reading is None:
                    facts = mammogram = self._read(source, digest)
                    reading = predictor.read(mammogram)
                    self.readings.put(model, digest, reading)
        was_known = facts is None
        if source.image is not None:
            known_by = IN_PACS if source.in_pacs else digest
            return Seen(reading, source.image, was_known, known_by)
        facts = facts or _readable(read_header, source.path, source.root)
        return Seen(reading, image_info(facts, self.key.of(facts)), was_known, digest)

    def _read(self, source: ImageFile, digest: str) -> Mammogram:
        listed_as = source.image.id if source.image else ""
        try:
            mammogram = read(source.path, source.root)
        except HTTPException:
            self._unreadable[listed_as] = digest
            raise
        self._unreadable.pop(listed_as, None)
        return mammogram

    def _enter(self, predictor: Predictor, heard: Heard, mirrored: Reading | None = None) -> None:
        """Sets a listed image's row, unless another version went into service meanwhile."""
        table = self.table()
        if table.model == predictor.model.sha256:
            threshold = predictor.default_threshold
            row = figures_of(heard.reading, threshold=threshold, mirrored=mirrored)
            table.put(heard.image.id, heard.content, row, heard.reading.features)

    def _metadata(self) -> dict[str, Any]:
        loaded = self._loaded.get(self.device)
        return dict(loaded[1].metadata) if loaded else {}


def read(path: Path, root: Path) -> Mammogram:
    """The mammogram; 422 with the reason, and without the server's folders, where it is none."""
    return _readable(read_mammogram, path, root)


def _readable(reader: Callable[..., Read], path: Path, root: Path) -> Read:
    try:
        return reader(path, root=root)
    except UnreadableMammogram as error:
        reason = f"The image cannot be read: {error.reason}. {error.remedy}"
        raise HTTPException(422, reason) from error


def listed(store: MammogramStore, image_id: Any) -> ImageFile:
    """An image of the work list; 404 where there is none, 400 for what cannot be an id."""
    path = Path(store.get_image_uri(image_id))
    entry = store.entry(image_id)
    root = store.catalogue.roots[entry.root]
    others = {other: partial(listed, store, other) for other in store.other_views(image_id)}
    in_pacs = entry.root == Pacs.name
    return ImageFile(path, root, store.image_info(image_id), others, in_pacs=in_pacs)


def _content(image_id: str, digest: str, others: Mapping[str, str]) -> str:
    """One digest of an image and of its breast's other view (image -> digest or UNHEARD)."""
    rests_on = [(image_id, digest), *sorted(others.items())]
    return hashlib.sha256("\n".join(map(" ".join, rests_on)).encode()).hexdigest()
