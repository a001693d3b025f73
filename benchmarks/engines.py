"""The backbone and RPN in other engines than plain PyTorch, on this machine, in one run.

    pip install onnx onnxscript onnxruntime openvino      # whichever are to be tried
    python benchmarks/engines.py

Every engine gets the network as `ftmtl` reads with it (batch norms folded, grey stem) and the same
canvas of a sample film. Each round runs all once, in turn; medians count. `error` is the largest
difference of θ0 from PyTorch's, as a share of its largest value. What is not installed is named
and left out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from in_turn import in_turn, show, spread

from ftmtl.canvas import make_canvas
from ftmtl.mammogram import read_mammogram
from ftmtl.network.inference import InferenceNet
from ftmtl.samples import prepare_samples
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights

Runner = Callable[[], Any]  # θ0 first


class Trunk(nn.Module):
    """What comes before the proposals: θ0, objectness and deltas."""

    def __init__(self, network: InferenceNet) -> None:
        super().__init__()
        self.backbone, self.rpn = network.backbone, network.rpn

    def forward(self, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of image [B, 1, H, W] and valid [B, H, W]."""
        theta0 = self.backbone(image, valid)
        rpn = self.rpn(theta0)
        return theta0, rpn.objectness, rpn.deltas


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    weights = load_weights(STARTER_WEIGHTS)
    trunk = Trunk(InferenceNet(weights.network(), torch.device("cpu"))).eval()
    with tempfile.TemporaryDirectory() as folder:
        prepare_samples(Path(folder))
        films = sorted(Path(folder).glob("*.dcm"))
        canvases = [make_canvas(read_mammogram(film).pixels, weights.preset.network.canvas)
                    for film in films]
    inputs = [(torch.from_numpy(c.pixels)[None, None], torch.from_numpy(c.valid)[None])
              for c in canvases]
    engines = {
        "PyTorch": pytorch, "PyTorch, channels first": channels_first,
        "TorchScript, frozen": torchscript, "torch.compile": compiled,
        "ONNX Runtime": onnx_runtime, "OpenVINO": openvino, "OpenVINO, int8": openvino_int8,
    }
    runners: dict[str, Runner] = {}
    made: dict[str, float] = {}
    for name, make in engines.items():
        began = time.perf_counter()
        try:
            with torch.inference_mode():
                runners[name] = make(trunk, inputs)
                runners[name]()
        except ImportError as error:
            print(f"{name} is left out: {error}")
            runners.pop(name, None)
            continue
        made[name] = time.perf_counter() - began
    with torch.inference_mode():
        reference = torch.as_tensor(runners["PyTorch"]()[0])
        errors = {
            name: float((torch.as_tensor(run()[0]) - reference).abs().max() / reference.abs().max())
            for name, run in runners.items()
        }
        taken = in_turn(runners, options.rounds)
    rows = {
        name: {**spread(ms), "ready after, s": round(made[name], 1),
               "error": float(f"{errors[name]:.1g}")}
        for name, ms in taken.items()
    }
    show(rows, what="ms", file=options.json)


Inputs = list[tuple[Tensor, Tensor]]


def pytorch(trunk: Trunk, inputs: Inputs) -> Runner:
    """As `ftmtl` runs it."""
    return lambda: trunk(*inputs[0])


def channels_first(trunk: Trunk, inputs: Inputs) -> Runner:
    """The same, with weights as they come from training."""
    other = deepcopy(trunk).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return lambda: other(*inputs[0])


def torchscript(trunk: Trunk, inputs: Inputs) -> Runner:
    """Traced, frozen, and handed to oneDNN by `optimize_for_inference`."""
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = trunk

        def forward(self, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            theta0, objectness, deltas = self.trunk(image, valid)
            return theta0, objectness, deltas

    traced = torch.jit.optimize_for_inference(
        torch.jit.freeze(torch.jit.trace(Plain().eval(), inputs[0])))
    for _ in range(3):  # its profiling executor settles
        traced(*inputs[0])
    return lambda: traced(*inputs[0])


def compiled(trunk: Trunk, inputs: Inputs) -> Runner:
    """By Inductor, weights frozen."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    run = torch.compile(trunk)
    run(*inputs[0])
    return lambda: run(*inputs[0])


def exported(trunk: Trunk, inputs: Inputs, folder: str) -> str:
    """The file of an ONNX model."""
    import onnx  # noqa: F401
    import onnxscript  # noqa: F401

    path = str(Path(folder, "trunk.onnx"))
    clones = tuple(t.clone() for t in inputs[0])
    torch.onnx.export(trunk, clones, path, dynamo=True, external_data=False, verbose=False,
                      input_names=["image", "valid"])
    return path


def onnx_runtime(trunk: Trunk, inputs: Inputs) -> Runner:
    """ONNX Runtime's own CPU kernels."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(exported(trunk, inputs, folder), settings,
                                               providers=["CPUExecutionProvider"])
    feed = {"image": inputs[0][0].numpy(), "valid": inputs[0][1].numpy()}
    return lambda: session.run(None, feed)


def openvino_model(trunk: Trunk, inputs: Inputs) -> Any:
    """The model as OpenVINO reads it."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        return openvino.Core().read_model(exported(trunk, inputs, folder))


def on_openvino(model: Any, inputs: Inputs) -> Runner:
    """A runner of an OpenVINO model, f32 where it is not quantised."""
    import openvino

    ready = openvino.compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"})
    feed = [t.numpy() for t in inputs[0]]
    return lambda: list(ready(feed).values())


def openvino(trunk: Trunk, inputs: Inputs) -> Runner:
    """OpenVINO's CPU plugin."""
    return on_openvino(openvino_model(trunk, inputs), inputs)


def openvino_int8(trunk: Trunk, inputs: Inputs) -> Runner:
    """The same with weights and activations quantised after training, ranges from the samples."""
    import nncf

    data = nncf.Dataset(inputs, lambda pair: [t.numpy() for t in pair])
    return on_openvino(nncf.quantize(openvino_model(trunk, inputs), data), inputs)


if __name__ == "__main__":
    main()
