"""What several tests stand on: the real sample mammograms and a network nobody trained."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

# Before anything is computed, here and in the servers that tests start: a test says the same on
# every processor. What bfloat16 does is test_device's.
os.environ["FTMTL_FLOAT32"] = "1"

import pytest
import torch

from ftmtl.config import RECOMMENDED
from ftmtl.network.model import build
from ftmtl.samples import prepare_samples
from ftmtl.weights_file import save_weights


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the eight sample DICOMs. Read only."""
    folder = tmp_path_factory.mktemp("samples")
    prepare_samples(folder)
    return folder


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network straight from its random start: it sees masses all over."""
    torch.manual_seed(25)
    network = replace(RECOMMENDED.network, canvas=(320, 192), proposals_infer=20, init_std=1e-4,
                      hidden_init_std=1e-4, variant="ft-mtl-net", boxes_from="mean",
                      settled_by="suppression")  # its boxes agree on nothing
    preset = replace(RECOMMENDED, network=network)
    file = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_weights(file, build(network), preset=preset, metadata={"version": "untrained"})
    return file
