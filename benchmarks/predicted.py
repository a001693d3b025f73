"""COCO predictions of a data set by a predictor that a benchmark has changed."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from ftmtl.atomic import write_json
from ftmtl.datasets.coco import read_coco
from ftmtl.predict import Predictor
from ftmtl.predict_files import predict_records


def write_predicted(predictor: Predictor, data: Path, images: Path, out: Path) -> None:
    """Predict the films of `data`, write COCO results to `out`, and print how many."""
    records = read_coco(data, images)
    with tqdm(total=len(records), unit=" films") as bar:
        results, report = predict_records(predictor, records,
                                          on_file=lambda done, *_: bar.update(done - bar.n))
    write_json(out, results)
    print(f"{report.read} films read, {len(report.refused)} refused, {len(results)} candidates")
