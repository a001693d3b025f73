"""What the classifier hears from where: the pooled features of the backbone, and the transfer.

    python benchmarks/transferred.py --data SET.json --images DIR --weights W

The classifier reads two parts joined, θ1 and the transferred features (paper 2.2.3). Each is heard
alone by giving the other as its mean over all masses: for the true box of every mass, how widely
malignant − benign then varies, and how well it tells the two apart.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from ftmtl.datasets.coco import read_coco
from ftmtl.datasets.records import MALIGNANT, ImageRecord
from ftmtl.network.feature_transfer import weight_map
from ftmtl.network.heads import ClassificationHead
from ftmtl.network.model import FTMTLNet
from ftmtl.training.samples import CanvasCache, Sample, TrainingSet
from ftmtl.weights_file import STARTER_WEIGHTS, load_weights


def parts(
    network: FTMTLNet, head: ClassificationHead, sample: Sample
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a canvas's masses: pooled θ1 [T, 1024], transferred features [T, 256], mean M_w [T]."""
    theta0 = network.backbone(sample.image[None], sample.valid[None])
    theta1 = network.pool(theta0, [sample.boxes])
    theta4, mask_logits = network.segmentation(theta1)
    weights = weight_map(mask_logits).mean(dim=(1, 2, 3, 4))
    return theta1.mean(dim=(1, 2)), head.transfer(theta4, mask_logits), weights


@torch.inference_mode()
def listen(network: FTMTLNet, records: Sequence[ImageRecord], canvases: Path) -> str:
    """What is heard of each part on all masses of `records`, in words.

    Raises TypeError where the network's classifier has no such two parts.
    """
    head = network.classification
    if not isinstance(head, ClassificationHead):
        raise TypeError(f"{network.config.variant} transfers nothing")
    store = CanvasCache(canvases, network.config.canvas)
    samples = TrainingSet(records, store, augmentation=None, seed=0)
    seen, malignant = [], []
    for index in tqdm(range(len(records)), unit=" films"):
        sample = samples[0, index, 0]
        if len(sample.boxes):
            seen.append(parts(network, head, sample))
            malignant.append(sample.classes == MALIGNANT)
    truth = torch.cat(malignant).numpy()
    pooled, transferred, maps = (torch.cat(each) for each in zip(*seen, strict=True))
    usual = pooled.mean(dim=0).expand_as(pooled), transferred.mean(dim=0).expand_as(transferred)
    lines = [f"{len(truth)} masses; mean weight map {maps.mean():.2f}"]
    for name, heard in (
        ("θ1", (pooled, usual[1])), ("transfer", (usual[0], transferred)),
        ("together", (pooled, transferred)),
    ):
        logits = head.of_joined(*heard)
        values = (logits[:, 2] - logits[:, 1]).numpy()
        auc = roc_auc_score(truth, values)
        lines.append(f"{name:>8}: SD {values.std():.4f}, AUC {auc:.3f}")
    return "\n".join(lines)


def main() -> None:
    """Look at every mass of a data set, and print both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = read_coco(options.data, options.images)
        try:
            print(listen(load_weights(options.weights).network(), records, Path(folder)))
        except TypeError as error:
            parser.error(f"{options.weights}: {error}")


if __name__ == "__main__":
    main()
