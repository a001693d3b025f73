"""The network's shapes, weights and equations, and the order in which it reads a canvas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ftmtl.config import PAPER, NetworkConfig, SettledBy
from ftmtl.network import boxes as box_ops
from ftmtl.network.backbone import Backbone, NotResNet50, read_imagenet
from ftmtl.network.feature_transfer import transfer
from ftmtl.network.heads import (
    ClassificationHead,
    DetectionHead,
    SegmentationHead,
    SpatialDetectionHead,
)
from ftmtl.network.model import Detections, FTMTLNet, build, extents_of
from ftmtl.network.rpn import RegionProposalNetwork, RpnOutput, propose
from ftmtl.network.settle import consensus
from ftmtl.training.stages import trainable


@pytest.fixture(scope="module")
def paper() -> FTMTLNet:
    torch.manual_seed(0)
    return build(PAPER.network).eval()


# Shapes and weights


@torch.inference_mode()
def test_the_papers_shapes(paper: FTMTLNet) -> None:
    theta0 = paper.backbone(torch.rand(1, 1, 512, 512), torch.ones(1, 512, 512, dtype=torch.bool))
    assert theta0.shape == (1, 1024, 32, 32)  # 2.1.1
    rpn = paper.rpn(theta0)
    assert rpn.objectness.shape == (1, 32 * 32 * 15)  # five sizes, three ratios
    assert rpn.deltas.shape == (1, 32 * 32 * 15, 4)
    theta1 = paper.pool(theta0, [torch.tensor([[10.0, 20, 200, 90], [300, 300, 340, 350]])])
    assert theta1.shape == (2, 7, 7, 1024)  # 2.1.2
    theta4, _ = paper.segmentation(theta1)
    assert theta4.numel() == 2 * 256 * 28 * 28  # 2.2.2
    heads = paper.heads(theta1)
    assert heads.mask_logits.shape == (2, 2, 28, 28)
    assert heads.class_logits.shape == (2, 3)
    assert heads.deltas.shape == (2, 4)


def test_the_transfer_adds_768_weights(paper: FTMTLNet) -> None:
    """Against the 1024 → 3 classifier of a network without it; nothing else is learned for it."""
    with_transfer = sum(p.numel() for p in paper.classification.parameters())
    without = sum(p.numel() for p in nn.Linear(1024, 3).parameters())
    assert with_transfer - without == 768
    (classifier,) = (m for m in paper.classification.modules() if isinstance(m, nn.Linear))
    assert (classifier.in_features, classifier.out_features) == (1024 + 256, 3)


def test_new_weights_come_from_the_papers_normal_distribution(paper: FTMTLNet) -> None:
    """Table 1, step 2: mean 0, standard deviation 0.05."""
    new = {name: p for name, p in paper.named_parameters() if not name.startswith("backbone.")}
    weights = {name: p for name, p in new.items() if p.dim() > 1}
    assert len(weights) == 3 + 1 + 3 + 1  # RPN, detection, segmentation, classification
    for name, weight in weights.items():
        count = weight.numel()
        assert abs(weight.mean()) < 5 * 0.05 / count**0.5, name
        assert weight.std().item() == pytest.approx(0.05, rel=5 / (2 * count) ** 0.5), name
        beyond = (weight.abs() > 0.1).float().mean().item()  # two standard deviations
        assert beyond == pytest.approx(0.0455, abs=5 * (0.0455 / count) ** 0.5), name
    assert all((p == 0).all() for name, p in new.items() if name not in weights)


def test_batch_norm_is_never_trained() -> None:
    backbone = Backbone().train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [b.clone() for norm in norms for b in norm.buffers()]
    backbone(torch.rand(2, 1, 32, 32), torch.ones(2, 32, 32, dtype=torch.bool)).sum().backward()
    after = [b for norm in norms for b in norm.buffers()]
    assert len(norms) == 1 + 3 * 13 + 3  # the stem, 13 bottlenecks, 3 shortcuts
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert {p for norm in norms for p in norm.parameters()} <= backbone.held()


def test_frozen_stages_take_no_gradient() -> None:
    backbone = Backbone(frozen=2)
    backbone(torch.rand(1, 1, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool)).sum().backward()
    moved = {name.split(".")[0] for name, p in backbone.named_parameters() if p.grad is not None}
    assert moved == {"layer2", "layer3"}
    held = {name.split(".")[0] for name, p in backbone.named_parameters()
            if p in backbone.held() and p.dim() > 1}
    assert held == {"conv1", "layer1"}


def test_the_papers_stages_train_the_parts_of_table_1(paper: FTMTLNet) -> None:
    heads = {"detection", "segmentation", "classification"}
    expected = [{"backbone", "rpn"}, heads, {"backbone"} | heads]  # steps 3, 4 and 5
    norms = {id(p) for m in paper.modules() if isinstance(m, nn.BatchNorm2d)
             for p in m.parameters()}
    for stage, parts in zip(PAPER.training.stages, expected, strict=True):
        trained = {id(p) for p in trainable(paper, stage)}
        for name, p in paper.named_parameters():
            learns = name.split(".")[0] in parts and id(p) not in norms
            assert (id(p) in trained) == p.requires_grad == learns, (stage.name, name)


# The backbone against a plain ResNet-50 that reads torchvision's key names


def test_imagenet_weights_give_the_features_of_a_plain_resnet() -> None:
    state = random_resnet50(seed=5)
    backbone = Backbone().eval()
    backbone.load_imagenet(state)
    images = torch.rand(2, 1, 64, 48, generator=torch.Generator().manual_seed(1))
    valid = torch.ones(2, 64, 48, dtype=torch.bool)
    valid[0, 50:] = False
    valid[1, :, 30:] = False
    with torch.no_grad():
        theta0 = backbone(images, valid)
        expected = plain_c4(images, valid, state)
    assert theta0.shape == (2, 1024, 4, 3)
    assert 0.1 < expected.std() < 100  # no comparison of zeros
    torch.testing.assert_close(theta0, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


def test_weights_made_for_torchvisions_inputs_give_what_they_give_there(tmp_path: Path) -> None:
    ours = random_resnet50(seed=5)
    means, units = (torch.tensor(v).view(3, 1, 1) for v in (
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    theirs = {**ours, "conv1.weight": ours["conv1.weight"] * 255 * units}
    save_file(theirs, tmp_path / "theirs.safetensors")
    backbone, stem = Backbone().eval(), []
    backbone.load_imagenet(read_imagenet(tmp_path / "theirs.safetensors"))
    backbone.bn1.register_forward_hook(lambda module, given, result: stem.append(result.clone()))
    images = torch.rand(1, 1, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        backbone(images, torch.ones(1, 64, 48, dtype=torch.bool))
        expected = F.batch_norm(
            F.conv2d((images - means) / units, theirs["conv1.weight"], stride=2, padding=3),
            *(theirs[f"bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")))
    # Behind the image's edge lies each one's own mean.
    torch.testing.assert_close(stem[0][..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2],
                               rtol=1e-4, atol=1e-4)

    save_file(ours, tmp_path / "ours.safetensors")
    for name, value in read_imagenet(tmp_path / "ours.safetensors").items():
        assert torch.equal(value, ours[name]), name
    fractions = {**ours, "conv1.weight": ours["conv1.weight"] * 255}  # of inputs 0…1
    save_file(fractions, tmp_path / "fractions.safetensors")
    with pytest.raises(NotResNet50, match=r"fractions\.safetensors: .* deviation of 0\.3"):
        read_imagenet(tmp_path / "fractions.safetensors")


def test_weights_of_another_network_are_refused() -> None:
    state = random_resnet50(seed=5)
    del state["layer2.3.bn2.running_var"]
    with pytest.raises(ValueError, match=r"layer2\.3\.bn2\.running_var"):
        Backbone().load_imagenet(state)


def test_padding_is_not_seen_and_is_not_black() -> None:
    """What lies under the padding changes nothing; black tissue is another thing than padding."""
    torch.manual_seed(0)
    backbone = Backbone().eval()
    images = torch.rand(1, 1, 64, 64)
    valid = torch.zeros(1, 64, 64, dtype=torch.bool)
    valid[:, :64, :40] = True
    noisy, black = images.clone(), images.clone()
    noisy[..., 40:] = 0.7
    black[..., 40:] = 0
    with torch.no_grad():
        theta0 = backbone(images, valid)
        assert torch.equal(backbone(noisy, valid), theta0)
        assert not torch.allclose(backbone(black, torch.ones_like(valid)), theta0)


def random_resnet50(*, seed: int) -> dict[str, Tensor]:
    """A full ResNet-50 in torchvision's key names, conv5 and fc included."""
    random = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def convolution(name: str, inputs: int, outputs: int, side: int) -> None:
        noise = torch.randn(outputs, inputs, side, side, generator=random)
        state[f"{name}.weight"] = noise / (inputs * side * side) ** 0.5

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 0.5 + torch.rand(channels, generator=random)
        state[f"{name}.bias"] = 0.2 * torch.randn(channels, generator=random)
        state[f"{name}.running_mean"] = 0.2 * torch.randn(channels, generator=random)
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=random)

    convolution("conv1", 3, 64, 7)
    norm("bn1", 64)
    # The stem's input is in hundreds.
    state["bn1.running_var"] *= 5000
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (1, 512)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", inputs, width, 1)
            convolution(f"{name}.conv2", width, width, 3)
            convolution(f"{name}.conv3", width, 4 * width, 1)
            for number, channels in ((1, width), (2, width), (3, 4 * width)):
                norm(f"{name}.bn{number}", channels)
            if block == 0:
                convolution(f"{name}.downsample.0", inputs, 4 * width, 1)
                norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
    state["fc.weight"], state["fc.bias"] = torch.zeros(10, 2048), torch.zeros(10)
    return state


def plain_c4(images: Tensor, valid: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """θ0 by He et al.'s ResNet-50, whose first 1×1 strides; Keras's means, zero padding after."""
    def norm(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            x, state[f"{name}.running_mean"], state[f"{name}.running_var"],
            state[f"{name}.weight"], state[f"{name}.bias"],
        )

    x = torch.cat([images * 255 - mean for mean in (123.68, 116.779, 103.939)], dim=1)
    x = torch.where(valid[:, None], x, torch.zeros(()))
    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, blocks in ((1, 3), (2, 4), (3, 6)):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride)
            y = F.relu(norm(y, f"{name}.bn1"))
            y = F.conv2d(y, state[f"{name}.conv2.weight"], padding=1)
            y = F.relu(norm(y, f"{name}.bn2"))
            y = norm(F.conv2d(y, state[f"{name}.conv3.weight"]), f"{name}.bn3")
            if block == 0:
                short = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = norm(short, f"{name}.downsample.1")
            x = F.relu(x + y)
    return x


# The proposals


def test_anchors_scores_and_deltas_belong_together() -> None:
    rpn = RegionProposalNetwork(sizes=(20, 50), ratios=(0.5, 1, 2))
    for bias in (rpn.objectness.bias, rpn.deltas.bias):
        assert bias is not None
        nn.init.normal_(bias)
    theta0 = torch.randn(2, 1024, 3, 5)
    with torch.no_grad():
        output = rpn(theta0)
        x = F.relu(rpn.conv(theta0))
        scores, deltas = rpn.objectness(x), rpn.deltas(x)
    assert output.anchors.shape == (3 * 5 * 6, 4)
    number = 0
    for row in range(3):
        for column in range(5):
            for shape, (size, ratio) in enumerate((s, r) for s in (20, 50) for r in (0.5, 1, 2)):
                x1, y1, x2, y2 = output.anchors[number].tolist()
                assert (x1 + x2) / 2 == pytest.approx(16 * column + 8, abs=1e-4)
                assert (y1 + y2) / 2 == pytest.approx(16 * row + 8, abs=1e-4)
                assert (x2 - x1) * (y2 - y1) == pytest.approx(size**2, rel=1e-4)
                assert (y2 - y1) / (x2 - x1) == pytest.approx(ratio, rel=1e-4)
                assert torch.equal(output.objectness[:, number], scores[:, shape, row, column])
                own = deltas[:, 4 * shape : 4 * shape + 4, row, column]
                assert torch.equal(output.deltas[:, number], own)
                number += 1


def test_proposals_are_the_best_anchors_refined_cut_and_thinned() -> None:
    anchors = torch.tensor([
        [0.0, 0, 20, 20],  # third best: overlaps the next, which is better
        [2, 0, 22, 20],    # second best
        [60, 60, 90, 90],  # best: moved by a tenth of its width, then cut
        [62, 84, 63, 85],  # fourth: nothing
        [30, 30, 50, 50],  # fifth: outside pre_nms
        [0, 40, 20, 60],   # fifth best
    ])
    scores = torch.tensor([[3.0, 4, 5, 2, 0, 1]])
    deltas = torch.zeros(1, 6, 4)
    deltas[0, 2, 0] = 1
    boxes, objectness = propose(
        RpnOutput(scores, deltas, anchors), 0, torch.tensor([80.0, 85]),
        pre_nms=5, keep=10, nms_iou=0.7,
    )
    assert boxes.tolist() == [[63, 60, 80, 85], [2, 0, 22, 20], [0, 40, 20, 60]]
    torch.testing.assert_close(objectness, torch.tensor([5.0, 4, 1]).sigmoid())
    fewer, _ = propose(RpnOutput(scores, deltas, anchors), 0, torch.tensor([80.0, 85]),
                       pre_nms=5, keep=2, nms_iou=0.7)
    assert torch.equal(fewer, boxes[:2])


# The heads


def test_the_heads_are_the_papers_equations() -> None:
    """Against plain maps [R, C, height, width] and PyTorch's own deconvolution."""
    torch.manual_seed(0)
    segmentation, classification = SegmentationHead(), ClassificationHead(transfer)
    for module in (segmentation, classification):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.05)  # biases too
    theta1 = torch.rand(3, 7, 7, 1024)
    with torch.no_grad():
        theta4, mask_logits = segmentation(theta1)
        logits = classification(theta1, theta4, mask_logits)

        maps = theta1.permute(0, 3, 1, 2)
        for layer in (segmentation.deconv1, segmentation.deconv2):
            # Rows are (row in block, column in block, output); PyTorch has [inputs, outputs, 2, 2].
            kernel = layer.weight.view(2, 2, 256, -1).permute(3, 2, 0, 1)
            maps = F.relu(F.conv_transpose2d(maps, kernel, layer.bias, stride=2))
        assert maps.shape == (3, 256, 28, 28)
        outputs = F.conv2d(maps, segmentation.masks.weight[:, :, None, None],
                           segmentation.masks.bias)
        m_b, m_m = outputs.sigmoid().unbind(dim=1)
        m_w = torch.where(m_b > m_m, m_b, m_m)  # Eq. 5
        assert 0.05 < (m_b > m_m).float().mean() < 0.95  # both maps have a say
        weighted = torch.stack([maps[:, k] * m_w for k in range(256)], dim=1)  # Eq. 6
        transferred = F.max_pool2d(weighted, 2).mean(dim=(2, 3))
        theta6 = torch.cat([theta1.mean(dim=(1, 2)), transferred], dim=1)
        expected = theta6 @ classification.classes.weight.T + classification.classes.bias

    network = build_small()
    network.segmentation, network.classification = segmentation, classification
    with torch.no_grad():
        torch.testing.assert_close(network.heads(theta1).mask_logits, outputs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_class_cost_teaches_the_weight_map() -> None:
    """M_w is part of the classifier, end to end: no detour around the segmentation head."""
    torch.manual_seed(0)
    segmentation, classification = SegmentationHead(), ClassificationHead(transfer)
    nn.init.normal_(segmentation.deconv1.weight, std=0.05)
    nn.init.normal_(segmentation.deconv2.weight, std=0.05)
    theta1 = torch.rand(1, 7, 7, 1024)
    classification(theta1, *segmentation(theta1))[0, 2].backward()
    gradient = segmentation.masks.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_the_detection_head_is_a_mean_and_a_linear_map() -> None:
    head = DetectionHead()
    theta1 = torch.rand(2, 7, 7, 1024)
    mean = torch.stack([theta1[:, i, j] for i in range(7) for j in range(7)]).mean(dim=0)
    with torch.no_grad():
        torch.testing.assert_close(head(theta1), mean @ head.deltas.weight.T + head.deltas.bias)


def test_the_heads_beyond_the_paper_by_hand() -> None:
    """The recommended preset's: all layers but the last end in a ReLU, and places keep theirs."""
    torch.manual_seed(0)
    detection, classification = SpatialDetectionHead(), ClassificationHead(transfer, deep=True)
    for parameter in [*detection.parameters(), *classification.parameters()]:
        nn.init.normal_(parameter, std=0.05)
    theta1 = torch.randn(3, 7, 7, 1024)
    theta4, mask_logits = torch.randn(3, 14, 14, 4, 256), torch.randn(3, 14, 14, 4, 2)
    first, _, second, _ = classification.hidden
    with torch.no_grad():
        reduced = F.conv2d(theta1.permute(0, 3, 1, 2), detection.reduce.weight[:, :, None, None],
                           detection.reduce.bias).relu()
        places = torch.cat([reduced[:, :, i, j] for i in range(7) for j in range(7)], dim=1)
        hidden = (places @ detection.hidden.weight.T + detection.hidden.bias).relu()
        torch.testing.assert_close(detection(theta1), detection.deltas(hidden), rtol=0, atol=1e-3)

        x = torch.cat([theta1.mean(dim=(1, 2)), transfer(theta4, mask_logits)], dim=1)
        for layer in (first, second):
            x = (x @ layer.weight.T + layer.bias).relu()
        expected = x @ classification.classes.weight.T + classification.classes.bias
        torch.testing.assert_close(classification(theta1, theta4, mask_logits), expected)


# Reading a canvas


def build_small(seed: int = 0, settled_by: SettledBy = "suppression") -> FTMTLNet:
    """The paper's network on a small canvas, with deltas that move every box."""
    torch.manual_seed(seed)
    config: NetworkConfig = replace(
        PAPER.network, canvas=(96, 64), anchor_sizes=(24, 40), proposals_infer=30,
        settled_by=settled_by,
    )
    network = build(config).eval()
    with torch.no_grad():  # random convolutions blow up: bring θ0 and the RPN to about unit size
        for norm in network.backbone.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_var.fill_(4)
        network.rpn.conv.weight *= 0.01
    return network


@pytest.fixture(scope="module")
def small() -> FTMTLNet:
    return build_small()


@pytest.fixture(scope="module")
def canvases() -> tuple[Tensor, Tensor]:
    images = torch.rand(2, 1, 96, 64, generator=torch.Generator().manual_seed(9))
    valid = torch.zeros(2, 96, 64, dtype=torch.bool)
    valid[0, :96, :40] = True
    valid[1, :70, :64] = True
    return images, valid


@pytest.fixture(scope="module")
def found(small: FTMTLNet, canvases: tuple[Tensor, Tensor]) -> list[Detections]:
    return small.detect(*canvases)


def test_extents_are_width_and_height_of_the_valid_corner(canvases: tuple[Tensor, Tensor]) -> None:
    assert extents_of(canvases[1]).tolist() == [[40, 96], [64, 70]]


def test_detections_are_refined_proposals_in_order_of_score(
    small: FTMTLNet, canvases: tuple[Tensor, Tensor], found: list[Detections]
) -> None:
    """Each box is a proposal moved by its own deltas, once, and cut to the valid area."""
    with torch.inference_mode():
        theta0 = small.backbone(*canvases)
        rpn = small.rpn(theta0)
        for i, (width, height) in enumerate(((40, 96), (64, 70))):
            extent = torch.tensor([width, height])
            proposals, _ = propose(rpn, i, extent, pre_nms=6000, keep=30, nms_iou=0.7)
            deltas = small.detection(small.pool(theta0[i : i + 1], [proposals]))
            refined = box_ops.clip(box_ops.decode(deltas, proposals), extent)
            assert not torch.allclose(refined, proposals, atol=0.5)
            for box in found[i].boxes:
                assert (refined - box).abs().amax(dim=1).min() < 1e-2
            assert (found[i].boxes[:, 0::2] <= width).all()
            assert (found[i].boxes[:, 1::2] <= height).all()
            assert (found[i].boxes >= 0).all()
            score = 1 - found[i].class_logits.softmax(dim=1)[:, 0]
            assert (score.diff() <= 0).all()


def test_classes_and_masks_are_read_off_the_refined_boxes(
    small: FTMTLNet, canvases: tuple[Tensor, Tensor], found: list[Detections]
) -> None:
    """Pooled again after refinement (2.3); the mask is that of the likelier kind of mass."""
    with torch.inference_mode():
        theta0 = small.backbone(*canvases)
        for i, detections in enumerate(found):
            heads = small.heads(small.pool(theta0[i : i + 1], [detections.boxes]))
            torch.testing.assert_close(detections.class_logits, heads.class_logits,
                                       rtol=1e-3, atol=1e-3)
            for mask, logits, maps in zip(detections.masks, heads.class_logits, heads.mask_logits,
                                          strict=True):
                kind = 0 if logits[1] >= logits[2] else 1
                torch.testing.assert_close(mask, maps[kind].sigmoid(), rtol=1e-3, atol=1e-3)


def test_a_consensus_is_what_is_said_of_a_mass(canvases: tuple[Tensor, Tensor]) -> None:
    """Box and classes are the vote's; the mask is drawn on the voted box, of the voted kind."""
    network = build_small(settled_by="consensus")
    with torch.inference_mode():
        theta0 = network.backbone(*canvases)
        extents = extents_of(canvases[1])
        proposals = network.proposals(network.rpn(theta0), extents, 30)
        refined = network.refine(theta0, proposals, extents)
        found = network.detect(*canvases)
        for i, detections in enumerate(found):
            described = network.heads(network.pool(theta0[i : i + 1], [refined[i]]))
            boxes, logits = consensus(refined[i], described.class_logits)
            torch.testing.assert_close(detections.boxes, boxes, rtol=1e-3, atol=1e-2)
            torch.testing.assert_close(detections.class_logits, logits, rtol=1e-3, atol=1e-3)
            outlined = network.heads(network.pool(theta0[i : i + 1], [boxes]))
            kinds = (logits[:, 2] > logits[:, 1]).long()
            maps = outlined.mask_logits.sigmoid()[torch.arange(len(kinds)), kinds]
            torch.testing.assert_close(detections.masks, maps, rtol=1e-3, atol=1e-3)
            assert not torch.allclose(logits.softmax(1), outlined.class_logits.softmax(1))


def test_suppression_is_by_class(
    small: FTMTLNet, canvases: tuple[Tensor, Tensor], found: list[Detections]
) -> None:
    """A malignant box may lie on a benign one; two of a kind lie apart. None else is dropped."""
    kinds = [d.class_logits[:, 1:].argmax(dim=1) for d in found]
    for detections, kind in zip(found, kinds, strict=True):
        overlap = box_ops.iou(detections.boxes, detections.boxes).fill_diagonal_(0)
        same = kind[:, None] == kind[None, :]
        assert (overlap[same] <= 0.3).all()
    across = [
        (box_ops.iou(d.boxes, d.boxes)[k[:, None] != k[None, :]] > 0.3).any()
        for d, k in zip(found, kinds, strict=True)
    ]
    assert any(across)  # else this canvas would prove nothing


def test_a_canvas_is_read_alike_alone_and_in_a_batch(
    small: FTMTLNet, canvases: tuple[Tensor, Tensor], found: list[Detections]
) -> None:
    (alone,) = small.detect(canvases[0][1:], canvases[1][1:])
    torch.testing.assert_close(alone.boxes, found[1].boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(alone.masks, found[1].masks, rtol=1e-3, atol=1e-3)


def test_given_boxes_are_described_in_order_and_unmoved(
    small: FTMTLNet, canvases: tuple[Tensor, Tensor]
) -> None:
    boxes = torch.tensor([
        [5.0, 5, 30, 30], [5, 5, 30, 30],  # twins: nothing is suppressed
        [-10, -10, 200, 200],  # beyond the canvas: nothing is cut
        [20, 40, 20.5, 40.5], [10, 60, 38, 90],
    ])
    first, none = small.detect(*canvases, boxes=[boxes, boxes[:0]])
    assert torch.equal(first.boxes, boxes)
    assert len(none.boxes) == len(none.class_logits) == len(none.masks) == 0
    assert first.class_logits.shape == (5, 3)
    assert first.masks.shape == (5, 28, 28)
    assert torch.isfinite(first.class_logits).all()
    turned, _ = small.detect(*canvases, boxes=[boxes.flip(0), boxes[:0]])
    torch.testing.assert_close(turned.class_logits.flip(0), first.class_logits)
    torch.testing.assert_close(turned.masks.flip(0), first.masks)
    assert not torch.allclose(first.class_logits[0], first.class_logits[4])


def test_boxes_refined_to_nothing_are_no_detections(canvases: tuple[Tensor, Tensor]) -> None:
    """Deltas that push every box over the left edge leave no width to describe."""
    network = build_small()
    nn.init.zeros_(network.detection.deltas.weight)
    network.detection.deltas.bias.data[0] = -100
    for detections in network.detect(*canvases):
        assert detections.boxes.shape == (0, 4)


def test_a_canvas_without_proposals_has_no_detections(small: FTMTLNet) -> None:
    """Here the whole image is one pixel wide: every box is cut to nothing."""
    valid = torch.zeros(1, 96, 64, dtype=torch.bool)
    valid[:, :, 0] = True
    (nothing,) = small.detect(torch.rand(1, 1, 96, 64), valid)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.class_logits.shape == (0, 3)
    assert nothing.masks.shape == (0, 28, 28)
