"""Predictions of a data set by weights that read it on another canvas than they learned on.

    python benchmarks/other_canvas.py --canvas 720 432 --data … --images … --out predictions.json
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from predicted import write_predicted

from ftmtl.predict import Predictor
from ftmtl.weights_file import STARTER_WEIGHTS


def main() -> None:
    """Predict, and write COCO results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canvas", type=int, nargs=2, required=True, metavar=("HEIGHT", "WIDTH"),
                        help="multiples of 16")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    predictor = Predictor.load(options.weights, device=options.device)
    height, width = options.canvas
    network = replace(predictor.preset.network, canvas=(height, width))
    predictor.preset = replace(predictor.preset, network=network)
    write_predicted(predictor, options.data, options.images, options.out)


if __name__ == "__main__":
    main()
