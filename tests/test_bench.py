"""`ftmtl bench` tells the truth: operations counted by hand, floors from the rates it names."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import pytest
import torch

from ftmtl.bench import WARM_UP, milliseconds
from ftmtl.cli import main
from ftmtl.device import has_bfloat16

CPU = torch.device("cpu")
CELLS = 20 * 12  # of the small canvas's map, 320×192 by 16
ANCHORS = 18


def test_operations_and_floors(
    samples: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bench.json"
    assert main(["bench", str(samples / "P_00820_L_CC.dcm"), "--weights", str(untrained),
                 "--device", "cpu", "--repeats", "1", "--batch", "2", "--training-steps", "1",
                 "--json", str(file)]) == 0
    document = json.loads(file.read_text())
    parts = {row["part"]: row for row in document["reading"]}
    assert list(parts) == [
        "read", "canvas", "backbone", "RPN", "proposals, NMS", "refinement",
        "first deconvolution", "RoIAlign", "heads", "settling", "outlines", "network, whole",
        "candidates", "findings", "label file", "film to findings"]

    # A product with a matrix [inputs, outputs] is 2 · inputs · outputs operations a row.
    assert parts["first deconvolution"]["gflop"] == 2 * CELLS * 1024 * 4 * 256 / 1e9
    # The 3×3 convolution is 9 products a cell, or by Winograd 16 for every four cells.
    products = 9 * CELLS if has_bfloat16(CPU) else 16 * CELLS // 4
    assert parts["RPN"]["gflop"] == pytest.approx(
        2 * (products * 1024 * 512 + CELLS * 512 * 5 * ANCHORS) / 1e9)
    # What is added up is less than the whole, which draws the outlines besides.
    counted = sum(parts[name]["gflop"] for name in (
        "backbone", "RPN", "refinement", "first deconvolution", "RoIAlign", "heads"))
    assert counted <= parts["network, whole"]["gflop"] < 1.2 * counted

    rates = document["machine"]
    for row in parts.values():
        if row["gflop"] is not None:
            floor = max(row["gflop"] / rates["matrix products, GFLOP/s"],
                        row["megabytes"] / 1e3 / rates["memory, GB/s"]) * 1e3
            assert row["floor"] == pytest.approx(floor, rel=0.02), row["part"]
            assert row["ratio"] == row["median"] / row["floor"]
    assert document["throughput"].keys() == {
        "network, batch 1, images/s", "network, batch 2, images/s",
        "films to findings and pictures, films/s"}
    assert 0 < document["training"]["share that waits for data"] < 1
    table = capsys.readouterr().out
    assert all(part in table for part in parts)


def test_runs_that_warm_up_are_not_counted() -> None:
    slow = iter([0.2] * WARM_UP + [0.01] * 5)
    taken = milliseconds(lambda: time.sleep(next(slow)), 5, CPU)
    assert len(taken) == 5 and 10 <= statistics.median(taken) < 100
