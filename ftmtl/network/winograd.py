"""A 3×3 convolution by Winograd's F(2×2, 3×3) (Lavin & Gray 2016, section 4.1).

Four places that form a square are made of 16 products where the definition takes 36. It is the
same sum in another order, so only rounding differs. It pays with many channels, whose products
outweigh the sums before and after: with the RPN's 1024 it halves the time, with the backbone's 64
to 256 it gains nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# How a kernel's three taps act on the four sums of `_of_input` (G of the paper).
_TAPS = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


class WinogradConv(nn.Module):
    """`conv`, which has 3×3 kernels, stride 1, padding 1 and a bias, in another order."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        assert conv.bias is not None
        kernels = conv.weight.detach()
        taps = _TAPS.to(kernels)
        by_sum = torch.einsum("ch,rv,oivh->crio", taps, taps, kernels)  # column, row, in, out
        self.weight = nn.Parameter(by_sum.flatten(0, 1).contiguous())  # [16, in, out]
        self.bias = nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H, W]; both channels last."""
        batch, channels, height, width = x.shape
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
        sums = _of_input(_of_input(x, dim=1), dim=3)  # [4, 4, B, h, w, C], h = ⌈H / 2⌉
        h, w = sums.shape[3:5]
        products = sums.view(16, -1, channels) @ self.weight
        places = _of_output(products.view(4, 4, batch, h, w, -1))  # [2 columns, 4, B, h, w, C']
        places = _of_output(places.transpose(0, 1))  # [2 rows, 2 columns, B, h, w, C']
        y = places.permute(2, 3, 0, 4, 1, 5).reshape(batch, 2 * h, 2 * w, -1)
        return (y[:, :height, :width] + self.bias).contiguous().permute(0, 3, 1, 2)


def _of_input(x: Tensor, *, dim: int) -> Tensor:
    """Four sums of every four neighbours two apart along `dim` (Bᵀ): [4, …], 2t + 2 become t."""
    count = (x.shape[dim] - 2) // 2
    a, b, c, d = (
        x[(slice(None),) * dim + (slice(k, k + 2 * count - 1, 2),)] for k in range(4)
    )
    return torch.stack([a - c, b + c, c - b, b - d])


def _of_output(products: Tensor) -> Tensor:
    """Two neighbouring places [2, …] of four products [4, …] (Aᵀ)."""
    a, b, c, d = products
    return torch.stack([a + b + c, b - c - d])
