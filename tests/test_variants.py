"""The paper's baseline and the ablations: what each looks at, and that its weights name it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ftmtl.config import MODELS, PAPER, RECOMMENDED, Preset, Variant, preset_of
from ftmtl.mammogram import read_mammogram
from ftmtl.network.backbone import Backbone, read_imagenet
from ftmtl.network.feature_transfer import transfer
from ftmtl.network.model import FTMTLNet, build
from ftmtl.predict import Predictor
from ftmtl.weights_file import save_weights

VARIANTS: tuple[Variant, ...] = get_args(Variant)


def network_of(variant: Variant) -> FTMTLNet:
    torch.manual_seed(0)
    return build(replace(PAPER.network, variant=variant)).eval()


def weights_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.dim() > 1)


def test_mask_rcnn_has_two_million_weights_where_the_paper_counts_them() -> None:
    """Introduction: "768 parameters compared to ~2M parameters from Mask-RCNN"."""
    ours, theirs = network_of("ft-mtl-net"), network_of("mask-rcnn")
    plain = network_of("no-transfer")
    assert weights_of(ours.classification) - weights_of(plain.classification) == 768
    linear = [m for m in theirs.classification.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(1024, 1024), (1024, 1024),
                                                                 (1024, 3)]
    assert weights_of(theirs.classification) - weights_of(plain.classification) == 2 * 1024**2
    others = {name: p.shape for name, p in ours.named_parameters() if "classification" not in name}
    assert others == {n: p.shape for n, p in theirs.named_parameters() if "classification" not in n}


@pytest.mark.parametrize("model", MODELS)
def test_what_models_share_starts_alike(model: str) -> None:
    """From the same seed: what two models differ in is not the luck of their boxes and masks."""
    def shared(name: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        state = build(preset_of(name, RECOMMENDED).network).state_dict()
        return {key: value for key, value in state.items() if "classification" not in key}

    theirs = shared(model)
    for name, value in shared("ft-mtl-net").items():
        assert torch.equal(theirs[name], value), name


@pytest.mark.parametrize("preset", [PAPER, RECOMMENDED], ids=lambda preset: preset.name)
def test_what_two_layers_hand_on_is_heard_from_the_start(preset: Preset) -> None:
    """Neither the transfer nor the baseline's hidden layers fade beside the pooled features.

    What is a hundredth of its neighbour gets a hundredth of the gradient, and stays unheard.
    """
    theta1 = torch.rand(16, 7, 7, 1024, generator=torch.Generator().manual_seed(0))
    pooled = theta1.mean(dim=(1, 2))
    torch.manual_seed(0)
    ours = build(preset.network)
    transferred = transfer(*ours.segmentation(theta1)).detach()
    assert 0.1 < float(transferred.norm() / pooled.norm()) < 2
    theta6 = torch.cat([pooled, transferred], dim=1)
    for variant, seen in (("mask-rcnn", pooled), ("ft-mtl-net-deep", theta6)):
        theirs = build(preset_of(variant, preset).network).classification
        hidden = theirs.get_submodule("hidden")(seen).detach()
        assert 0.5 < float(hidden.norm() / pooled.norm()) < 2


def features() -> tuple[Tensor, Tensor, Tensor]:
    """θ1 [5, 7, 7, 1024], and θ4 and mask logits in 2×2 blocks."""
    random = torch.Generator().manual_seed(3)
    theta1 = torch.randn(5, 7, 7, 1024, generator=random)
    theta4 = torch.randn(5, 14, 14, 4, 256, generator=random)
    return theta1, theta4, torch.randn(5, 14, 14, 4, 2, generator=random)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_classifier_looks_at_and_teaches(variant: Variant) -> None:
    """Which of its three inputs move its logits, and which take a gradient from them."""
    head = network_of(variant).classification
    inputs = [x.requires_grad_() for x in features()]
    logits = head(*inputs)
    assert logits.shape == (5, 3)
    moves = []
    for i in range(3):
        changed = [x + 1.0 * (j == i) for j, x in enumerate(inputs)]
        moves.append(not torch.allclose(head(*changed), logits))
    gradients = torch.autograd.grad(logits.square().sum(), inputs, allow_unused=True)
    taught = [g is not None and bool(g.any()) for g in gradients]
    expected = {
        "ft-mtl-net": ([True, True, True], [True, True, True]),
        "ft-mtl-net-deep": ([True, True, True], [True, True, True]),
        "mask-rcnn": ([True, False, False], [True, False, False]),
        "no-transfer": ([True, False, False], [True, False, False]),
        "no-weight-map": ([True, True, False], [True, True, False]),
        "detached-weight-map": ([True, True, True], [True, True, False]),
        "average-pooling": ([True, True, True], [True, True, True]),
    }
    assert (moves, taught) == expected[variant]


@pytest.mark.parametrize("variant", ["no-weight-map", "average-pooling"])
def test_the_transferred_features_as_maps(variant: Variant) -> None:
    """Against torch's own pooling on [R, 256, 28, 28]."""
    _, theta4, logits = features()
    head = network_of(variant).classification
    maps = torch.zeros(5, 256, 28, 28)
    weights = torch.zeros(5, 1, 28, 28)
    for place in range(4):
        row, column = divmod(place, 2)
        maps[:, :, row::2, column::2] = theta4[:, :, :, place].permute(0, 3, 1, 2)
        weights[:, 0, row::2, column::2] = logits[:, :, :, place].sigmoid().amax(dim=3)
    if variant == "no-weight-map":
        expected = F.max_pool2d(maps, 2).mean(dim=(2, 3))
    else:
        expected = F.avg_pool2d(maps * weights, 2).mean(dim=(2, 3))
    assert torch.allclose(head.transfer(theta4, logits), expected, atol=1e-5)  # type: ignore[operator]


def test_a_model_differs_from_its_preset_in_one_thing() -> None:
    document = preset_of("ft-mtl-net", RECOMMENDED).to_json()
    for model in MODELS:
        other = preset_of(model, RECOMMENDED).to_json()
        differing = [(part, key) for part in ("network", "targets", "training")
                     for key in document[part] if document[part][key] != other[part][key]]
        expected = {"ft-mtl-net": [], "masks-on-positives": [("targets", "masks_on")]}
        assert differing == expected.get(model, [("network", "variant")])
    with pytest.raises(KeyError):
        preset_of("yolo", RECOMMENDED)


def test_weights_name_their_variant(samples: Path, tmp_path: Path) -> None:
    """A Predictor loads each and says whose reading it is."""
    mammogram = read_mammogram(samples / "P_00820_L_CC.dcm")
    small = replace(RECOMMENDED, network=replace(
        RECOMMENDED.network, canvas=(160, 96), proposals_infer=5, init_std=1e-4))
    for variant in ("mask-rcnn", "detached-weight-map"):
        preset = preset_of(variant, small)
        torch.manual_seed(1)
        network = build(preset.network)
        save_weights(tmp_path / "w.safetensors", network, preset=preset, metadata={})
        predictor = Predictor.load(tmp_path / "w.safetensors", device="cpu")
        assert type(predictor.network.classification) is type(network.classification)
        findings = predictor(mammogram, threshold=0.0)
        assert findings.model is not None
        assert findings.model.name == variant.replace("-", "_")
        assert findings.findings


def test_weights_of_ours_lend_their_backbone(tmp_path: Path) -> None:
    """`--imagenet` takes any variant's weights; only the backbone is taken from them."""
    network = network_of("mask-rcnn")
    save_weights(tmp_path / "w.safetensors", network, preset=PAPER, metadata={})
    backbone = Backbone()
    backbone.load_imagenet(read_imagenet(tmp_path / "w.safetensors"))
    for name, value in network.backbone.state_dict().items():
        assert torch.allclose(backbone.state_dict()[name].float(), value.float(), atol=1e-3), name
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not ResNet-50 weights"):
        backbone.load_imagenet(read_imagenet(tmp_path / "other.safetensors"))
