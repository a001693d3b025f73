"""Weights as files: float16 safetensors whose metadata says what they are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ftmtl import __version__
from ftmtl.atomic import write_bytes
from ftmtl.config import Preset
from ftmtl.network.model import FTMTLNet, build

STARTER_WEIGHTS = Path(__file__).parent / "weights" / "starter.safetensors"


class UnusableWeights(ValueError):
    """Weights that cannot be used; names the file, the reason and the remedy."""


@dataclass(frozen=True)
class Weights:
    """A weights file read: the network's state (float32), its recipe, its card, its SHA-256."""

    state: dict[str, Tensor]
    preset: Preset
    metadata: dict[str, Any]
    sha256: str

    def network(self) -> FTMTLNet:
        """The network with these weights, in evaluation mode."""
        network = build(self.preset.network, frozen_backbone=self.preset.training.frozen_backbone)
        network.load_state_dict(self.state)
        return network.eval()


def save_weights(
    file: Path, network: FTMTLNet, *, preset: Preset, metadata: dict[str, Any]
) -> None:
    """Write convolutions and linear layers in float16, batch norm in float32; atomic."""
    state = {
        name: (value.half() if value.ndim > 1 else value.float()).contiguous().cpu()
        for name, value in network.state_dict().items()
        if value.is_floating_point()
    }
    card = {"preset": preset.to_json(), "code_version": __version__, **metadata}
    write_bytes(file, save(state, metadata={"ftmtl": json.dumps(card, sort_keys=True)}))


def load_weights(file: Path) -> Weights:
    """Read a file that `save_weights` wrote. Raises UnusableWeights."""
    file = Path(file)
    try:
        content = file.read_bytes()
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if "ftmtl" not in metadata:
                raise ValueError("it carries no recipe")
            card = json.loads(metadata["ftmtl"])
            state = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118
        preset = Preset.from_json(card.pop("preset"))
        with torch.device("meta"):  # its names and shapes, without drawing any weights
            wanted = build(preset.network).state_dict()
        _complete(state, wanted)
    except FileNotFoundError as error:
        raise UnusableWeights(
            f"{file}: there is no such file. Train, or give other weights"
        ) from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnusableWeights(
            f"{file}: not weights of FT-MTL-Net ({error}). Give a file that `ftmtl train` wrote"
        ) from error
    return Weights(state, preset, card, hashlib.sha256(content).hexdigest())


def _complete(state: dict[str, Tensor], network: dict[str, Tensor]) -> None:
    """Add the counters that are not stored; ValueError unless all else is the network's."""
    for name, value in network.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
    if lacking := sorted(network.keys() - state.keys()):
        raise ValueError(f"{len(lacking)} tensors lack, {lacking[0]} first")
    if unknown := sorted(state.keys() - network.keys()):
        raise ValueError(f"{len(unknown)} tensors are unknown, {unknown[0]} first")
    for name, value in state.items():
        if value.shape != network[name].shape:
            raise ValueError(
                f"{name} is {list(value.shape)}, the recipe's is {list(network[name].shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{name} is not finite")
