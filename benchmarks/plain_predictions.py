"""Predictions of a data set by the plain network, to judge the fast one by.

    ftmtl predict --one-view --coco fast.json --data SET.json --images DIR --weights W
    python benchmarks/plain_predictions.py --data SET.json --images DIR --weights W \
        --proposals 1000 --out plain.json
    ftmtl evaluate --truth SET.json --predictions fast.json --against plain.json

Everything but the network is as in `ftmtl predict`: the same canvas, calibration and suppression.
The network is the one that was trained, layer by layer: batch norms unfolded, three channels, every
RoI pooled and deconvolved on its own. 1000 proposals of 6000 boxes is what the paper's package
(matterport) reads with.
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

from ftmtl.network.model import build
from ftmtl.predict import Predictor
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights

PRE_NMS_A_PROPOSAL = 6


def main() -> None:
    """Predict, and write COCO results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    parser.add_argument("--proposals", type=int, help="default: as many as the weights read with")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    predictor = Predictor.load(options.weights, device="cpu")
    weights = load_weights(options.weights)
    config = weights.preset.network
    if options.proposals:
        config = replace(config, proposals_infer=options.proposals,
                         pre_nms=PRE_NMS_A_PROPOSAL * options.proposals)
    plain = build(config)
    plain.load_state_dict(weights.state)
    predictor.network = plain.eval()  # type: ignore[assignment]
    write_predicted(predictor, options.data, options.images, options.out)


if __name__ == "__main__":
    main()
