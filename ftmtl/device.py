"""Where to compute, and in which precision."""

from __future__ import annotations

import contextlib
import os

import torch


class NoSuchDevice(ValueError):
    """A device was asked for that this machine does not have."""


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU; a card may go by its own name.

    Raises NoSuchDevice.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for index in range(torch.cuda.device_count()):
        if name == torch.cuda.get_device_name(index):
            return torch.device("cuda", index)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise NoSuchDevice(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise NoSuchDevice(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise NoSuchDevice(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices. Use cpu"
        )
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, and nobody set `FTMTL_FLOAT32`.

    With it set to anything, all machines compute alike, to rounding, and some of them slower.
    """
    if os.environ.get("FTMTL_FLOAT32"):
        return False
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Mixed precision in bfloat16 where the device has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))
