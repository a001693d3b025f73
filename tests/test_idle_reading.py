"""Idle work: a row follows the other view of its breast, and a look at what is due costs little."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
from pacs import PASSWORD, USER, Orthanc, orthanc
from test_datastore import write_dicom
from test_pacs import client_of

from ftmtl.active import FEATURES, Figures, figures_of
from ftmtl.mammogram import read_mammogram
from ftmtl.other_view import with_other_view
from ftmtl.predict import Predictor
from ftmtl.reading import Reading
from monailabel_app.lib import batch
from monailabel_app.lib.batch import IdleReading
from monailabel_app.lib.datastore import MammogramStore
from monailabel_app.lib.dicomweb import DicomWeb
from monailabel_app.lib.infer import FindMasses
from monailabel_app.lib.models import ModelRegistry

CC, MLO = "1.2.840.1", "1.2.840.2"
SERIES = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2"}


@dataclass
class Clinic:
    """Idle work without its thread."""

    store: MammogramStore
    infer: FindMasses
    idle: IdleReading

    @classmethod
    def open(cls, studies: Path | DicomWeb, folder: Path, weights: Path) -> Clinic:
        workspace = folder / "workspace"
        workspace.mkdir()
        store = MammogramStore(studies, workspace)
        registry = ModelRegistry(folder / "models")
        registry.begin_with(weights, origin="starter")
        infer = FindMasses(registry, store.key, workspace, device="cpu")
        return cls(store, infer, IdleReading(infer, store))

    def look(self) -> Clinic:
        """Takes note of what there is now."""
        if self.store.pacs is not None:
            self.store.pacs.sync(self.store.catalogue.refresh)
        self.store.catalogue.refresh()
        return self

    def taken_up(self) -> int:
        """A pass over the list; how often it took an image up."""
        return sum(1 for _ in self.idle.steps())

    def row(self, image: str) -> Figures | None:
        return self.infer.table().figures(image)


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of two views of a breast."""
    films = tmp_path_factory.mktemp("films")
    above = write_dicom(films / "cc.dcm", CC, **SERIES)
    return above, write_dicom(films / "mlo.dcm", MLO, ViewPosition="MLO", BitsStored=11, **SERIES)


@pytest.fixture(scope="module")
def said(views: tuple[Path, Path], untrained: Path) -> tuple[Figures, Figures]:
    """What CC's row is to say alone, and after MLO was heard: mirrored, as it ends."""
    predictor = Predictor.load(untrained, device="cpu")
    films = [read_mammogram(view) for view in views]
    above, beside = (predictor.read(film) for film in films)
    mirrored = predictor.read_mirrored(films[0])
    alone, both = (
        figures_of(
            with_other_view(above, others),
            threshold=predictor.default_threshold,
            mirrored=with_other_view(mirrored, others),
        )
        for others in ([], [beside])
    )
    assert alone["malignancy"] != both["malignancy"]
    return alone, both


def test_a_row_follows_the_other_view_from_cut_off_to_whole_to_another(
    tmp_path: Path, views: tuple[Path, Path], said: tuple[Figures, Figures], untrained: Path
) -> None:
    alone, both = said
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "cc.dcm").write_bytes(views[0].read_bytes())
    whole = views[1].read_bytes()
    (studies / "mlo.dcm").write_bytes(whole[:-9000])
    clinic = Clinic.open(studies, tmp_path, untrained)
    assert clinic.store.other_views(CC) == [MLO]
    assert clinic.taken_up() > 0 and clinic.row(CC) == alone and clinic.row(MLO) is None
    assert clinic.look().taken_up() == 0, "what cannot be read is not tried again and again"
    (studies / "mlo.dcm").write_bytes(whole)
    assert clinic.look().taken_up() > 0 and clinic.row(CC) == both
    assert clinic.look().taken_up() == 0
    write_dicom(studies / "mlo.dcm", MLO, ViewPosition="MLO", **SERIES)  # exported again: another
    assert clinic.look().taken_up() > 0 and clinic.row(CC) not in (alone, both)
    (studies / "mlo.dcm").write_bytes(whole[:-9000])
    assert clinic.look().taken_up() > 0 and clinic.row(CC) == alone


def test_in_a_pacs_a_row_follows_it_and_nothing_is_fetched_to_know(
    tmp_path: Path, views: tuple[Path, Path], said: tuple[Figures, Figures], untrained: Path
) -> None:
    alone, both = said
    with orthanc(tmp_path / "orthanc") as pacs:
        put(pacs, views[0])
        clinic = Clinic.open(DicomWeb(pacs.url_with_password), tmp_path, untrained)
        assert clinic.look().taken_up() > 0 and clinic.row(CC) == alone
        put(pacs, views[1])
        assert clinic.look().taken_up() > 0 and clinic.row(CC) == both
        fetched = list(tmp_path.glob("workspace/pacs/*/*/*.dcm"))
        assert len(fetched) == 2
        for file in fetched:
            file.unlink()
        assert clinic.look().taken_up() == 0
        assert not list(tmp_path.glob("workspace/pacs/*/*/*.dcm"))

        # While it is down the other view is not in the list. What it said is not forgotten.
        clinic.store.images.file(CC)
        pacs.stop()
        assert clinic.look().store.list_images() == [CC] and not clinic.store.other_views(CC)
        assert clinic.taken_up() == 0 and clinic.row(CC) == both


def test_an_other_view_that_a_pacs_could_not_give_is_asked_for_again_after_a_while(
    tmp_path: Path, views: tuple[Path, Path], said: tuple[Figures, Figures], untrained: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone, both = said
    with orthanc(tmp_path / "orthanc") as pacs:
        for view in views:
            put(pacs, view)
        clinic = Clinic.open(DicomWeb(pacs.url_with_password), tmp_path, untrained).look()
        archive, who = pacs.url.removesuffix("/dicom-web"), (USER, PASSWORD)
        (found,) = requests.post(f"{archive}/tools/lookup", data=MLO, auth=who, timeout=60).json()
        requests.delete(archive + found["Path"], auth=who, timeout=60).raise_for_status()
        assert clinic.taken_up() > 0 and clinic.row(CC) == alone
        monkeypatch.setattr(clinic.infer, "remember", pytest.fail)
        clinic.taken_up()  # nothing but the other view is asked for, and it does not come
        monkeypatch.undo()
        put(pacs, views[1])
        monkeypatch.setattr(batch, "UNHEARD_SECONDS", 0.0)
        assert clinic.taken_up() > 0 and clinic.row(CC) == both


def test_with_nothing_to_do_it_lets_others_in_and_looks_at_no_film(
    tmp_path: Path, untrained: Path
) -> None:
    """Both views of 125 breasts, all read already."""
    studies = tmp_path / "studies"
    for number in range(250):
        view, woman = ("CC", "MLO")[number % 2], f"woman {number // 2}"
        write_dicom(studies / f"{number}.dcm", f"1.2.840.7.{number}", woman, ViewPosition=view)
    clinic = Clinic.open(studies, tmp_path, untrained)
    reading = Reading((), np.zeros(FEATURES, np.float32))
    row = figures_of(reading, threshold=0.5, mirrored=reading)
    infer, images = clinic.infer, clinic.store.list_images()
    for image in images:
        infer.table().put(image, infer.content(clinic.store, image), row, reading.features)
    infer.save()

    clinic.store.catalogue._next_look = math.inf  # which has a measure of its own
    studies.rename(tmp_path / "elsewhere")
    assert all(infer.table().knows(i, infer.content(clinic.store, i)) for i in images)
    steps, yields, began = clinic.idle.steps(), 0, time.perf_counter()
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
            yields += 1
    took = time.perf_counter() - began
    assert yields == 4, "after each hundred, in both walks through the list"
    assert 0 < end.value.value <= 20 * took, "a twentieth of the time at most"


def put(pacs: Orthanc, file: Path) -> None:
    client_of(pacs).store_instances([pydicom.dcmread(file)])
