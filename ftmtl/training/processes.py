"""Training in several processes, one a device, as `torchrun` starts them.

Each process takes its share of every batch. A batch's cost is the mean over its images, so the mean
of the shares' gradients is the batch's gradient, and all processes take the same step. A sample's
chance is seeded by its draw, so it does not matter which process draws it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed
from torch.nn import Parameter

T = TypeVar("T")
PATIENCE = timedelta(hours=12)  # one may be reading images or judging an epoch while others wait


class UnevenShares(ValueError):
    """A batch that cannot be shared equally among the processes; names the remedy."""


@dataclass(frozen=True)
class Processes:
    """This process, `rank` of `count`; alone, nothing here does anything."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one writes the files and tells of the progress."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part: every `count`-th item."""
        return list(items[self.rank :: self.count])

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            distributed.barrier()

    def one_says(self, word: bool) -> bool:
        """Whether any process says yes; the same answer in all."""
        if self.count == 1:
            return word
        said = torch.tensor(float(word), device=self.device)
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        return bool(said)

    def average(self, parameters: Sequence[Parameter], costs: dict[str, float]
                ) -> dict[str, float]:
        """Put the mean of all processes' gradients in place of this one's; the mean costs."""
        if self.count == 1:
            return costs
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        told = torch.tensor(list(costs.values()), device=self.device)
        flat = torch.cat([told, *(g.flatten() for g in gradients)])
        distributed.all_reduce(flat)
        flat /= self.count
        means = flat[len(told) :].split([g.numel() for g in gradients])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean.view_as(parameter)
        return dict(zip(costs, flat[: len(told)].tolist(), strict=True))


@contextmanager
def joined(device: torch.device, *, batch_size: int) -> Iterator[Processes]:
    """Join the processes that `torchrun` started; this one alone where it did not.

    On CUDA each takes the device of its local rank. Raises UnevenShares.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, device)
        return
    if batch_size % count:
        raise UnevenShares(
            f"a batch of {batch_size} images cannot be shared equally by {count} processes: "
            "start a number of them that divides it"
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(distributed.get_rank(), count, device)
    finally:
        distributed.destroy_process_group()
