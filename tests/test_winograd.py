"""Winograd's convolution is the convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ftmtl.network.winograd import WinogradConv


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 8), (8, 5), (7, 9)])
def test_it_is_the_convolution_whatever_the_map(size: tuple[int, int]) -> None:
    """In float64, where only a wrong sum could differ; even and odd maps, edges and all."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, padding=1).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    found = WinogradConv(conv)(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, conv(x), rtol=0, atol=1e-12)


def test_in_float32_it_is_as_exact_as_the_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1024, 64, 3, padding=1)
    x = torch.randn(1, 1024, 10, 6)
    exact = nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert (WinogradConv(conv)(x) - exact).abs().max() < 1e-5 * exact.abs().max()
