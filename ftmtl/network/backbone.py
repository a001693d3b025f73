"""The shared convolution layers: ResNet-50 up to C4 (paper 2.1.1).

θ0 = B(I): [B, 1024, H/16, W/16]. Four halvings (the stem's stride and max-pool, then layer2 and
layer3) give the paper's stride of 16, so conv5 is cut, not only the last FC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from monai.networks.nets.resnet import ResNetBottleneck, resnet50
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

STRIDE = 16
CHANNELS = 1024
# ImageNet means of red, green, blue, 0…255: what the Keras weights, the paper's, were made with.
IMAGENET_MEANS = (123.68, 116.779, 103.939)
# torchvision's weights take grey values in units of ImageNet's standard deviation, from its mean.
TORCHVISION_MEANS, TORCHVISION_UNITS = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
OWN = "backbone."  # where a whole network's weights hold these
STEM = {"conv1.weight": (64, 3, 7, 7), "bn1.running_mean": (64,), "bn1.running_var": (64,)}


class NotResNet50(ValueError):
    """Weights to start from that are no ResNet-50's, or whose input is unknown; with the remedy."""


class Backbone(nn.Module):
    """ResNet-50 C4 for grey canvases [B, 1, H, W] in 0…1; batch norm is never trained.

    `frozen` counts the stages, stem first, that take no gradient.
    """

    means: Tensor

    def __init__(self, *, frozen: int = 0) -> None:
        super().__init__()
        whole = resnet50(
            spatial_dims=2, n_input_channels=3, conv1_t_stride=2, bias_downsample=False
        )
        self.conv1, self.bn1, self.relu, self.maxpool = (
            whole.conv1, whole.bn1, whole.act, whole.maxpool,
        )
        self.layer1, self.layer2, self.layer3 = whole.layer1, whole.layer2, whole.layer3
        for layer in (self.layer2, self.layer3):
            # He et al.'s original placement, which the Keras weights expect: the first 1×1 strides.
            first = cast(ResNetBottleneck, layer[0])
            first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
        self.register_buffer("means", torch.tensor(IMAGENET_MEANS).view(1, 3, 1, 1), False)
        self.frozen = frozen

    def held(self) -> set[nn.Parameter]:
        """The parameters that no stage trains: the frozen stages and every batch norm."""
        stages: list[nn.Module] = [self.conv1, self.layer1, self.layer2, self.layer3]
        fixed = stages[: self.frozen]
        fixed += [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        return {parameter for module in fixed for parameter in module.parameters()}

    def train(self, mode: bool = True) -> Backbone:
        """Training mode leaves batch norm on its ImageNet statistics (matterport's rule)."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor, valid: Tensor) -> Tensor:
        """θ0 [B, 1024, H/16, W/16] of images [B, 1, H, W] in 0…1; padding (`valid` false) is 0."""
        x = (images * 255 - self.means) * valid[:, None]  # grey in all three channels
        x = x.contiguous(memory_format=torch.channels_last)
        stages: tuple[Callable[[Tensor], Tensor], ...] = (
            lambda y: self.maxpool(self.relu(self.bn1(self.conv1(y)))),
            self.layer1, self.layer2, self.layer3,
        )
        for number, stage in enumerate(stages):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self.frozen):
                x = stage(x)
        return x

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Take torchvision-named ResNet-50 weights (`layer1.0.conv1.weight` …), conv5 left out.

        Their stem takes what this one is given: `read_imagenet` sees to it. Raises NotResNet50.
        """
        wanted = self.state_dict()
        missing = [key for key, value in wanted.items() if "num_batches" not in key
                   and (key not in state or state[key].shape != value.shape)]
        if missing:
            raise NotResNet50(
                f"not ResNet-50 weights: {len(missing)} tensors lack or are of another shape, "
                f"{missing[0]} first. Give them under torchvision's names, or weights of ours"
            )
        self.load_state_dict(
            {key: state[key].float() if key in state else value for key, value in wanted.items()}
        )


def read_imagenet(file: Path) -> dict[str, Tensor]:
    """ResNet-50 ImageNet weights from a safetensors file; of weights of ours, their backbone.

    Their stem takes grey values 0…255 less IMAGENET_MEANS, as Keras's does; torchvision's weights,
    which take others, are made to. Raises NotResNet50.
    """
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise NotResNet50(f"{file}: not a safetensors file ({error})") from error
    own = {k.removeprefix(OWN): tensor for k, tensor in state.items() if k.startswith(OWN)}
    if own or any(name not in state or state[name].shape != STEM[name] for name in STEM):
        return own or state  # what lacks, load_imagenet tells
    spread = input_spread(state["conv1.weight"].float(), state["bn1.running_var"].float())
    if 22 < spread < 200:  # Keras's is 67; a factor of 3 is left to other trainings
        return state
    if 0.4 < spread < 3.5:  # torchvision's: 67 / 57, as much around it; inputs 0…1 would give 0.26
        return _from_torchvision(state)
    raise NotResNet50(
        f"{file}: its first layers were made for inputs with a standard deviation of {spread:.2g}, "
        "neither Keras's, about 60, nor torchvision's, about 1. Give weights of one of the two"
    )


def input_spread(weight: Tensor, variance: Tensor) -> float:
    """The standard deviation of the images that a stem was made with, from its own memory of them.

    Its batch norm remembers the `variance` [64] of what its filters, [64, 3, 7, 7], answered.
    Images correlate from pixel to pixel as natural ones do, 0.95 a step, and so do their colours.
    The median over filters: some are dead. Keras's middle half lies between 60 and 71.
    """
    at = torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0))
    space = 0.95 ** torch.cdist(at, at)
    colour = torch.full((3, 3), 0.95).fill_diagonal_(1)
    filters = weight.flatten(2)
    of_unit_images = torch.einsum("fap,ab,pq,fbq->f", filters, colour, space, filters)
    return float((variance / of_unit_images.clamp_min(1e-20)).median().sqrt())


def _from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function of grey values 0…255 less our means, the border of an image apart."""
    weight = state["conv1.weight"].float() / torch.tensor(TORCHVISION_UNITS).view(1, 3, 1, 1)
    offset = torch.tensor(IMAGENET_MEANS) - torch.tensor(TORCHVISION_MEANS)
    shift = torch.einsum("fcij,c->f", weight, offset)
    mean = state["bn1.running_mean"].float() - shift
    return {**state, "conv1.weight": weight, "bn1.running_mean": mean}
