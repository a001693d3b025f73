"""Precision: bfloat16 where the processor has it, float32 where it is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ftmtl.device import autocast, has_bfloat16
from ftmtl.mammogram import read_mammogram
from ftmtl.predict import Predictor
from ftmtl.weights_file import STARTER_WEIGHTS

CPU = torch.device("cpu")


def test_float32_is_computed_where_it_is_asked_for() -> None:
    assert not has_bfloat16(CPU)  # asked for in conftest
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_in_bfloat16_the_same_is_found(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is evident to float32 is evident to bfloat16, at the same place."""
    film = read_mammogram(samples / "P_00820_L_CC.dcm")
    film = replace(film, pixels=film.pixels[::4, ::4])
    exact = Predictor.load(STARTER_WEIGHTS, device="cpu")(film)
    monkeypatch.delenv("FTMTL_FLOAT32")
    if not has_bfloat16(CPU):
        pytest.skip("this processor has no bfloat16")
    coarse = Predictor.load(STARTER_WEIGHTS, device="cpu")(film)
    assert exact.findings and len(exact.findings) == len(coarse.findings)
    for one, other in zip(exact.findings, coarse.findings, strict=True):
        assert other.bbox == pytest.approx(one.bbox, abs=5)
        assert other.scores == pytest.approx(one.scores, abs=0.1)
    assert coarse.verdict.malignancy == pytest.approx(exact.verdict.malignancy, abs=0.1)
