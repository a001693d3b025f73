"""The network for reading: what `FTMTLNet.detect` finds, from less work.

Nothing is left out or approximated. Five identities of linear maps save the work:

- batch norm at rest is a scale and a shift, so it is folded into its convolution;
- the three channels of a grey image are one image and its valid area, so the stem reads those two;
- RoIAlign is linear over places and the first deconvolution over channels, so they commute: θ0 is
  deconvolved once, not every RoI (49 places of each, of which most overlap);
- the mean over an RoI's 7×7 bins is one bin with as many samples, so boxes are refined and classes
  are told from that;
- in float32 on a CPU the RPN's 3×3 convolution goes by Winograd's sums (`winograd.py`).

What is left to do for each RoI goes in pieces that stay in the processor's cache, and memory does
not grow with the number of proposals.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import cast

import torch
from monai.networks.nets.resnet import ResNetBottleneck
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ftmtl.device import has_bfloat16

from .backbone import STRIDE, Backbone
from .feature_transfer import unblock
from .heads import BINS, SpatialDetectionHead
from .model import FTMTLNet
from .roi_align import roi_align, roi_mean
from .winograd import WinogradConv

PIECE = {"cpu": 8, "cuda": 512}  # RoIs at once: 8 fill 14 MB


class FoldedBottleneck(nn.Module):
    """A bottleneck of ResNet whose batch norms are folded into its convolutions."""

    def __init__(self, block: ResNetBottleneck) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            fuse_conv_bn_eval(conv, norm) for conv, norm in (
                (block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3))
        )
        shortcut = block.downsample
        self.shortcut: nn.Module = nn.Identity()
        if shortcut is not None:
            conv, norm = cast(nn.Sequential, shortcut)
            self.shortcut = fuse_conv_bn_eval(cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W'] as the block's own."""
        y = self.conv2(self.conv1(x).relu_()).relu_()
        out: Tensor = self.conv3(y).add_(self.shortcut(x)).relu_()
        return out


class FoldedBackbone(nn.Module):
    """`Backbone` without batch norms, whose stem reads the image and its valid area."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        stem = fuse_conv_bn_eval(backbone.conv1, backbone.bn1)
        self.stem = nn.Conv2d(2, stem.out_channels, 7, stride=2, padding=3)
        kernels = stem.weight.detach()  # [64, 3, 7, 7]
        # Σ_c w_c (255 i − m_c) v = 255 Σ_c w_c · (i − ½) v + Σ_c w_c (127.5 − m_c) · v. Around ½
        # bfloat16 is as fine as around the means.
        self.stem.weight = nn.Parameter(torch.stack(
            [255 * kernels.sum(dim=1), (kernels * (127.5 - backbone.means)).sum(dim=1)], dim=1))
        self.stem.bias = stem.bias
        blocks = [*backbone.layer1, *backbone.layer2, *backbone.layer3]
        self.blocks = nn.Sequential(*(FoldedBottleneck(cast(ResNetBottleneck, b)) for b in blocks))

    def forward(self, images: Tensor, valid: Tensor) -> Tensor:
        """θ0 [B, 1024, H/16, W/16] of images [B, 1, H, W] in 0…1 and valid [B, H, W]."""
        shown = valid[:, None].float()
        x = torch.cat([(images - 0.5) * shown, shown], dim=1).to(self.stem.weight.dtype)
        x = self.stem(x.contiguous(memory_format=torch.channels_last)).relu_()
        theta0: Tensor = self.blocks(F.max_pool2d(x, 3, stride=2, padding=1))
        return theta0


class InferenceNet(FTMTLNet):
    """A copy of `network` at rest on one device, in bfloat16 where the device multiplies that."""

    def __init__(self, network: FTMTLNet, device: torch.device) -> None:
        network = deepcopy(network).eval()
        super().__init__(
            network.config, backbone=cast(Backbone, FoldedBackbone(network.backbone)),
            rpn=network.rpn, detection=network.detection, segmentation=network.segmentation,
            classification=network.classification, settle=network.settle,
        )
        self.piece = PIECE[device.type]
        dtype = torch.bfloat16 if has_bfloat16(device) else torch.float32
        if device.type == "cpu" and dtype == torch.float32:
            self.rpn.conv = WinogradConv(cast(nn.Conv2d, self.rpn.conv))
        self.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.eval().requires_grad_(False)

    def _refinements(self, theta0: Tensor, proposals: list[Tensor]) -> Tensor:
        detection = self.detection
        if not isinstance(detection, SpatialDetectionHead):
            return torch.cat([
                detection(_mean_pool(features, boxes))
                for features, boxes in zip(theta0, proposals, strict=True)
            ])
        reduced = F.linear(theta0.permute(0, 2, 3, 1), detection.reduce.weight)
        return torch.cat([
            detection.after_reduce(
                roi_align(features, boxes, stride=STRIDE, size=BINS).add_(detection.reduce.bias))
            for features, boxes in zip(reduced.permute(0, 3, 1, 2), proposals, strict=True)
        ])

    def prepare(self, theta0: Tensor) -> Tensor:
        """θ0 and what the first deconvolution makes of it, [B, 2, 1024, h, w]; channels last."""
        by_place = theta0.permute(0, 2, 3, 1)
        unpooled = F.linear(by_place, self.segmentation.deconv1.weight)
        return torch.stack([by_place, unpooled], dim=1).permute(0, 1, 4, 2, 3)

    def describe(
        self, prepared: Tensor, boxes: list[Tensor]
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """As `FTMTLNet.describe`."""
        out = []
        for features, rois in zip(prepared, boxes, strict=True):
            pieces = [self.heads_of(*pooled) for pooled in self.pooled_pieces(features, rois)]
            logits, maps, means = (torch.cat(each) for each in zip(*pieces, strict=True))
            out.append((rois, logits, maps, means))
        return out

    def pooled_pieces(self, prepared: Tensor, boxes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What the heads look at of a `prepare`d image [2, 1024, h, w] and boxes [R, 4], by pieces.

        Mean-pooled θ1 [r, 1, 1, 1024] and θ1 after the first deconvolution [r, 7, 7, 4, 256].
        """
        theta0, unpooled = prepared
        bias = self.segmentation.deconv1.bias.repeat(4)
        means = _mean_pool(theta0, boxes).split(self.piece)
        for part, mean in zip(boxes.split(self.piece), means, strict=True):
            blocks = roi_align(unpooled, part, stride=STRIDE, size=BINS)
            blocks = blocks.add_(bias).unflatten(-1, (4, -1))
            yield mean, blocks

    def heads_of(self, means: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits [r, 3], maps [r, 2, 28, 28] and pooled θ1 [r, 1024] of a piece."""
        theta4, mask_logits = self.segmentation.after_deconv1(blocks)
        class_logits = self.classification(means, theta4, mask_logits)
        return class_logits, unblock(mask_logits).float().sigmoid(), means.float().flatten(1)


def _mean_pool(features: Tensor, boxes: Tensor) -> Tensor:
    """θ1 averaged over its bins [R, 1, 1, C] of `features` [C, h, w] and boxes [R, 4]."""
    return roi_mean(features, boxes, stride=STRIDE, size=BINS)[:, None, None]
