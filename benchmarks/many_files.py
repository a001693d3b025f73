"""How long 10,000 DICOM files take: the first start, a second one, a look for news, the list.

    python benchmarks/many_files.py [--files 10000] [--labels 10000]

The files are real ones (64 x 80 pixels, 16 bits) in nested folders, half of them without a suffix.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ftmtl.datasets.labels import FINAL, LabelVersion, image_folder
from monailabel_app.lib.datastore import MammogramStore

MAMMOGRAM = "1.2.840.10008.5.1.4.1.1.1.2"


def write_files(folder: Path, count: int) -> None:
    """`count` mammograms, four a woman, twenty a folder."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = MAMMOGRAM
    image.is_little_endian, image.is_implicit_VR = True, False
    image.Modality, image.PresentationIntentType = "MG", "FOR PRESENTATION"
    image.Rows, image.Columns, image.SamplesPerPixel = 80, 64, 1
    image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelData = np.arange(80 * 64, dtype="<u2").tobytes()
    for number in range(count):
        uid = f"1.2.826.0.1.3680043.10.999.{number}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = uid
        image.PatientID = f"H{number // 4:07d}"
        image.StudyInstanceUID = f"1.2.826.0.1.3680043.10.998.{number // 4}"
        image.ImageLaterality = "LR"[number % 2]
        image.ViewPosition = ("CC", "MLO")[number // 2 % 2]
        place = folder / f"export{number // 1000}" / f"study{number // 20}"
        place.mkdir(parents=True, exist_ok=True)
        name = f"IM{number:06d}" if number % 2 else f"{uid}.DCM"
        pydicom.dcmwrite(place / name, image, write_like_original=False)


def write_records(workspace: Path, store: MammogramStore, count: int) -> None:
    """Records of labels: what a start reads of them."""
    for image_id in store.list_images()[:count]:
        version = LabelVersion(
            version=1,
            image=store.entry(image_id).image or {},
            tag=FINAL,
            standing="label",
            time="2026-01-01T00:00:00+00:00",
            annotator="ann",
            file="0001.seg.nrrd",
        )
        place = image_folder(workspace / "labels", image_id) / FINAL
        place.mkdir(parents=True)
        (place / "0001.json").write_text(json.dumps(version.to_json()))


def timed(name: str, call: Callable[[], Any]) -> Any:
    """Prints how long a call takes, in real time and of this process alone."""
    real, own = time.perf_counter(), time.process_time()
    result = call()
    real, own = time.perf_counter() - real, time.process_time() - own
    print(f"{name:<40}{real:8.2f} s{own:8.2f} s of processor", flush=True)
    return result


def main() -> None:
    """Measures in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=10_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="many-files-"))
    try:
        studies, workspace = folder / "studies", folder / "workspace"
        workspace.mkdir()
        write_files(studies, options.files)
        print(f"{options.files} files, {options.labels} labels")
        store = timed("first start", lambda: MammogramStore(studies, workspace))
        assert len(store.list_images()) == options.files
        timed("second start", lambda: MammogramStore(studies, workspace))
        write_records(workspace, store, options.labels)
        (workspace / "sides.json").write_text("{}")
        store = timed("second start, with labels", lambda: MammogramStore(studies, workspace))
        timed("a look for new files", store.catalogue.refresh)
        timed("the whole list (/datastore/?output=all)", store.json)
        timed("the images without a label", store.get_unlabeled_images)
        timed("counts (in every request)", store.status)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
