"""Does a second look at the mirror image help? Predictions of a data set with each film read twice.

    ftmtl predict --coco once.json --data SET.json --images DIR
    python benchmarks/read_twice.py --data SET.json --images DIR --out twice.json
    ftmtl evaluate --truth SET.json --predictions twice.json --against once.json --out report

The proposals are the film's own. Each is refined on the film and on its mirror image, and the two
boxes' mean is classified on both; the probabilities' mean goes on to the consensus. Everything else
is as in `ftmtl predict`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ftmtl.datasets.coco import read_coco
from ftmtl.network.inference import InferenceNet
from ftmtl.network.model import Detections, extents_of
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records, write_predictions
from ftmtl.weights_file import STARTER_WEIGHTS


def mirrored(boxes: Tensor, extent: Tensor) -> Tensor:
    """Boxes [R, 4] left and right changed over on a canvas whose valid area is `extent` [2]."""
    return torch.stack([extent[0] - boxes[:, 2], boxes[:, 1],
                        extent[0] - boxes[:, 0], boxes[:, 3]], dim=1)


class TwiceNet(InferenceNet):
    """The network for reading, with a second opinion from the mirror image."""

    @torch.inference_mode()
    def detect(
        self, images: Tensor, valid: Tensor, *, boxes: list[Tensor] | None = None
    ) -> list[Detections]:
        """As `FTMTLNet.detect`, of one canvas; `boxes` are not looked at."""
        extent = extents_of(valid)[0]
        width = int(extent[0])
        turned = images.clone()
        turned[..., :width] = images[..., :width].flip(-1)
        theta0 = [self.backbone(images, valid), self.backbone(turned, valid)]
        prepared = [self.prepare(each) for each in theta0]
        proposals = self.proposals(self.rpn(theta0[0]), extent[None],
                                   self.config.proposals_infer)[0]
        sides = [proposals, mirrored(proposals, extent)]
        one, other = (self.refine(each, [side], extent[None])[0]
                      for each, side in zip(theta0, sides, strict=True))
        if len(one) == len(other):  # a box that refinement moved off the breast has no partner
            one = (one + mirrored(other, extent)) / 2
        seen = [self.describe(each, [side])[0] for each, side in
                zip(prepared, [one, mirrored(one, extent)], strict=True)]
        both = torch.stack([logits.softmax(dim=1) for _, logits, _, _ in seen]).mean(dim=0)
        settled, logits = self.settle(one, both.clamp(min=1e-12).log())
        _, _, maps, pooled = self.describe(prepared[0], [settled])[0]
        kind = logits[:, 1:].argmax(dim=1)
        return [Detections(settled, logits, maps[torch.arange(len(kind)), kind], pooled)]


def main() -> None:
    """Predict, and write COCO results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    predictor = Predictor.load(options.weights, device="cpu")
    predictor.network.__class__ = TwiceNet
    records = read_coco(options.data, options.images)
    with tqdm(total=len(records), unit=" films", mininterval=10) as bar:
        results, report = predict_records(predictor, records,
                                          on_file=lambda done, *_: bar.update(done - bar.n))
    write_predictions(options.out, results)
    print(f"{report.read} films read, {len(report.refused)} refused, {len(results)} candidates")


if __name__ == "__main__":
    main()
