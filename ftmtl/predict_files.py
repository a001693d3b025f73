"""Reading many files: findings, pictures, a verdict for each patient; bad files are reported."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pycocotools import mask as coco_mask

from ftmtl.atomic import write_bytes, write_json
from ftmtl.canvas import Canvas
from ftmtl.datasets.film import read_film
from ftmtl.datasets.records import CATEGORY_OF, ImageRecord
from ftmtl.findings import Findings, ImageInfo
from ftmtl.mammogram import LONGEST_NAME, Mammogram, UnreadableMammogram, read_mammogram
from ftmtl.other_view import other_views, with_other_view
from ftmtl.overlay import save_overlay
from ftmtl.patient_key import PatientKey
from ftmtl.predict import SCORE_FLOOR, Predictor, image_info
from ftmtl.prefetch import ahead
from ftmtl.reading import Reading
from ftmtl.veto import worst

KEY_FILE = "patient.key"
COLUMNS = ("file", "id", "patient_key", "laterality", "view", "verdict", "malignancy", "findings")
AnyPath = TypeVar("AnyPath", bound=PurePath)
Opened = tuple[Mammogram, Canvas] | UnreadableMammogram


@dataclass
class Report:
    """What a run over many files did."""

    read: int = 0
    refused: list[str] = field(default_factory=list)
    refused_ids: list[int | str] = field(default_factory=list)  # of them, in a data set


@dataclass(frozen=True)
class _Read:
    """A film that was read."""

    file: Path
    image: ImageInfo
    reading: Reading


class _Folder:
    """The folder that findings are written into, and what was said of each film so far."""

    def __init__(self, predictor: Predictor, out: Path, threshold: float | None) -> None:
        self._predictor, self._out, self._threshold = predictor, out, threshold
        # File, verdict and number of findings: outlines are large, and not needed later.
        self._said: dict[str, tuple[Path, Findings, int]] = {}

    def write(self, film: _Read, mammogram: Mammogram, others: Sequence[_Read]) -> None:
        """`ID.json` and `ID.png` of a film that heard these others, in place of earlier ones.

        An id of more than `LONGEST_NAME` bytes, of a path through many folders, names no file: its
        SHA-256 does.
        """
        reading = with_other_view(film.reading, [other.reading for other in others])
        findings = self._predictor.findings(reading, film.image, threshold=self._threshold)
        told = film.image.id.encode()
        name = film.image.id if len(told) <= LONGEST_NAME else hashlib.sha256(told).hexdigest()
        write_json(self._out / f"{name}.json", findings.to_json())
        save_overlay(self._out / f"{name}.png", mammogram, findings)
        verdict = replace(findings, findings=())
        self._said[film.image.id] = film.file, verdict, len(findings.findings)

    def finish(self, refused: Sequence[str]) -> None:
        """`files.csv`, `patients.json` and `refused.txt`."""
        rows: list[Sequence[object]] = [COLUMNS]
        by_patient: dict[str, list[Findings]] = {}
        for file, said, count in self._said.values():
            image, verdict = said.image, said.verdict
            rows.append([file, image.id, image.patient_key, image.laterality, image.view,
                         verdict.label, f"{verdict.malignancy:.4f}", count])
            by_patient.setdefault(str(image.patient_key), []).append(said)
        write_bytes(self._out / "files.csv", _table(rows))
        write_json(self._out / "patients.json", patients_document(by_patient))
        write_bytes(self._out / "refused.txt", "".join(f"{line}\n" for line in refused).encode())


def common_folder(paths: Iterable[Path]) -> Path | None:
    """The deepest folder that holds all that is given: one folder itself, one file's own folder.

    None where they lie on several drives.
    """
    folders = [path if path.is_dir() else path.parent for path in paths]
    return deepest_around([Path(os.path.abspath(folder)) for folder in folders])


def deepest_around(folders: Sequence[AnyPath]) -> AnyPath | None:
    """The deepest folder with all these absolute ones in it; None where no drive has all."""
    around = folders[0]
    while not all(folder.is_relative_to(around) for folder in folders):
        if around == around.parent:
            return None
        around = around.parent
    return around


def files_below(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file given or lying below a folder, in order.

    Hidden files and DICOMDIR are no images and are passed over.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and name.upper() != "DICOMDIR":
                    yield Path(folder) / name


def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    out: Path,
    *,
    threshold: float | None = None,
    one_view: bool = False,
    on_file: Callable[[int, int, Path], None] = lambda done, total, path: None,
) -> Report:
    """Read every file; write `ID.json`, `ID.png`, `patients.json` and `files.csv` into `out`.

    `files.csv` says which file became which id, and what was said of it. Unless `one_view`, a mass
    hears the other view of its breast (`ftmtl.other_view`): a file that was written is written anew
    when that is read.
    A file that cannot be read is listed in `refused.txt`, and the rest are done. So is an image
    whose id another has: its findings would take the other's place, and both be one patient.
    """
    out.mkdir(parents=True, exist_ok=True)
    # A data set or a report may lie here too; what names a patient by the key is findings.
    named = any(b'"patient_key"' in file.read_bytes() for file in out.glob("*.json"))
    key = PatientKey.open(out / KEY_FILE, labels_exist=named)
    report = Report()
    root = common_folder(paths)
    files = list({os.path.abspath(file): file for file in files_below(paths)}.values())
    known: dict[str, Path] = {}
    breasts: dict[Hashable, list[_Read]] = {}
    folder = _Folder(predictor, out, threshold)

    def mammogram_of(file: Path) -> Mammogram:
        return read_mammogram(file, root=root or Path(Path(os.path.abspath(file)).anchor))

    films = ahead(lambda file: _opened(predictor, lambda: mammogram_of(file)), files)
    for number, film in enumerate(films):
        on_file(number, len(files), files[number])
        if isinstance(film, UnreadableMammogram):
            report.refused.append(str(film))
            continue
        mammogram, canvas = film
        first = known.setdefault(mammogram.image_id, mammogram.path)
        if first != mammogram.path:
            reason = f"its id, {mammogram.image_id}, is that of {first}, which was read"
            remedy = "Leave it out if it is a copy, else give the two names or UIDs of their own"
            report.refused.append(str(UnreadableMammogram(mammogram.path, reason, remedy)))
            continue
        image = image_info(mammogram, key.of(mammogram))
        read = _Read(mammogram.path, image, predictor.read_canvas(canvas))
        breast = None if one_view else (image.patient_key, mammogram.study_uid, image.laterality)
        films_of = breasts.setdefault(breast, []) if breast and image.laterality else []
        films_of.append(read)
        views = other_views([(breast, one.image.view) for one in films_of])
        heard = [[films_of[n] for n in others] for others in views]
        folder.write(read, mammogram, heard[-1])
        for earlier, others in zip(films_of[:-1], heard, strict=False):
            if read in others:
                try:
                    folder.write(earlier, mammogram_of(earlier.file), others)
                except UnreadableMammogram as error:  # it was readable before: what it said stays
                    report.refused.append(str(error))
        report.read += 1
    folder.finish(report.refused)
    return report


def _table(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _opened(predictor: Predictor, read: Callable[[], Mammogram]) -> Opened:
    """A film read and its canvas made, which needs no network; or why it cannot be read."""
    try:
        mammogram = read()
    except UnreadableMammogram as error:
        return error
    return mammogram, predictor.canvas(mammogram)


def patients_document(by_patient: dict[str, list[Findings]]) -> dict[str, Any]:
    """By patient: the maximum over her images (paper 2.3), and what each image said.

    She is called malignant where one of them is. "No finding" where no image holds a likely mass;
    its malignancy still ranks her among others.
    """
    document = {}
    for patient, readings in sorted(by_patient.items()):
        malignancy = worst([r.verdict.malignancy for r in readings])
        words = {r.verdict.label for r in readings}
        label = "malignant" if malignancy > 0.5 or "malignant" in words else "benign"
        document[patient] = {
            "malignancy": malignancy,
            "label": "no finding" if words == {"no finding"} else label,
            "images": {r.image.id: r.verdict.malignancy for r in readings},
            "how": readings[0].verdict.how,
        }
    return document


def predict_records(
    predictor: Predictor,
    records: Sequence[ImageRecord],
    *,
    one_view: bool = True,
    on_file: Callable[[int, int, Path], None] = lambda done, total, path: None,
) -> tuple[list[dict[str, Any]], Report]:
    """COCO predictions of a data set, down to the score floor, and what could not be read.

    `one_view`: of the network alone, film by film; else masses hear their breast's other view.
    """
    report = Report()
    readings: list[tuple[ImageRecord, ImageInfo, Reading]] = []

    def opened(record: ImageRecord) -> Opened:
        return _opened(predictor, lambda: read_film(record))

    for record, film in zip(records, ahead(opened, records), strict=True):
        on_file(report.read + len(report.refused), len(records), record.path)
        if isinstance(film, UnreadableMammogram):
            report.refused.append(str(film))
            report.refused_ids.append(record.image_id)
            continue
        mammogram, canvas = film
        reading = predictor.read_canvas(canvas)
        readings.append((record, image_info(mammogram, None), reading))
        report.read += 1
    views = other_views([(_breast(record), record.view) for record, _, _ in readings])
    results: list[dict[str, Any]] = []
    for (record, image, reading), others in zip(readings, views, strict=True):
        if not one_view:
            reading = with_other_view(reading, [readings[other][2] for other in others])
        findings = predictor.findings(reading, image, threshold=SCORE_FLOOR)
        results += coco_results(findings, record.image_id)
    return results, report


def _breast(record: ImageRecord) -> Hashable | None:
    """A data set tells no examinations apart: a patient's side is one breast."""
    known = record.patient_known and record.laterality is not None
    return (record.patient_id, record.laterality) if known else None


def coco_results(findings: Findings, image_id: int | str) -> list[dict[str, Any]]:
    """Findings as COCO results with `scores`, masks as compressed RLE."""
    results = []
    for finding in findings.findings:
        assert finding.scores is not None, "a prediction has scores"
        result: dict[str, Any] = {
            "image_id": image_id,
            "category_id": CATEGORY_OF[finding.label],
            "bbox": list(finding.bbox),
            "score": 1 - finding.scores["background"],
            "scores": [finding.scores[c] for c in ("background", "benign", "malignant")],
            "malignancy": finding.malignancy,
        }
        if finding.segmentation is not None:
            rle = coco_mask.frPyObjects(dict(finding.segmentation), *finding.segmentation["size"])
            result["segmentation"] = {**rle, "counts": rle["counts"].decode("ascii")}
        results.append(result)
    return results
