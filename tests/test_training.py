"""Training: the paper's stages, what is drawn, what resumes, and the weights that it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.modules.module import register_module_forward_pre_hook
from training_set import HEIGHT, SAVING, STEPS, TINY, WIDTH, make_set

from ftmtl import __version__
from ftmtl.cli import main
from ftmtl.config import PAPER, PRESETS, Preset
from ftmtl.datasets.coco import write_coco
from ftmtl.datasets.records import Annotation, ImageRecord
from ftmtl.device import NoSuchDevice, pick_device
from ftmtl.mammogram import UnreadableMammogram
from ftmtl.network import boxes as box_ops
from ftmtl.network.backbone import Backbone
from ftmtl.network.model import build
from ftmtl.network.rpn import RegionProposalNetwork
from ftmtl.training import loop
from ftmtl.training.checkpoints import FILE, UnusableCheckpoint, load_checkpoint
from ftmtl.training.loop import NothingToTrainOn, Outcome, OutOfMemory, Progress, train
from ftmtl.training.samples import (
    BalancedSampler,
    CanvasCache,
    Draw,
    Sample,
    TrainingSet,
    made_ahead,
)
from ftmtl.training.stages import learning_rate, losses, optimizer_of
from ftmtl.training.targets import anchor_targets, roi_targets
from ftmtl.weights_file import STARTER_WEIGHTS, UnusableWeights, load_weights, save_weights

HERE = Path(__file__).parent
PARTS = {"backbone": ("backbone",), "rpn": ("rpn",),
         "heads": ("detection", "segmentation", "classification")}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Equal tensors need the same threads; one is enough for these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Run:
    """A finished run: its data, start, folder, outcome and every progress it reported."""

    records: list[ImageRecord]
    start: Path
    out: Path
    outcome: Outcome
    progress: list[Progress]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run of the tiny recipe on good and bad images."""
    folder = tmp_path_factory.mktemp("training")
    records = make_set(folder / "films")
    cut = replace(records[0], image_id="cut", path=folder / "films" / "cut.jpg")
    cut.path.write_bytes(records[0].path.read_bytes()[:900])
    gone = replace(records[0], image_id="gone", path=folder / "films" / "gone.png")
    other = replace(records[1], image_id="other", width=WIDTH + 1)
    torch.manual_seed(7)
    start = folder / "start.safetensors"
    save_weights(start, build(TINY.network), preset=TINY, metadata={})
    progress: list[Progress] = []
    outcome = train([cut, *records, gone, other], preset=TINY, out=folder / "run", init=start,
                    device="cpu", on_progress=progress.append, metadata={"malignant": "biopsy"})
    return Run(records, start, folder / "run", outcome, progress)


def again(run: Run, out: Path, **changes: Any) -> Outcome:
    """The same run once more, on its good images, in another folder."""
    given: dict[str, Any] = {"preset": TINY, "init": run.start, "device": "cpu",
                             "cache": run.out / "canvases", **changes}
    return train(given.pop("records", run.records), out=out, **given)


def tensors(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / FILE, weights_only=True)["network"]
    return state


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# A whole run


def test_unreadable_images_are_listed_and_the_rest_are_trained_on(run: Run) -> None:
    assert run.outcome.finished
    assert run.outcome.left_out == tuple((run.out / "left_out.txt").read_text().splitlines())
    cut, gone, other = run.outcome.left_out
    assert "cut.jpg: " in cut and "gone.png: there is no such file" in gone
    assert "film1.png: it has 110×160 pixels, the data set says 111×160" in other
    assert len(list((run.out / "canvases").glob("*.npz"))) == len(run.records) == 8


def test_progress_tells_stage_epoch_step_losses_and_time_left(run: Run) -> None:
    reading = [p for p in run.progress if p.stage == "reading images"]
    assert [(p.step, p.steps) for p in reading] == [(i, 11) for i in range(11)]
    steps = run.progress[11:]
    assert [(p.stage_number, p.epoch, p.step) for p in steps] == [
        (1, 1, 1), (1, 1, 2), (2, 1, 1), (2, 1, 2), (2, 2, 1), (2, 2, 2), (3, 1, 1), (3, 1, 2)
    ]
    assert {(p.stage, p.stages, p.epochs, p.steps) for p in steps} == {
        ("proposals", 3, 1, 2), ("heads", 3, 2, 2), ("together", 3, 1, 2)}
    for p in steps:
        wanted = {"proposal"} if p.stage_number == 1 else {"class", "box", "mask"}
        assert set(p.losses) == wanted
        assert all(np.isfinite(v) for v in p.losses.values())
        assert p.seconds_left is not None and p.seconds_left >= 0
    assert steps[-1].seconds_left == 0


def test_time_left_counts_the_wait_for_samples_too(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, clock = loop.made_ahead, [0.0]

    def slow(*args: Any) -> Iterator[list[Sample]]:
        for batch in quick(*args):
            clock[0] += 20
            yield batch

    monkeypatch.setattr(loop, "made_ahead", slow)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    seen: list[Progress] = []
    again(run, tmp_path, on_progress=seen.append, max_minutes=0.5)  # 20 s a step
    assert [p.seconds_left for p in seen if p.losses] == [(STEPS - 1) * 20, (STEPS - 2) * 20]


def test_samples_are_made_while_others_are_learned_from(run: Run) -> None:
    """Those of a batch are what they are one by one, in order, made while one before is in use."""
    samples = TrainingSet(run.records, CanvasCache(run.out / "canvases", TINY.network.canvas),
                          augmentation=TINY.training.augment, seed=0)
    batches = [[(epoch, i, 0), (epoch, i + 1, 0)] for epoch in range(2) for i in (0, 2, 4)]
    asked: list[list[Draw]] = []

    def noted(batch: list[Draw]) -> list[Draw]:
        asked.append(batch)
        return batch

    for number, batch in enumerate(made_ahead(samples, map(noted, batches))):
        assert len(asked) == min(number + 3, len(batches))
        for sample, at in zip(batch, batches[number], strict=True):
            for name, value in vars(samples[at]).items():
                assert np.array_equal(getattr(sample, name), value), name


def test_tensorboard_reads_every_loss_of_every_step(run: Run) -> None:
    board = EventAccumulator(str(run.out / "tensorboard")).Reload()
    assert sorted(board.Tags()["scalars"]) == [f"loss/{k}" for k in ("box", "class", "mask",
                                                                    "proposal")]
    assert [event.step for event in board.Scalars("loss/proposal")] == [1, 2]
    assert [event.step for event in board.Scalars("loss/mask")] == list(range(3, STEPS + 1))


def test_the_weights_of_a_run_are_its_network(run: Run) -> None:
    weights = load_weights(run.outcome.weights)
    assert weights.preset == TINY
    assert weights.metadata == {"malignant": "biopsy", "code_version": __version__}
    for name, value in tensors(run.out).items():
        torch.testing.assert_close(weights.state[name], value, rtol=1e-3, atol=1e-6)


# The stages, and stopping between them


def test_each_stage_changes_its_own_parts_alone(run: Run, tmp_path: Path) -> None:
    """Stopped at the end of each stage and resumed: the states between, and the same end."""
    before = load_weights(run.start).state
    latest: list[Progress] = []
    for number, stage in enumerate(TINY.training.stages, start=1):
        outcome = again(
            run, tmp_path, resume=number > 1, on_progress=latest.append,
            should_stop=lambda n=number, e=stage.epochs: (  # type: ignore[misc]
                latest[-1].stage_number, latest[-1].epoch, latest[-1].step) == (n, e, 2),
        )
        assert outcome.finished == (number == 3), "nothing was left to go on with"
        after = tensors(tmp_path)
        trained = tuple(module for part in stage.trains for module in PARTS[part])
        for name, value in after.items():
            # Batch norm keeps its ImageNet statistics and scales in every stage (matterport).
            norm = ".bn" in name or "downsample.1" in name or "num_batches" in name
            if norm or not name.startswith(trained):
                assert torch.equal(value, before[name]), (stage.name, name)
            elif value.ndim > 1:
                assert not torch.equal(value, before[name]), (stage.name, name)
        before = after
    outcome = again(run, tmp_path, resume=True)
    assert outcome.finished
    assert_equal(tensors(tmp_path), tensors(run.out))


def test_the_paper_s_stages_are_table_1() -> None:
    assert [(s.trains, s.minimises, s.epochs) for s in PAPER.training.stages] == [
        (("backbone", "rpn"), ("proposal",), 10),
        (("heads",), ("unified",), 10),
        (("backbone", "heads"), ("unified",), 10),
    ]
    assert (PAPER.training.batch_size, PAPER.training.learning_rate, PAPER.training.momentum) == (
        8, 0.005, 0.9)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_recipe_survives_json(name: str) -> None:
    assert Preset.from_json(json.loads(json.dumps(PRESETS[name].to_json()))) == PRESETS[name]
    with pytest.raises(TypeError, match="unknown settings"):
        Preset.from_json({**PRESETS[name].to_json(), "colour": 1})
    with pytest.raises(TypeError):
        Preset.from_json({"name": "half"})


def test_the_rate_of_learning_warms_up_and_falls_along_a_cosine() -> None:
    config = replace(TINY.training, schedule="cosine", warmup_steps=4, learning_rate=1.0)
    stage = config.stages[0]
    rates = [learning_rate(config, stage, step, 100) for step in range(100)]
    assert rates[0] == 0.25
    assert rates[3:5] == pytest.approx([0.5 + 0.5 * np.cos(np.pi * s / 100) for s in (3, 4)])
    assert rates[50] == pytest.approx(0.5) and 0 < rates[-1] < 0.001
    assert {learning_rate(TINY.training, stage, step, 100) for step in range(100)} == {0.005}
    own = replace(stage, learning_rate=0.1)
    assert learning_rate(config, own, 50, 100) == pytest.approx(0.05)


def test_adam_is_told_from_sgd() -> None:
    """The first step of Adam moves each weight by its rate, whatever the gradient."""
    weight = torch.nn.Parameter(torch.ones(2))
    stage = replace(TINY.training.stages[1], optimizer="adamw")
    optimizer = optimizer_of([weight], stage, TINY.training)
    optimizer.param_groups[0]["lr"] = 0.25
    (weight * torch.tensor([3.0, 0.01])).sum().backward()
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.75, 0.75], abs=0.005)


@pytest.mark.parametrize("refined_rois", [False, True])
def test_heads_learn_from_refined_boxes_too(plain: TrainingSet, refined_rois: bool) -> None:
    """A mass as big as the canvas: no proposal meets it, and each one does once it has grown."""
    torch.manual_seed(0)
    network = build(TINY.network).eval()
    with torch.no_grad():
        network.rpn.deltas.weight.zero_()  # proposals are the anchors, 8 and 16 pixels
        network.detection.deltas.weight.zero_()
        network.detection.deltas.bias.copy_(torch.tensor([0.0, 0.0, 20.0, 20.0]))
    sample = plain[0, 0, 0]
    sample = replace(sample, boxes=torch.tensor([[0.0, 0.0, 48.0, 64.0]]),
                     classes=sample.classes[:1], class_known=sample.class_known[:1],
                     masks=torch.ones(1, 64, 48),
                     valid=torch.ones(64, 48, dtype=torch.bool))
    preset = replace(TINY, targets=replace(TINY.targets, add_truth=False))
    stage = replace(TINY.training.stages[1], refined_rois=refined_rois)
    assert (losses(network, [sample], stage, preset)["box"] > 0) == refined_rois


# Killed, stopped, resumed


def test_killed_in_the_middle_it_resumes_to_the_same_tensors(run: Run, tmp_path: Path) -> None:
    code = """
import sys, time, torch
from pathlib import Path
torch.set_num_threads(1)
from training_set import SAVING, make_set
from ftmtl.training.loop import train
def told(progress):
    if progress.losses:
        print(progress.stage_number, progress.epoch, progress.step, flush=True)
        time.sleep(0.1)
films, start, out = map(Path, sys.argv[1:])
train(make_set(films), preset=SAVING, out=out, init=start, device="cpu", on_progress=told)
"""
    films = run.records[0].path.parent  # written again, byte by byte the same
    process = subprocess.Popen(
        [sys.executable, "-c", code, films, run.start, tmp_path], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])},
    )
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.split() == ["2", "1", "2"]:  # halfway through the second stage
                process.send_signal(signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    at = torch.load(tmp_path / FILE, weights_only=True)["at"]
    assert [1, 0] < at < [3, 0]
    assert not (tmp_path / "weights.safetensors").exists()
    seen: list[Progress] = []
    outcome = again(run, tmp_path, resume=True, cache=None, preset=SAVING, on_progress=seen.append)
    assert outcome.finished
    assert len([p for p in seen if p.losses]) == STEPS - ([0, 2, 6][at[0]] + at[1])
    assert_equal(tensors(tmp_path), tensors(run.out))
    for name, value in load_file(outcome.weights).items():
        assert torch.equal(value, load_file(run.outcome.weights)[name])


def test_max_minutes_stops_after_a_step_with_weights_and_a_state_to_resume(
    run: Run, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    outcome = again(run, tmp_path, max_minutes=0, on_progress=seen.append)
    assert not outcome.finished and len([p for p in seen if p.losses]) == 1
    assert load_weights(outcome.weights).preset == TINY
    assert torch.load(tmp_path / FILE, weights_only=True)["at"] == [0, 1]
    with pytest.raises(UnusableCheckpoint, match=r"another recipe.*another folder"):
        again(run, tmp_path, resume=True,
              preset=replace(TINY, training=replace(TINY.training, seed=1)))
    with pytest.raises(UnusableCheckpoint, match="other images"):
        again(run, tmp_path, resume=True, records=run.records[1:])
    for change in ({"annotations": ()}, {"pixel_aspect": 1.5}):
        other = replace(run.records[0], **change)
        with pytest.raises(UnusableCheckpoint, match="other images"):
            again(run, tmp_path, resume=True, records=[other, *run.records[1:]])
    # Films that were moved are the same; other ones under the same names are not.
    moved = [replace(r, path=Path(shutil.copy(r.path, tmp_path))) for r in run.records]
    assert not again(run, tmp_path, resume=True, records=moved, max_minutes=0).finished
    shutil.copy(run.records[2].path, moved[0].path)
    with pytest.raises(UnusableCheckpoint, match="other images"):
        again(run, tmp_path, resume=True, records=moved)
    content = (tmp_path / FILE).read_bytes()
    for damage in (content[:5000], content[: len(content) // 2], b"", b"state"):
        (tmp_path / FILE).write_bytes(damage)
        with pytest.raises(UnusableCheckpoint, match=r"checkpoint\.pt: not a checkpoint"):
            load_checkpoint(tmp_path, identity="of this run")
    assert load_checkpoint(tmp_path / "new", identity="of this run") is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_where_memory_runs_out_the_batch_is_halved_and_the_learning_is_the_same(
    run: Run, tmp_path: Path, error: Exception
) -> None:
    def narrow(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, Backbone) and len(inputs[0]) > 1:
            raise error

    # Clipping would hide a gradient that is too large as a whole.
    preset = replace(TINY, training=replace(TINY.training, clip_norm=1e6, learning_rate=1e-6))
    again(run, tmp_path / "whole", preset=preset)
    progress: list[Progress] = []
    hook = register_module_forward_pre_hook(narrow)
    try:
        again(run, tmp_path / "halved", preset=preset, on_progress=progress.append)
    finally:
        hook.remove()
    steps = [p for p in progress if p.losses]
    assert len(steps) == STEPS and {p.images_at_once for p in steps} == {1}
    assert {p.images_at_once for p in run.progress if p.losses} == {2}
    halved, whole = tensors(tmp_path / "halved"), tensors(tmp_path / "whole")
    start = load_weights(run.start).state
    for name, value in whole.items():
        if value.is_floating_point():
            # Sums in another order round otherwise, and training makes more of it at every step.
            learned = (value - start[name]).norm()
            assert (halved[name] - value).norm() <= 0.1 * learned + 1e-5, name


def test_one_image_that_does_not_fit_ends_the_run_with_the_remedy(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, Backbone):
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = register_module_forward_pre_hook(full)
    try:
        with pytest.raises(OutOfMemory, match="does not hold one image"):
            again(run, tmp_path)
        # On the command line it is a sentence, no traceback.
        films = run.records[0].path.parent
        write_coco(run.records, tmp_path / "coco.json", images=films)
        assert main(["train", "--data", str(tmp_path / "coco.json"), "--images", str(films),
                     "--init", str(STARTER_WEIGHTS), "--out", str(tmp_path / "said"),
                     "--device", "cpu"]) == 2
        assert "does not hold one image" in capsys.readouterr().err
    finally:
        hook.remove()


def test_after_each_epoch_but_the_last_the_network_is_given(run: Run, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    networks: list[dict[str, torch.Tensor]] = []

    def note(network: torch.nn.Module, progress: Progress) -> None:
        seen.append((progress.stage, progress.epoch, progress.epochs))
        networks.append({k: v.clone() for k, v in network.state_dict().items()})

    again(run, tmp_path, on_epoch=note)
    assert seen == [("proposals", 1, 1), ("heads", 1, 2), ("heads", 2, 2)]
    assert_equal(tensors(tmp_path), tensors(run.out))
    assert any(not torch.equal(networks[1][k], networks[2][k]) for k in networks[1])


def test_another_seed_or_start_gives_another_network(run: Run, tmp_path: Path) -> None:
    end = tensors(run.out)
    seeded = replace(TINY, training=replace(TINY.training, seed=1))
    again(run, tmp_path / "a", preset=seeded, max_minutes=0)
    again(run, tmp_path / "b", init=None, max_minutes=0)
    again(run, tmp_path / "c", init=None, max_minutes=0)
    a, b, c = (tensors(tmp_path / name) for name in "abc")
    assert not torch.equal(a["rpn.objectness.weight"], b["rpn.objectness.weight"])
    assert not torch.equal(a["rpn.objectness.weight"], end["rpn.objectness.weight"])
    assert_equal(b, c)  # without a start the recipe's own seed makes the weights


def test_without_a_readable_image_the_reason_is_told(run: Run, tmp_path: Path) -> None:
    gone = replace(run.records[0], path=tmp_path / "gone.png")
    with pytest.raises(NothingToTrainOn, match=r"gone\.png: there is no such file"):
        again(run, tmp_path, records=[gone])
    with pytest.raises(NothingToTrainOn, match="empty"):
        again(run, tmp_path, records=[])


def test_a_start_of_another_shape_is_refused(run: Run, tmp_path: Path) -> None:
    wider = replace(TINY, network=replace(TINY.network, anchor_sizes=(8, 16, 32)))
    with pytest.raises(UnusableWeights, match=r"start\.safetensors: made for another .*rpn"):
        again(run, tmp_path, preset=wider)
    assert not list(tmp_path.iterdir()), "films were read before"


# What an epoch draws


def kinds(benign: int, malignant: int, normal: int) -> list[ImageRecord]:
    def one(category: int) -> tuple[Annotation, ...]:
        return (Annotation(id=0, bbox=(1, 1, 2, 2), category=category),) if category else ()

    categories = [1] * benign + [2] * malignant + [0] * normal
    return [ImageRecord(image_id=i, path=Path(str(i)), width=9, height=9, patient_id=str(i),
                        annotations=one(category)) for i, category in enumerate(categories)]


@pytest.mark.parametrize(
    ("have", "length", "drawn"),
    [
        ((6, 3, 1), 40, (18, 18, 4)),
        ((3, 6, 0), 40, (20, 20, 0)),
        ((8, 0, 2), 40, (32, 0, 8)),
        ((0, 0, 5), 7, (0, 0, 7)),
        ((5, 5, 5), 15, (5, 5, 5)),
        ((150, 75, 0), 200, (100, 100, 0)),
    ],
)
def test_an_epoch_is_balanced_between_benign_and_malignant(
    have: tuple[int, int, int], length: int, drawn: tuple[int, int, int]
) -> None:
    records = kinds(*have)
    sampler = BalancedSampler(records, length=length, seed=3)
    for epoch in range(3):
        order = sampler.epoch(epoch)
        assert len(order) == length and {at[0] for at in order} == {epoch}
        times = Counter(index for _, index, _ in order)
        assert set(order) == {(epoch, i, nth) for i, n in times.items() for nth in range(n)}
        first = 0
        for count, wanted in zip(have, drawn, strict=True):
            own = [times[i] for i in range(first, first + count)]
            first += count
            assert sum(own) == wanted
            # None twice before all were seen once.
            assert max(own, default=0) - min(own, default=0) <= 1
    assert sampler.epoch(1) == BalancedSampler(records, length=length, seed=3).epoch(1)
    assert sampler.epoch(1) != sampler.epoch(2)
    assert [i for _, i, _ in sampler.epoch(1)] != \
        [i for _, i, _ in BalancedSampler(records, length=length, seed=4).epoch(1)]


def test_a_film_with_both_counts_as_malignant_and_one_to_ignore_as_normal() -> None:
    masses = tuple(Annotation(id=i, bbox=(1, 1, 2, 2), category=c) for i, c in enumerate((1, 2)))
    both = replace(kinds(1, 0, 0)[0], annotations=masses)
    unjudged = replace(both, annotations=(replace(masses[0], role="ignore"),))
    sampler = BalancedSampler([both, unjudged, *kinds(2, 0, 0)], length=4, seed=0)
    assert sampler.kinds == {0: [1], 1: [2, 3], 2: [0]}


def test_a_film_of_unknown_class_is_drawn_in_its_share_whatever_its_category_says() -> None:
    unknown = [replace(r, annotations=tuple(replace(a, class_known=False) for a in r.annotations))
               for r in kinds(1, 1, 0)]
    sampler = BalancedSampler([*unknown, *kinds(6, 2, 0)], length=40, seed=0)
    drawn = Counter(index for _, index, _ in sampler.epoch(0))
    assert sum(drawn[i] for i in range(2)) == 8
    assert sum(drawn[i] for i in range(2, 8)) == sum(drawn[i] for i in range(8, 10)) == 16
    alone = BalancedSampler(unknown, length=6, seed=0)
    assert Counter(i for _, i, _ in alone.epoch(0)) == {0: 3, 1: 3}


# What a sample holds


@pytest.fixture(scope="module")
def plain(run: Run) -> TrainingSet:
    return TrainingSet(run.records, CanvasCache(run.out / "canvases", TINY.network.canvas),
                       augmentation=None, seed=0)


def test_a_sample_says_where_its_masses_lie(run: Run, plain: TrainingSet) -> None:
    for index, record in enumerate(run.records):
        sample = plain[0, index, 0]
        _, geometry = plain.cache.get(record)
        assert sample.image.shape == (1, *TINY.network.canvas)
        assert sample.masks.shape == (len(record.masses), *TINY.network.canvas)
        wanted = geometry.boxes_to_canvas(np.array([a.bbox for a in record.masses]).reshape(-1, 4))
        np.testing.assert_allclose(sample.boxes.numpy(), wanted, atol=1)
        assert sample.classes.tolist() == [a.category for a in record.masses]
        assert sample.class_known.tolist() == [a.class_known for a in record.masses]
        for mask, box in zip(sample.masks, sample.boxes, strict=True):
            rows, columns = np.nonzero(mask.numpy())
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == tuple(box)
            # The masses are the bright discs.
            assert sample.image[0][mask.bool()].mean() > sample.image[0][sample.valid].mean() + 0.2
    assert plain[0, 6, 0].boxes.shape == (0, 4)  # no mass: no rows, the same columns


def test_a_drawn_mask_is_itself_and_a_box_alone_is_an_ellipse(plain: TrainingSet) -> None:
    drawn, fitted = plain[0, 1, 0], plain[0, 3, 0]
    for sample, share in ((drawn, 1.0), (fitted, np.pi / 4)):
        x1, y1, x2, y2 = sample.boxes[0].tolist()
        assert sample.masks.sum() == pytest.approx(share * (x2 - x1) * (y2 - y1), rel=0.12)


def test_a_model_s_mask_teaches_as_a_box_alone_does(run: Run, plain: TrainingSet) -> None:
    """Neither what it drew, nor nothing: background alone would teach the masks to be empty."""
    def taught(**changes: Any) -> Sample:
        mass = replace(run.records[1].annotations[0], class_known=False, **changes)
        records = [replace(run.records[1], annotations=(mass,))]
        return TrainingSet(records, plain.cache, augmentation=None, seed=0)[0, 0, 0]

    accepted, box = taught(mask_source="model"), taught(mask_source="none", segmentation=None)
    for name, value in vars(box).items():
        assert torch.equal(torch.as_tensor(getattr(accepted, name)), torch.as_tensor(value))
    targets = roi_targets(box.boxes, accepted, TINY.targets, torch.Generator().manual_seed(0))
    assert targets.masks[0].any() and not targets.class_known[0]


def test_a_sample_is_the_same_whenever_it_is_drawn(run: Run, plain: TrainingSet) -> None:
    def fresh() -> TrainingSet:
        return TrainingSet(run.records, plain.cache, augmentation=TINY.training.augment, seed=5)

    one, other = fresh(), fresh()
    samples = {at: one[at] for at in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1))}
    for at in reversed(samples):
        again, first = other[at], samples[at]
        for name, value in vars(first).items():
            assert torch.equal(torch.as_tensor(getattr(again, name)), torch.as_tensor(value))
    # Anew in each epoch, and each time within one.
    for at in ((1, 0, 0), (0, 0, 1)):
        assert not torch.equal(samples[0, 0, 0].image, samples[at].image)
        assert samples[0, 0, 0].seed != samples[at].seed
    # The first is what it was when an epoch's draws of a film were all the same.
    assert plain[2, 1, 0].seed == np.random.default_rng([0, 2, 1]).integers(2**31)


def test_a_mass_mostly_out_of_the_picture_is_ignored(run: Run, plain: TrainingSet) -> None:
    """Augmentation that leaves less than half of a mass teaches neither yes nor no."""
    corner = Annotation(id=0, bbox=(2.0, 74.0, 10.0, 12.0), category=1)
    records = [replace(run.records[6], annotations=(corner,))]
    config = replace(TINY.training.augment, operations=(6, 6), zoom=(1.2, 1.2), crop=0.3)
    drawn = TrainingSet(records, plain.cache, augmentation=config, seed=0)
    whole = int(TrainingSet(records, plain.cache, augmentation=None, seed=0)[0, 0, 0].masks.sum())
    seen = Counter[str]()
    for epoch in range(40):
        sample = drawn[epoch, 0, 0]
        assert len(sample.boxes) + len(sample.ignore) <= 1
        if len(sample.boxes):
            assert sample.masks.sum() >= 0.5 * whole
        seen["mass" if len(sample.boxes) else "ignored" if len(sample.ignore) else "gone"] += 1
    assert seen["mass"] and seen["ignored"]


def test_an_ignored_region_is_no_negative_a_rejected_one_always_is(plain: TrainingSet) -> None:
    sample = plain[0, 5, 0]
    assert len(sample.boxes) == len(sample.ignore) == len(sample.hard_negatives) == 1
    anchors = RegionProposalNetwork(sizes=(8, 16), ratios=(0.5, 1, 2))(
        torch.zeros(1, 1024, 4, 3)).anchors
    apart = box_ops.iou(anchors, torch.cat([sample.boxes, sample.hard_negatives])).amax(dim=1) == 0
    sample = replace(sample, ignore=anchors[apart & (anchors[:, 0] > 16)][:1])
    proposals = torch.cat([
        sample.ignore + torch.tensor([dx, dy, dx, dy]) for dx in (-1, 0, 1) for dy in (-1, 0, 1)
    ] + [torch.tensor([[2.0 * i, 5, 2.0 * i + 6, 12] for i in range(10)])])
    config = replace(TINY.targets, roi_samples=6)
    extent = torch.tensor([48.0, 64.0])
    covering = box_ops.coverage(anchors, sample.ignore) > 0.5
    assert covering.any()
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        targets = roi_targets(proposals, sample, config, random)
        background = targets.boxes[targets.classes == 0]
        assert (box_ops.coverage(background, sample.ignore) <= 0.5).all()
        assert (background == sample.hard_negatives).all(dim=1).any()
        chosen = anchor_targets(anchors, extent, sample, replace(TINY.targets, rpn_samples=200),
                                random)
        assert not covering[chosen.index[chosen.labels == 0]].any()
        assert chosen.labels.sum() >= 1  # the mass has its best anchor, whatever their overlap


def test_a_stretched_film_is_trained_on_in_its_true_shape(run: Run, tmp_path: Path) -> None:
    cache = CanvasCache(tmp_path, TINY.network.canvas)
    _, square = cache.get(run.records[3])
    _, tall = cache.get(replace(run.records[3], pixel_aspect=2.0))
    assert square.scale[0] == pytest.approx(square.scale[1], rel=0.05)
    assert tall.scale[1] == pytest.approx(2 * tall.scale[0], rel=0.05)
    assert (square.image_size, tall.image_size) == ((HEIGHT, WIDTH), (HEIGHT, WIDTH))


def test_a_replaced_film_is_read_again(run: Run, tmp_path: Path) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(run.records[1].path.read_bytes())
    record = replace(run.records[1], path=film)
    cache = CanvasCache(tmp_path / "canvases", TINY.network.canvas)
    before, _ = cache.get(record)
    film.write_bytes(run.records[3].path.read_bytes())
    os.utime(film, ns=(1, 1))
    after, _ = cache.get(record)
    assert before.shape != after.shape or not np.array_equal(before, after)
    film.unlink()  # while a training goes on that has seen it
    assert np.array_equal(cache.get(record)[0], after)
    with pytest.raises(UnreadableMammogram, match="there is no such file"):
        CanvasCache(tmp_path / "canvases", TINY.network.canvas).get(record)


# Weights


def test_weights_are_float16_with_their_card_and_digest(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build(TINY.network)
    file = tmp_path / "w.safetensors"
    card = {"version": "7", "thresholds": {"1": 0.25}, "malignant": "BI-RADS 4 to 6"}
    save_weights(file, network, preset=TINY, metadata=card)
    stored = load_file(file)
    assert {str(v.dtype) for n, v in stored.items() if v.ndim > 1} == {"torch.float16"}
    assert {str(v.dtype) for n, v in stored.items() if v.ndim == 1} == {"torch.float32"}
    weights = load_weights(file)
    assert weights.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert weights.preset == TINY
    assert weights.metadata == {**card, "code_version": __version__}
    read = weights.network()
    assert not read.training
    for name, value in network.state_dict().items():
        half = value.half().float() if value.ndim > 1 else value
        assert torch.equal(read.state_dict()[name], half), name
    again = tmp_path / "again.safetensors"
    save_weights(again, read, preset=weights.preset, metadata=card)
    assert again.read_bytes() == file.read_bytes()  # reading and writing loses nothing more


def rewritten(file: Path, *, drop: str = "", shape: str = "", add: str = "", spoil: str = "",
              card: Any = None) -> None:
    """The file with a tensor lacking, of another shape, unknown, not finite; or another card."""
    state = {name: value for name, value in load_file(file).items() if name != drop}
    if shape:
        state[shape] = state[shape][:-1].clone()
    if add:
        state[add] = torch.zeros(3)
    if spoil:
        state[spoil].view(-1)[0] = float("nan")
    text = json.dumps({"preset": TINY.to_json()} if card is None else card)
    save_file(state, file, metadata={"ftmtl": text})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: f.unlink(), "there is no such file"),
        (lambda f: (f.unlink(), f.mkdir()), "not weights"),
        (lambda f: f.write_bytes(b""), "not weights"),
        (lambda f: f.write_bytes(b"PK\x03\x04 and so on"), "not weights"),
        (lambda f: f.write_bytes(f.read_bytes()[:-1000]), "not weights"),
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "not weights"),
        (lambda f: save_file(load_file(f), f), "it carries no recipe"),
        (lambda f: rewritten(f, card={}), "preset"),
        (lambda f: rewritten(f, card=[1]), "not weights"),
        (lambda f: rewritten(f, card={"preset": "paper"}), "a preset is a mapping"),
        (lambda f: rewritten(f, card={"preset": {"name": "x", "depth": 5}}), "unknown settings"),
        (lambda f: rewritten(f, drop="rpn.objectness.weight"), "1 tensors lack, rpn.objectness"),
        (lambda f: rewritten(f, shape="rpn.objectness.weight"), r"rpn.objectness.weight is \["),
        (lambda f: rewritten(f, add="heads.more"), "1 tensors are unknown, heads.more"),
        (lambda f: rewritten(f, spoil="rpn.objectness.weight"), "is not finite"),
    ],
)
def test_damaged_weights_are_refused_by_name(
    run: Run, tmp_path: Path, damage: Any, reason: str
) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(run.start.read_bytes())
    damage(file)
    with pytest.raises(UnusableWeights, match=rf"w\.safetensors: .*{reason}"):
        load_weights(file)


# Devices


def test_devices_are_picked_or_refused_with_the_choices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "", "cuda:x", "meta", "mps"):
        with pytest.raises(NoSuchDevice, match="use auto, cpu, cuda or cuda:N"):
            pick_device(name)
    with pytest.raises(NoSuchDevice, match=f"has {torch.cuda.device_count()} CUDA devices"):
        pick_device(f"cuda:{torch.cuda.device_count() + 1}")
