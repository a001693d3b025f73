"""The network beside its peers on this machine, in one run.

    python benchmarks/peers.py                    # 2 threads, 9 rounds
    python benchmarks/peers.py --device cuda

Everybody reads the same canvas of a sample film and makes as many proposals and as many detections;
how many is printed, and that of the plain build differs on purpose: 1000 is the number of
proposals that the paper's package (matterport) reads with. Every round runs each once, in turn, so
that whatever else the machine does meets all alike; medians count. Time does not depend on
weights, so torchvision's are random. Where its compiled operators do not load (a build that does
not match torch), its models run with our NMS and RoIAlign, which do the same; that is printed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from in_turn import in_turn, show, spread

from ftmtl.canvas import make_canvas
from ftmtl.config import NetworkConfig
from ftmtl.device import autocast, pick_device
from ftmtl.mammogram import read_mammogram
from ftmtl.network import boxes as box_ops
from ftmtl.network.inference import InferenceNet
from ftmtl.network.model import FTMTLNet, build
from ftmtl.network.roi_align import SAMPLES, roi_align
from ftmtl.samples import prepare_samples
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights

FILM = "P_00820_L_CC.dcm"
CLASSES = 3
Runner = Callable[[], int]  # reads the canvas; how many detections


def main() -> None:
    """Measure and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = pick_device(options.device)
    weights = load_weights(options.weights)
    config = weights.preset.network
    with tempfile.TemporaryDirectory() as folder:
        prepare_samples(Path(folder))
        canvas = make_canvas(read_mammogram(Path(folder, FILM)).pixels, config.canvas)
    image = torch.from_numpy(canvas.pixels)[None, None].to(device)
    valid = torch.from_numpy(canvas.valid)[None].to(device)

    def of_ours(network: FTMTLNet) -> Runner:
        return lambda: len(network.detect(image, valid)[0].boxes)

    matterport = replace(config, proposals_infer=1000, pre_nms=6000)

    def plain(setting: NetworkConfig) -> FTMTLNet:
        network = build(setting)
        network.load_state_dict(weights.state)
        return network.eval().to(device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    same, theirs = config.proposals_infer, matterport.proposals_infer
    runners: dict[str, Runner] = {
        f"ours, {same} proposals": of_ours(InferenceNet(weights.network(), device)),
        f"ours plain, {same} proposals": of_ours(plain(config)),
        f"ours plain, {theirs} proposals": of_ours(plain(matterport)),
    }
    many = weights.network()
    many.config = matterport
    runners[f"ours, {theirs} proposals"] = of_ours(InferenceNet(many, device))
    detections = next(iter(runners.values()))()
    try:
        models = torchvision_models(config.canvas, same, detections)
    except ImportError as error:
        print(f"torchvision's models are left out: {error}")
        models = {}
    grey = image[0].expand(3, -1, -1).contiguous()
    for name, model in models.items():
        model.to(device).eval()
        runners[f"{name}, {same} proposals"] = of_torchvision(model, grey, device)

    found = {name: run() for name, run in runners.items()}
    taken = in_turn(runners, options.rounds, cuda=device.type == "cuda")
    ours = statistics.median(next(iter(taken.values())))
    rows = {
        name: {**spread(ms), "detections": found[name],
               "times ours": round(statistics.median(ms) / ours, 2)}
        for name, ms in taken.items()
    }
    show(rows, what=f"{device}, canvas {config.canvas[0]}×{config.canvas[1]}, ms",
         file=options.json)


def of_torchvision(model: nn.Module, image: torch.Tensor, device: torch.device) -> Runner:
    """A reading by a torchvision model in the precision that ours takes on the device."""
    def run() -> int:
        with torch.inference_mode(), autocast(device):
            return len(model([image])[0]["boxes"])
    return run


def lend_operators() -> None:
    """Ours in the place of torchvision's operators, where those do not load."""
    try:
        importlib.import_module("torchvision.ops").nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        return
    except RuntimeError as error:
        print(f"torchvision runs with our NMS and RoIAlign: {error}")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    # Names that its import wants; nothing is called by them.
    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    torch.library.define("torchvision::nms", schema)
    torch.library.define("torchvision::qnms", schema)
    importlib.import_module("torchvision.ops.boxes").nms = box_ops.nms
    importlib.import_module("torchvision.ops.poolers").roi_align = pooled_as_theirs


def pooled_as_theirs(features: torch.Tensor, boxes: torch.Tensor, *, output_size: tuple[int, int],
                     spatial_scale: float, sampling_ratio: int) -> torch.Tensor:
    """torchvision's `roi_align` without `aligned`, by ours: [1, C, H, W] and [R, 5] given."""
    assert len(features) == 1 and sampling_ratio == SAMPLES
    stride = 1 / spatial_scale
    pooled = roi_align(features[0], boxes[:, 1:] + stride / 2, stride=stride, size=output_size[0])
    return pooled.permute(0, 3, 1, 2)


def torchvision_models(canvas: tuple[int, int], proposals: int, detections: int
                       ) -> dict[str, nn.Module]:
    """Mask R-CNN on a C4 map (He et al. 2017, conv5 in the box head) and on an FPN."""
    lend_operators()
    from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
    from torchvision.models.resnet import resnet50
    from torchvision.ops import MultiScaleRoIAlign

    alike = dict(
        min_size=min(canvas), max_size=max(canvas), box_detections_per_img=detections,
        rpn_pre_nms_top_n_test=1000, rpn_post_nms_top_n_test=proposals, box_score_thresh=0.0,
    )
    torch.manual_seed(0)
    whole = resnet50(weights=None)
    body = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool,
                         whole.layer1, whole.layer2, whole.layer3)
    body.out_channels = 1024  # type: ignore[assignment]

    class Conv5Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv5 = whole.layer4

        def forward(self, pooled: torch.Tensor) -> torch.Tensor:
            return self.conv5(pooled).mean(dim=(2, 3))  # type: ignore[no-any-return]

    c4 = MaskRCNN(
        body,
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2), box_head=Conv5Head(),
        box_predictor=FastRCNNPredictor(2048, CLASSES),
        # torchvision's masks do not share conv5 with the boxes: they are made of C4 itself.
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2), mask_head=nn.Identity(),
        mask_predictor=MaskRCNNPredictor(1024, 256, CLASSES),
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        **alike,
    )
    fpn = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, **alike)
    return {"torchvision C4": c4, "torchvision R50-FPN": fpn}


if __name__ == "__main__":
    main()
