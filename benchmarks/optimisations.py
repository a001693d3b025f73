"""What each thing that makes reading fast is worth: with it and without, in turn, in one run.

    python benchmarks/optimisations.py

Every pair does the same work on a sample film and gives the same result (`tests/test_inference.py`,
`tests/test_roi_align.py`, `tests/test_winograd.py`). Each round runs all of them once; medians
count. The last rows start a process each time, or read the eight films as `ftmtl predict` does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import pydicom
import torch
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from in_turn import in_turn, show  # noqa: E402

import ftmtl.predict_files  # noqa: E402
from ftmtl.mammogram import read_mammogram  # noqa: E402
from ftmtl.network.backbone import STRIDE  # noqa: E402
from ftmtl.network.heads import BINS  # noqa: E402
from ftmtl.network.model import FTMTLNet, extents_of  # noqa: E402
from ftmtl.network.roi_align import roi_align  # noqa: E402
from ftmtl.predict import Predictor  # noqa: E402
from ftmtl.prefetch import ahead  # noqa: E402
from ftmtl.samples import prepare_samples  # noqa: E402
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights  # noqa: E402

FILM = "P_00820_L_CC.dcm"
Action = Callable[[], Any]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictor = Predictor.load(STARTER_WEIGHTS, device="cpu")
    weights = load_weights(STARTER_WEIGHTS)
    plain = weights.network().eval()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        films = Path(folder, "films")
        prepare_samples(films)
        rows |= compared(of_the_network(predictor, plain, films / FILM), options.rounds)
        rows |= compared({"decoding RLE": (lambda: read_mammogram(films / FILM),
                                          lambda: pydicom.dcmread(films / FILM).pixel_array)},
                        options.rounds)
        rows |= compared({"reading ahead, 8 films": (
            lambda: read_all(predictor, films, Path(folder), ahead),
            lambda: read_all(predictor, films, Path(folder), one_by_one))}, 3)
    rows |= compared({"MONAI at start, lean": (
        lambda: started("from ftmtl.lean import load_monai; load_monai()"),
        lambda: started("import monai"))}, 3)
    show(rows, what="ms, medians", file=options.json)


def compared(pairs: dict[str, tuple[Action, Action]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of both of each pair, milliseconds, and how many times longer the second takes."""
    runners = {f"{name}, {which}": action for name, pair in pairs.items()
               for which, action in zip(("with", "without"), pair, strict=True)}
    taken = in_turn(runners, rounds)
    rows = {}
    for name in pairs:
        ours, other = (statistics.median(taken[f"{name}, {w}"]) for w in ("with", "without"))
        rows[name] = {"with": round(ours, 1), "without": round(other, 1),
                      "times": round(other / ours, 2)}
    return rows


def of_the_network(predictor: Predictor, plain: FTMTLNet, film: Path
                   ) -> dict[str, tuple[Action, Action]]:
    """The parts of `InferenceNet` beside those that they stand for."""
    net, config = predictor.network, predictor.preset.network
    canvas = predictor.canvas(read_mammogram(film))
    image = torch.from_numpy(canvas.pixels)[None, None]
    valid = torch.from_numpy(canvas.valid)[None]
    theta0 = net.backbone(image, valid)
    extents = extents_of(valid)
    proposals = net.proposals(net.rpn(theta0), extents, config.proposals_infer)
    boxes = net.refine(theta0, proposals, extents)
    prepared = net.prepare(theta0)

    def all_at_once() -> None:
        net.piece, usual = len(boxes[0]), net.piece
        net.describe(prepared, boxes)
        net.piece = usual

    return {
        "batch norms folded, grey stem": (lambda: net.backbone(image, valid),
                                          lambda: plain.backbone(image, valid)),
        "RPN by Winograd's sums": (lambda: net.rpn(theta0), lambda: plain.rpn(theta0)),
        "one bin for a mean (refinement)": (lambda: net.refine(theta0, proposals, extents),
                                            lambda: plain.refine(theta0, proposals, extents)),
        "θ0 deconvolved once, RoIs by pieces": (
            lambda: net.describe(net.prepare(theta0), boxes),
            lambda: plain.describe(theta0, boxes)),
        "heads over 8 RoIs at a time": (lambda: net.describe(prepared, boxes), all_at_once),
        "RoIAlign as bags of cells": (
            lambda: roi_align(theta0[0], boxes[0], stride=STRIDE, size=BINS),
            lambda: by_grid_sample(theta0, boxes[0])),
        "network, whole": (lambda: net.detect(image, valid),
                           lambda: plain.detect(image, valid)),
    }


def by_grid_sample(theta0: Tensor, boxes: Tensor) -> Tensor:
    """RoIAlign the usual way in plain torch: every sampling point read, then averaged."""
    height, width = theta0.shape[2:]
    steps = (torch.arange(2 * BINS) + 0.5) / (2 * BINS)
    x = boxes[:, None, 0] + steps * (boxes[:, 2] - boxes[:, 0])[:, None]
    y = boxes[:, None, 1] + steps * (boxes[:, 3] - boxes[:, 1])[:, None]
    across = (2 * x / STRIDE / width - 1)[:, None, :].expand(-1, 2 * BINS, -1)
    down = (2 * y / STRIDE / height - 1)[:, :, None].expand(-1, -1, 2 * BINS)
    points = torch.stack([across, down], dim=3).flatten(0, 1)[None]
    sampled = F.grid_sample(theta0, points, padding_mode="border", align_corners=False)
    bins = F.avg_pool2d(sampled[0].unflatten(1, (len(boxes), -1)).transpose(0, 1), 2)
    return bins.permute(0, 2, 3, 1)


def one_by_one(prepare: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`ahead` without doing anything ahead."""
    return map(prepare, items)


def read_all(predictor: Predictor, films: Path, out: Path, how: Callable[..., Iterator[Any]]
             ) -> None:
    """All films to findings and pictures."""
    ftmtl.predict_files.ahead = how  # type: ignore[assignment]
    ftmtl.predict_files.predict_files(predictor, sorted(films.glob("*.dcm")), out / "out")


def started(code: str) -> None:
    """A Python that runs `code` and ends."""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


if __name__ == "__main__":
    main()
