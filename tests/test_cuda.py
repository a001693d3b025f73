"""On a CUDA device: it reads, learns, resumes and cross-validates as on the CPU.

Skipped where there is none. Everything is in float32 here, as in all tests, so that the two can be
compared; bfloat16 is test_device's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_inference import SMALL, untrained
from training_set import SAVING, TINY, TINY_SGD, make_set

from ftmtl.crossval.run import prepare, run
from ftmtl.mammogram import read_mammogram
from ftmtl.network.inference import InferenceNet
from ftmtl.network.model import FTMTLNet, build
from ftmtl.predict import Predictor
from ftmtl.training.loop import Progress, train
from ftmtl.training.samples import CanvasCache, TrainingSet
from ftmtl.training.stages import losses
from ftmtl.weights_file import load_weights, save_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Convolutions and products in float32 proper, without TensorFloat-32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_the_networks_find_what_they_find_on_the_cpu() -> None:
    """The plain one and the one for reading."""
    plain = untrained("ft-mtl-net-deep", "places")
    images = torch.rand(2, 1, *SMALL.canvas, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(2, *SMALL.canvas, dtype=torch.bool)
    valid[1, :, 40:] = False
    expected = plain.detect(images, valid)
    assert sum(len(e.boxes) for e in expected) > 5
    for network in (InferenceNet(plain, CUDA), plain.to(CUDA)):
        found = network.detect(images.to(CUDA), valid.to(CUDA))
        for f, e in zip(found, expected, strict=True):
            for name, value in vars(e).items():
                torch.testing.assert_close(getattr(f, name).cpu(), value, rtol=1e-3, atol=1e-3)


def test_a_step_costs_what_it_costs_on_the_cpu(tmp_path: Path) -> None:
    """Proposals, sampling, masks and classes; and every gradient."""
    records = make_set(tmp_path / "films")
    samples = TrainingSet(records, CanvasCache(tmp_path / "c", TINY.network.canvas),
                          augmentation=None, seed=0)
    batch = [samples[0, i, 0] for i in (0, 2, 5, 6)]
    stage = replace(TINY.training.stages[1], trains=("backbone", "rpn", "heads"),
                    minimises=("proposal", "unified"))
    network = _started()
    costs, gradients = [], []
    for device in (torch.device("cpu"), CUDA):
        network.to(device).zero_grad()
        terms = losses(network, [s.to(device) for s in batch], stage, TINY)
        torch.stack(list(terms.values())).sum().backward()
        costs.append([float(term.detach()) for term in terms.values()])
        gradients.append([p.grad.cpu().clone() for p in network.parameters() if p.grad is not None])
    assert costs[1] == pytest.approx(costs[0], rel=1e-3)
    assert len(gradients[0]) == len(gradients[1]) > 50
    for there, here in zip(gradients[1], gradients[0], strict=True):
        assert float((there - here).norm()) <= 1e-2 * float(here.norm()) + 1e-6


def test_it_trains_stops_resumes_and_its_weights_read_a_film(tmp_path: Path) -> None:
    records = make_set(tmp_path / "films")
    steps: list[Progress] = []
    stopped = train(records, preset=SAVING, out=tmp_path / "run", device="cuda",
                    on_progress=steps.append, should_stop=lambda: len(steps) > 3 + len(records))
    assert not stopped.finished
    outcome = train(records, preset=SAVING, out=tmp_path / "run", device="cuda", resume=True)
    assert outcome.finished
    assert all(torch.isfinite(t).all() for t in load_weights(outcome.weights).state.values())
    mammogram = read_mammogram(records[0].path)
    here, there = (Predictor.load(outcome.weights, device=d)(mammogram, threshold=0.0)
                   for d in ("cpu", "cuda"))
    assert here.verdict.label == there.verdict.label
    assert len(here.findings) == len(there.findings) > 0
    asked = [[20.0, 50, 24, 24]]
    here, there = (Predictor.load(outcome.weights, device=d)(mammogram, boxes=asked)
                   for d in ("cpu", "cuda"))
    assert here.findings[0].scores is not None
    assert there.findings[0].scores == pytest.approx(here.findings[0].scores, abs=1e-3)


def test_folds_are_done_side_by_side_on_one_device(tmp_path: Path) -> None:
    """Named twice, a device does two folds at once."""
    start = tmp_path / "start.safetensors"
    save_weights(start, _started(), preset=TINY, metadata={})
    experiment = prepare(
        make_set(tmp_path / "films"), out=tmp_path / "cv", preset=TINY_SGD,
        models=("ft-mtl-net", "mask-rcnn"), folds=2, split="patients", seed=0, imagenet=start,
        malignant_means="a star",
    )
    run(experiment, devices=["cuda:0", "cuda:0"])
    for model in experiment.models:
        assert all((experiment.folder(model, fold) / "weights.safetensors").exists()
                   for fold in range(2))
        told = {result["image_id"] for result in experiment.predictions(model)}
        assert told and told <= {record.image_id for record in experiment.folds.records}


def _started() -> FTMTLNet:
    """The tiny recipe's network with batch statistics under which it does not blow up."""
    network = build(TINY.network)
    network.load_state_dict(untrained().state_dict())
    return network
