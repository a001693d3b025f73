"""Time and memory by the number of proposals, of canvases at once, and of films.

    python benchmarks/scale.py

Proposals are the best of six times as many boxes, the ratio of the paper's package. A straight line
is fitted to each series; its largest miss is printed as a share of the last value, and so is what
one more costs. The films are the eight samples over and over, through `ftmtl
predict`'s own loop with findings and pictures. Memory is the process's peak so far; the series run
from few to many, so that growth shows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import numpy as np
import pydicom
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ftmtl.bench import milliseconds
from ftmtl.mammogram import read_mammogram
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_files
from ftmtl.samples import prepare_samples
from ftmtl.weights_file import STARTER_WEIGHTS

Series = list[dict[str, float]]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--proposals", type=int, nargs="+", default=[50, 100, 200, 400, 800])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--films", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictor = Predictor.load(STARTER_WEIGHTS, device="cpu")
    net = predictor.network
    usual = net.config
    series: dict[str, Series] = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare_samples(Path(folder, "films"))
        films = sorted(Path(folder, "films").glob("*.dcm"))
        for film in films:  # without a UID each further name of it is another image
            dataset = pydicom.dcmread(film)
            dataset.SOPInstanceUID = ""
            dataset.save_as(film)
        canvases = [predictor.canvas(read_mammogram(film)) for film in films]
        images = torch.stack([torch.from_numpy(c.pixels)[None] for c in canvases])
        valid = torch.stack([torch.from_numpy(c.valid) for c in canvases])

        def detect(count: int) -> list[float]:
            chosen = [n % len(images) for n in range(count)]
            return milliseconds(lambda: net.detect(images[chosen], valid[chosen]),
                                options.repeats, predictor.device)

        def propose(count: int) -> list[float]:
            net.config = replace(usual, proposals_infer=count, pre_nms=6 * count)
            return detect(1)

        def read(count: int) -> list[float]:
            chosen = Path(tempfile.mkdtemp(dir=folder))
            for n in range(count):
                (chosen / f"{n:04}.dcm").symlink_to(films[n % len(films)])
            began = time.perf_counter()
            predict_files(predictor, [chosen], Path(folder, "out"))
            return [1000 * (time.perf_counter() - began)]

        # Films first: many canvases at once take more memory than any number of films.
        series["films"] = measured(options.films, read)
        series["canvases at once"] = measured(options.batches, detect)
        series["proposals"] = measured(options.proposals, propose)
    for name, rows in series.items():
        line, miss = straight(rows)
        print(f"\n{name}: {line[0]:.2f} ms for each, {line[1]:.0f} ms besides; "
              f"off the line by {100 * miss:.0f} % of the last at most")
        for row in rows:
            print(f"{row['count']:8.0f} {row['ms']:10.0f} ms   peak {row['peak MB']:6.0f} MB")
    if options.json:
        options.json.write_text(json.dumps(series, indent=1))


def measured(counts: Sequence[int], action: Callable[[int], list[float]]) -> Series:
    """Median time and peak memory for each count."""
    rows = []
    for count in sorted(counts):
        median = statistics.median(action(count))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append({"count": float(count), "ms": median, "peak MB": peak})
    return rows


def straight(rows: Series) -> tuple[tuple[float, float], float]:
    """Slope and intercept of the line through a series, and its largest relative miss."""
    counts, times = (np.array([row[key] for row in rows]) for key in ("count", "ms"))
    slope, rest = np.polyfit(counts, times, 1)
    return (slope, rest), float(np.abs(slope * counts + rest - times).max() / times[-1])


if __name__ == "__main__":
    main()
