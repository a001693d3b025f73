"""Two processes that torchrun starts, stopped and resumed, take the same steps as one alone."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_set import STEPS, TINY_SGD, make_set

from ftmtl.training.loop import train
from ftmtl.training.processes import UnevenShares, joined

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import pickle, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from training_set import TINY_SGD
from ftmtl.training.loop import train
told = []
steps = []
records = pickle.loads(Path(sys.argv[1]).read_bytes())
out, stop_after = Path(sys.argv[2]), int(sys.argv[3])
outcome = train(records, preset=TINY_SGD, out=out, device="cpu", resume=stop_after == 0,
                on_progress=told.append,
                should_stop=lambda: steps.append(0) or len(steps) == stop_after)
assert outcome.finished == (stop_after == 0)
Path(out, f"told {{stop_after}} {{len(told)}}").touch()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of one training alone and of one by two processes, on the same films.

    The two are stopped half way and started again.
    """
    folder = tmp_path_factory.mktemp("processes")
    records = make_set(folder / "films")
    (folder / "records").write_bytes(pickle.dumps(records))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(records, preset=TINY_SGD, out=folder / "one", device="cpu")
    finally:
        torch.set_num_threads(threads)
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests")))
    for stop_after in (STEPS // 2, 0):
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
             "2", str(script), str(folder / "records"), str(folder / "two"), str(stop_after)],
            check=True, timeout=280, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
    return folder / "one", folder / "two"


def losses(run: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)]
            for tag in board.Tags()["scalars"] if tag.startswith("loss/")}


def test_the_losses_of_every_step_are_equal(runs: tuple[Path, Path]) -> None:
    one, two = (losses(run) for run in runs)
    assert set(one) == set(two) == {"loss/proposal", "loss/class", "loss/box", "loss/mask"}
    assert {step for rows in one.values() for step, _ in rows} == set(range(1, STEPS + 1))
    for tag, rows in one.items():
        assert [step for step, _ in two[tag]] == [step for step, _ in rows]
        # This untrained network's costs reach 300, so 1e-4 is of their size.
        assert [value for _, value in two[tag]] == pytest.approx(
            [value for _, value in rows], rel=1e-4, abs=1e-4), tag


def test_the_weights_are_equal(runs: tuple[Path, Path]) -> None:
    one, two = (load_file(run / "weights.safetensors") for run in runs)
    for name, value in one.items():
        torch.testing.assert_close(two[name].float(), value.float(), rtol=2e-3, atol=1e-4)


def test_the_first_process_alone_writes_and_tells(runs: tuple[Path, Path]) -> None:
    one, two = runs
    for stop_after, steps in ((STEPS // 2, STEPS // 2), (0, STEPS - STEPS // 2)):
        told = sorted(int(f.name.split()[2]) for f in two.glob(f"told {stop_after} *"))
        assert told[0] == 0 and told[1] >= steps
    assert len(list((two / "tensorboard").iterdir())) == 2  # one for each start
    assert len(list((two / "canvases").iterdir())) == len(list((one / "canvases").iterdir()))


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with (pytest.raises(UnevenShares, match="batch of 4"),
          joined(torch.device("cpu"), batch_size=4)):
        pass
