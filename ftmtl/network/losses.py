"""The costs: L_prop for the proposals, L_uni (Eq. 10) for the heads.

Each is computed an image at a time and averaged over the batch by the caller, so that a batch
split over processes gives the same number.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ftmtl.training.targets import AnchorTargets, RoiTargets

from .model import HeadsOutput
