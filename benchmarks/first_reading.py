"""From a request to findings: one sample film through the running server, on this machine.

    python benchmarks/first_reading.py            # 2 threads, 9 readings of each kind

Prints medians (and the slowest) of the whole request and of its parts measured in this process
with the same weights, the server's start and its peak memory. The peer in the same run is the
reading and decoding by pydicom's own `pixel_array`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import pydicom
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from serving import serve  # noqa: E402

from ftmtl.canvas import make_canvas  # noqa: E402
from ftmtl.mammogram import read_mammogram  # noqa: E402
from ftmtl.predict import Predictor  # noqa: E402
from ftmtl.samples import prepare_samples  # noqa: E402
from ftmtl.weights_file import STARTER_WEIGHTS  # noqa: E402

FILM = "P_00820_L_CC.dcm"


def timed(action: Callable[[], object], repeats: int) -> dict[str, float]:
    """Milliseconds of `action` after one run that is not counted."""
    action()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - began))
    return {"median": round(statistics.median(taken), 1), "slowest": round(max(taken), 1)}


def main() -> None:
    """Measure and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {"threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder, "studies")
        prepare_samples(studies)
        film = studies / FILM
        mammogram = read_mammogram(film)
        result["image"] = f"{mammogram.height}×{mammogram.width} {mammogram.pixels.dtype}"
        predictor = Predictor.load(options.weights, device="cpu")
        size = predictor.preset.network.canvas
        parts = {
            "read": lambda: read_mammogram(film),
            "read by pydicom pixel_array": lambda: pydicom.dcmread(film).pixel_array,
            "canvas": lambda: make_canvas(mammogram.pixels, size),
            "canvas, network, findings": lambda: predictor(mammogram),
        }
        for name, action in parts.items():
            result[name] = timed(action, options.repeats)
        workspace = Path(folder, "workspace")
        with serve(
            Path(folder), studies, workspace=workspace, weights=options.weights, by_command=True
        ) as server:
            result["server start, s"] = round(server.seconds_to_start, 1)
            path = f"/infer/ft_mtl_net?image={mammogram.image_id}"

            def ask(output: str, *, fresh: bool = True) -> Callable[[], object]:
                data = {"params": json.dumps({"fresh": fresh})}
                return lambda: server.post(f"{path}&output={output}", data=data).raise_for_status()

            began = time.perf_counter()
            ask("json")()
            first = 1000 * (time.perf_counter() - began)
            result["request, the first after the start"] = round(first, 1)
            result["request, findings"] = timed(ask("json"), options.repeats)
            result["request, findings and label file"] = timed(ask("all"), options.repeats)
            known = timed(ask("json", fresh=False), 3 * options.repeats)
            result["request, findings known before"] = known
            about = lambda: server.get(f"/datastore/image/info?image={mammogram.image_id}")  # noqa: E731
            result["request, nothing but HTTP"] = timed(about, 3 * options.repeats)
            result["server peak memory, MB"] = round(server.peak_megabytes())
    for name, value in result.items():
        print(f"{name:36} {value}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
