"""How long `ftmtl evaluate` takes: 400 images, their masks outlined, ten predictions each.

    python benchmarks/evaluation_time.py

Runs the command itself, start of Python included, on a set made with a fixed seed (film size
3328×2560, outlines at that size), alone and against a second model; prints seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

ROOT = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH = 3328, 2560


def outline(box: list[float]) -> dict[str, Any]:
    """The ellipse in a box, as compressed RLE."""
    x, y, w, h = box
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = np.stack([x + w / 2 * (1 + np.cos(angle)), y + h / 2 * (1 + np.sin(angle))], axis=1)
    rle = coco_mask.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def data(images: int, each: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth and predictions: one image in four normal, most masses found."""
    draw = np.random.default_rng(0)
    entries, masses, results = [], [], []

    def predict(image: int, box: list[float], score: float) -> None:
        share = float(draw.uniform())
        results.append({
            "image_id": image, "bbox": box, "score": score, "category_id": 1 + (share > 0.5),
            "scores": [1 - score, score * (1 - share), score * share],
            "segmentation": outline(box)})

    def place() -> list[float]:
        return [float(v) for v in (*draw.uniform(0, 2200, 2), *draw.uniform(150, 340, 2))]

    for image in range(images):
        entries.append({"id": image, "width": WIDTH, "height": HEIGHT,
                        "laterality": "LR"[image % 2], "patient_id": f"P{image // 4}"})
        for _ in range(0 if image % 4 == 0 else int(draw.integers(1, 3))):
            box = place()
            masses.append({"id": len(masses), "image_id": image, "bbox": box,
                           "category_id": int(draw.integers(1, 3)), "mask_source": "annotated",
                           "segmentation": outline(box)})
            if draw.uniform() < 0.85:
                predict(image, [box[0] + 9, *box[1:]], float(draw.beta(3, 2)))
        for _ in range(each):
            predict(image, place(), float(draw.beta(1, 8)))
    return {"images": entries, "annotations": masses,
            "categories": [{"id": 1, "name": "benign"}, {"id": 2, "name": "malignant"}]}, results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--each", type=int, default=10, help="false candidates an image")
    options = parser.parse_args()
    truth, results = data(options.images, options.each)
    print(f"{options.images} images, {len(truth['annotations'])} masses, {len(results)} "
          f"predictions with masks; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "truth.json").write_text(json.dumps(truth))
        (here / "a.json").write_text(json.dumps(results))
        command = [sys.executable, "-m", "ftmtl.cli", "evaluate", "--truth", here / "truth.json",
                   "--predictions", here / "a.json", "--out", here / "report"]
        for name, more in (("alone", []), ("against another", ["--against", here / "a.json"])):
            began, before = time.perf_counter(), os.times()
            subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL,
                           env={**os.environ, "PYTHONPATH": str(ROOT)})
            after = os.times()
            worked = after.children_user + after.children_system - before.children_user \
                - before.children_system
            print(f"{name:16} {time.perf_counter() - began:6.1f} s, of which worked {worked:.1f} s")


if __name__ == "__main__":
    main()
