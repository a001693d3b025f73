"""The contrast-shifted copy: other greys, the same masses, and greys by the written formula."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK

from ftmtl.cli import main
from ftmtl.config import RECOMMENDED
from ftmtl.datasets.coco import read_coco
from ftmtl.datasets.contrast_shift import BRIGHTER, DARKER, gamma_of, shift, write_shifted
from ftmtl.datasets.film import read_film
from ftmtl.datasets.phantom import make_phantoms


def test_greys_follow_the_formula() -> None:
    """Worked by hand at gamma 2: x = 0, 1/4, 1/2, 1 become x² and then go through the sigmoid."""
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-4 * (x - 0.5)))

    first, last = sigmoid(0), sigmoid(1)
    expected = [round(65535 * (sigmoid(x * x) - first) / (last - first)) for x in (0, 0.25, 0.5, 1)]
    assert shift(np.array([[100, 200, 300, 500]]), 2.0).tolist() == [expected]
    assert shift(np.full((2, 2), 7), 2.0).tolist() == [[0, 0], [0, 0]]


def test_no_training_image_was_shifted_so_far() -> None:
    least, most = RECOMMENDED.training.augment.gamma
    gammas = [gamma_of(number) for number in range(200)]
    assert all(DARKER[0] <= g <= DARKER[1] or BRIGHTER[0] <= g <= BRIGHTER[1] for g in gammas)
    assert max(BRIGHTER) < least and min(DARKER) > most
    assert 60 < sum(g > 1 for g in gammas) < 140


def test_the_copy_keeps_all_but_the_greys(tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                          ) -> None:
    records = make_phantoms(tmp_path / "phantoms", patients=1, seed=3, rows=200)
    out = tmp_path / "shifted"
    source = tmp_path / "phantoms" / "coco.json"
    assert main(["dataset", "contrast-shift", str(source), "--out", str(out)]) == 0
    assert "4 images, 1 patients" in capsys.readouterr().out
    copies = read_coco(out / "coco.json", out)
    assert [replace(c, path=r.path) for c, r in zip(copies, records, strict=True)] == records
    for copy, record in zip(copies, records, strict=True):
        old = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(record.path)))[0]
        new = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(copy.path)))
        assert np.array_equal(new, shift(old, gamma_of(record.image_id)))
        order = np.argsort(old, axis=None, kind="stable")
        assert (np.diff(new.ravel()[order].astype(int)) >= 0).all() and not np.array_equal(old, new)


def test_a_stretch_that_the_header_alone_knows_stays(tmp_path: Path) -> None:
    record, *_ = make_phantoms(tmp_path / "phantoms", patients=1, seed=3, rows=200)
    dataset = pydicom.dcmread(record.path)
    dataset.ImagerPixelSpacing = [0.1, 0.2]
    dataset.save_as(record.path)
    (copy,) = write_shifted([record], tmp_path / "shifted")
    assert read_film(copy).pixel_aspect == read_film(record).pixel_aspect == 0.5
