"""How long it takes to choose among 10,000 images: each strategy over a table of made-up figures.

    python benchmarks/next_image.py            # 5 choices each, a tenth to nine tenths labelled

Prints the median and slowest choice, the table's part of it included (lookup of which images are
free and which are done), the processor time of the slowest (all cores together; more than the wall
time, unless the machine is busy with something else), and how long the table takes to be kept.
Nothing is remembered from one choice to the next, but in the last column: the slowest choice after
one more label.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from ftmtl.active import FEATURES, FIGURES, STRATEGIES, same_patient  # noqa: E402
from ftmtl.core_set import CoreSet  # noqa: E402
from ftmtl.findings import ImageInfo  # noqa: E402
from monailabel_app.lib.tables import Table  # noqa: E402


def filled(images: list[str]) -> Table:
    """A table of random figures and features of length 1."""
    random = np.random.default_rng(0)
    table = Table("0" * 64, "1")
    features = random.normal(size=(len(images), FEATURES)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    for image, feature in zip(images, features, strict=True):
        row = np.zeros((), FIGURES)
        for name in FIGURES.names or ():
            row[name] = random.random()
        table.put(image, "0" * 64, row, feature)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    images = [f"1.2.840.{n}" for n in range(options.images)]
    table = filled(images)
    shares = (0.1, 0.3, 0.5, 0.7, 0.9)
    print(f"{options.images} images, {FEATURES} features; ms")
    print(f"{'':14} {'median':>8} {'slowest':>8} {'processor':>9} {'next':>8}")
    for name, strategy in STRATEGIES.items():
        taken, worked, after = [], [], []
        for share in shares:
            done = int(share * len(images))
            began, busy = time.perf_counter(), time.process_time()
            work, _ = table.work(images[done:], images[:done])
            work = replace(work, core_set=CoreSet())
            assert strategy(work) is not None
            taken.append(1000 * (time.perf_counter() - began))
            worked.append(1000 * (time.process_time() - busy))
            began = time.perf_counter()
            one_more, _ = table.work(images[done + 1 :], images[: done + 1])
            assert strategy(replace(one_more, core_set=work.core_set)) is not None
            after.append(1000 * (time.perf_counter() - began))
        print(f"{name:14} {statistics.median(taken):8.1f} {max(taken):8.1f} {max(worked):9.1f} "
              f"{max(after):8.1f}")
    infos = [ImageInfo(id=i, width=9, height=9, laterality="L", view="CC", patient_key=f"{n:016x}")
             for n, i in enumerate(images)]
    began = time.perf_counter()
    same_patient(infos, infos[0])
    print(f"{'same_patient':14} {1000 * (time.perf_counter() - began):8.1f}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "table.npz")
        actions = {"kept": lambda: table.save(file), "loaded": lambda: Table.load(file)}
        for what, action in actions.items():
            began = time.perf_counter()
            action()
            print(f"{'table ' + what:14} {1000 * (time.perf_counter() - began):8.1f}")


if __name__ == "__main__":
    main()
