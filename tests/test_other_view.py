"""A mass hears the other view of its breast: by hand, from data sets, from files in any order."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ftmtl.datasets.records import ImageRecord
from ftmtl.mammogram import read_header, read_mammogram
from ftmtl.other_view import RULE, Said, heard, other_views, with_other_view
from ftmtl.predict import SCORE_FLOOR, Predictor
from ftmtl.predict_files import predict_files, predict_records
from ftmtl.reading import Candidate, Reading
from monailabel_app.lib.datastore import MammogramStore


def reading(*masses: tuple[float, float, float]) -> Reading:
    """Of p(mass), malignancy of the mass, p(malignant) given a mass of its best box."""
    return Reading(tuple(
        Candidate((10.0 * n, 0.0, 8.0, 8.0), np.array([1 - s, s * (1 - share), s * share]), m,
                  np.zeros((28, 28), np.float32))
        for n, (s, m, share) in enumerate(masses)
    ), np.zeros(1024, np.float32))


def test_by_hand() -> None:
    """The other view: the largest p(malignant) is 0.45, its most evident mass 0.9.

    It weighs 0.9 / (0.1 + 0.9 · 0.9) and says 0.45 / 0.9, log-odds 0. The own malignancy 0.8 has
    log-odds ln 4, and counts double.
    """
    other = reading((0.9, 0.5, 0.5), (0.1, 0.99, 0.99))
    told = with_other_view(reading((0.7, 0.8, 0.6)), [other])
    weight = 0.9 / 0.91
    (mass,) = told.candidates
    assert mass.malignancy == pytest.approx(1 / (1 + 4 ** (-2 / (2 + weight))))
    share = 1 / (1 + 1.5 ** (-2 / (2 + weight)))
    assert mass.probabilities == pytest.approx([0.3, 0.7 * (1 - share), 0.7 * share])
    assert told.heard and mass.score == pytest.approx(0.7)


def test_two_films_of_the_other_view_are_one_voice() -> None:
    """Weights 1 and 0.5 of malignancies 0.9 and 0.2: the mean of the pulls, and of the weights."""
    pull = (math.log(9) + 0.5 * math.log(0.25)) / 2
    expected = 1 / (1 + math.exp(-(2 * math.log(1.5) + pull) / 2.75))
    assert heard([0.6], [Said(0.9, 1.0), Said(0.2, 0.5)])[0] == pytest.approx(expected)


def test_a_view_that_shows_nothing_says_nothing() -> None:
    own = reading((0.7, 0.8, 0.6))
    assert with_other_view(own, []) is own
    assert with_other_view(own, [reading()]) is own
    hardly = with_other_view(own, [reading((0.002, 0.05, 0.05))]).candidates[0]
    assert hardly.malignancy == pytest.approx(0.8, abs=0.01)


def test_it_rises_with_either_film_and_certainty_does_not_silence_the_other() -> None:
    own = np.linspace(0, 1, 21)
    for weight in (0.1, 0.5, 1.0):
        rows = np.array([heard(own, [Said(m, weight)]) for m in (0.0, 0.2, 0.5, 0.9, 1.0)])
        assert (np.diff(rows, axis=0) > 0).all()
        inner = rows[:, 1:-1]
        assert (np.diff(inner, axis=1) > 0).all() and 0 < rows.min() < rows.max() < 1


def test_films_are_paired_within_one_breast_of_one_examination() -> None:
    ann, later, bob = ("a", "2024", "L"), ("a", "2026", "L"), ("b", None, "L")
    films = [
        (ann, "CC"), (ann, "MLO"), (ann, "MLO"), (later, "MLO"), (("a", "2024", "R"), "MLO"),
        (bob, "CC"), (bob, "CC"), (None, "CC"), (None, "MLO"), (ann, None), (ann, "XCCL"),
    ]
    assert other_views(films) == [(1, 2), (0,), (0,), *[()] * 8]


def test_a_server_pairs_films_of_one_examination(samples: Path, tmp_path: Path) -> None:
    studies, workspace = tmp_path / "studies", tmp_path / "workspace"
    studies.mkdir()
    workspace.mkdir()
    ids = {}
    for name in ("L_CC", "L_MLO", "R_MLO"):
        film = pydicom.dcmread(samples / f"P_00820_{name}.dcm")
        film.save_as(studies / f"{name}.dcm")
        ids[name] = str(film.SOPInstanceUID)
    later = pydicom.dcmread(samples / "P_00820_L_MLO.dcm")
    later.StudyInstanceUID = "1.2.840.77"
    later.SOPInstanceUID = later.file_meta.MediaStorageSOPInstanceUID = "1.2.840.77.1"
    later.save_as(studies / "later.dcm")
    store = MammogramStore(studies, workspace)
    assert store.other_views(ids["L_CC"]) == [ids["L_MLO"]]
    assert store.other_views(ids["L_MLO"]) == [ids["L_CC"]]
    assert store.other_views(ids["R_MLO"]) == store.other_views("1.2.840.77.1") == []
    assert "1.2.840.77" not in (workspace / "images.json").read_text().replace("1.2.840.77.1", "")
    (studies / "L_CC.dcm").unlink()
    store.catalogue.refresh()
    assert store.other_views(ids["L_MLO"]) == []


@pytest.fixture(scope="module")
def predictor(untrained: Path) -> Predictor:
    return Predictor.load(untrained, device="cpu")


@pytest.fixture(scope="module")
def films(samples: Path) -> list[Path]:
    """Two views of a left breast, and one of the right."""
    return [samples / f"P_00820_{name}.dcm" for name in ("L_CC", "L_MLO", "R_MLO")]


def test_a_data_sets_masses_hear_it_unless_the_network_alone_is_asked(
    predictor: Predictor, films: list[Path]
) -> None:
    sides, views = ("L", "L", "R"), ("CC", "MLO", "MLO")
    records = [
        ImageRecord(image_id=number, path=file, width=header.width, height=header.height,
                    patient_id="a", laterality=side, view=view)
        for number, (file, side, view) in enumerate(zip(films, sides, views, strict=True))
        for header in [read_header(file)]
    ]
    alone, _ = predict_records(predictor, records)
    both, _ = predict_records(predictor, records, one_view=False)
    of = [[row for row in alone if row["image_id"] == number] for number in range(3)]
    for row, lone in zip(both, alone, strict=True):
        here = row["image_id"]
        if here == 2:
            assert row == lone, "nobody saw her right breast from above"
            continue
        partner = of[1 - here]
        evident = max(other["score"] for other in partner)
        weight = evident / (0.1 + 0.9 * evident)
        says = max(other["score"] * other["malignancy"] for other in partner) / evident
        odds = (2 * math.log(lone["malignancy"] / (1 - lone["malignancy"]))
                + weight * math.log(says / (1 - says))) / (2 + weight)
        assert row["malignancy"] == pytest.approx(1 / (1 + math.exp(-odds)))
        assert row["category_id"] == (2 if odds > 0 else 1)
        same = ("bbox", "score", "segmentation")
        assert [row.get(key) for key in same] == [lone.get(key) for key in same]
    assert [row["malignancy"] for row in both] != [row["malignancy"] for row in alone]
    nameless = [replace(record, patient_known=False) for record in records]
    assert predict_records(predictor, nameless, one_view=False)[0] == alone


def test_files_say_the_same_in_whatever_order_they_are_read(
    predictor: Predictor, films: list[Path], tmp_path: Path
) -> None:
    documents = []
    for number, order in enumerate(([0, 1, 2], [2, 1, 0])):
        out = tmp_path / str(number)
        predict_files(predictor, [films[n] for n in order], out, threshold=SCORE_FLOOR)
        found = {f.name: json.loads(f.read_text()) for f in out.glob("*.json")}
        patients = found.pop("patients.json")
        documents.append([(d["image"]["view"], d["findings"], d["verdict"])
                          for _, d in sorted(found.items())])
        (said,) = patients.values()
        assert set(said["images"].values()) == {d["verdict"]["malignancy"] for d in found.values()}
        lines = (out / "files.csv").read_text().splitlines()
        assert len(lines) == 4
    assert documents[0] == documents[1]
    how = [verdict["how"] for _, _, verdict in documents[0]]
    assert sorted(RULE in words for words in how) == [False, True, True]
    alone = tmp_path / "alone"
    predict_files(predictor, films[:2], alone, threshold=SCORE_FLOOR, one_view=True)
    mammogram = read_mammogram(films[0])
    document = json.loads((alone / f"{mammogram.image_id}.json").read_text())
    expected = predictor(mammogram, threshold=SCORE_FLOOR).to_json()
    assert (document["findings"], document["verdict"]) == (expected["findings"],
                                                           expected["verdict"])


def test_a_film_that_goes_before_its_other_view_is_read_keeps_what_it_said(
    predictor: Predictor, films: list[Path], tmp_path: Path
) -> None:
    copies = [tmp_path / "in" / file.name for file in films[:2]]
    copies[0].parent.mkdir()
    for file, copy in zip(films, copies, strict=False):
        copy.write_bytes(file.read_bytes())
    first, second = (read_header(file).image_id for file in copies)

    def on_file(number: int, total: int, file: Path) -> None:
        if number == 1:
            copies[0].unlink()

    report = predict_files(predictor, copies, tmp_path / "out", on_file=on_file)
    assert report.read == 2 and len(report.refused) == 1 and str(copies[0]) in report.refused[0]
    how = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text())["verdict"]["how"]
           for name in (first, second)}
    assert RULE not in how[first] and RULE in how[second]
