"""Many runners timed in turn, so that whatever else the machine does meets all alike."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Times = dict[str, list[float]]


def in_turn(runners: Mapping[str, Callable[[], Any]], rounds: int, *, cuda: bool = False) -> Times:
    """Milliseconds of each runner, `rounds` of them, after one that is not counted."""
    taken: Times = {name: [] for name in runners}
    for number in range(rounds + 1):
        for name, run in runners.items():
            began = time.perf_counter()
            run()
            if cuda:
                torch.cuda.synchronize()
            if number:
                taken[name].append(1000 * (time.perf_counter() - began))
    return taken


def spread(taken: list[float]) -> dict[str, float]:
    """Median, fastest and slowest, to a tenth."""
    return {"median": round(statistics.median(taken), 1), "fastest": round(min(taken), 1),
            "slowest": round(max(taken), 1)}


def show(rows: Mapping[str, Mapping[str, float]], *, what: str, file: Path | None) -> None:
    """Print a row for each name under the machine and `what`; write them as JSON too."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"load {os.getloadavg()[0]:.1f}; {what}")
    for name, row in rows.items():
        print(f"{name:44}", "  ".join(f"{key} {value}" for key, value in row.items()))
    if file:
        file.write_text(json.dumps(rows, indent=1))
