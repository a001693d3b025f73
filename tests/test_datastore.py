"""Images and labels on disk: nothing acknowledged is lost, nothing outside is touched."""

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pydicom
import pytest
from fastapi import HTTPException
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from test_catalogue import NOBODY

from ftmtl.cli import main as ftmtl
from ftmtl.datasets.coco import read_coco
from ftmtl.datasets.labels import read_labels, to_record
from ftmtl.findings import Finding, Findings, ImageInfo, ModelInfo, Verdict, encode_rle
from ftmtl.label_file import read_label_file, write_label_file
from monailabel_app.lib.answer_file import write_label_map
from monailabel_app.lib.datastore import MammogramStore
from monailabel_app.lib.images import Images

WIDTH, HEIGHT = 96, 128
LATIN = b"M\xfcller".decode(errors="surrogateescape")  # as an old export names it


def write_dicom(path: Path, uid: str, patient: str = "Jane^0815", **tags: Any) -> Path:
    """A small mammogram: a bright half disc at the left border."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.where((x / 70) ** 2 + ((y - 64) / 60) ** 2 < 1, 1000 + 5 * x + 3 * y, 0)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    image.file_meta.MediaStorageSOPInstanceUID = uid
    image.is_little_endian, image.is_implicit_VR = True, False
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2",
        "SOPInstanceUID": uid,
        "StudyInstanceUID": f"1.2.3.{abs(hash(patient)) % 999}",
        "PatientID": patient,
        "PatientName": patient,
        "Modality": "MG",
        "ImageLaterality": "L",
        "ViewPosition": "CC",
        "PresentationIntentType": "FOR PRESENTATION",
        "ImagerPixelSpacing": [0.1, 0.1],
        "Rows": HEIGHT,
        "Columns": WIDTH,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype("<u2").tobytes(),
    }
    for name, value in (values | tags).items():
        setattr(image, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, image, write_like_original=False)
    return path


def write_label(path: Path, image: ImageInfo, *labels: str) -> Path:
    """Our label file: one annotated square a label."""
    findings = []
    for number, label in enumerate(labels):
        mask = np.zeros((image.height, image.width), bool)
        mask[20 + 30 * number : 40 + 30 * number, 10:30] = True
        findings.append(
            Finding(
                id=f"f{number}",
                label=label,  # type: ignore[arg-type]
                bbox=(10, 20 + 30 * number, 20, 20),
                segmentation=encode_rle(mask),
                mask_source="annotated",
                source="annotator",
                status="added",
            )
        )
    verdict = Verdict.of(findings, how="test")
    document = Findings(image=image, model=None, findings=tuple(findings), verdict=verdict)
    write_label_file(path, document)
    return path


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    write_dicom(folder / "a" / "one.dcm", "1.2.840.1")
    write_dicom(folder / "a" / "b" / "1.2.840.99", "1.2.840.2")  # as a PACS exports it
    write_dicom(folder / "THREE.DCM", "1.2.840.3", patient="Joan^4711")
    return folder


@pytest.fixture
def store(studies: Path, tmp_path: Path) -> Iterator[MammogramStore]:
    (tmp_path / "workspace").mkdir()
    yield MammogramStore(studies, tmp_path / "workspace")


def again(store: MammogramStore) -> MammogramStore:
    """The store as the next start of the server finds it."""
    return MammogramStore(store.studies, store.workspace)


def refusal(status: int, call: Any, *arguments: Any) -> str:
    with pytest.raises(HTTPException) as caught:
        call(*arguments)
    assert caught.value.status_code == status, caught.value.detail
    return str(caught.value.detail)


def test_studies_are_found_as_they_come(store: MammogramStore, studies: Path) -> None:
    for name in ("._one.dcm", "DICOMDIR", "notes.txt"):
        shutil.copy(studies / "a" / "one.dcm", studies / name)
    shutil.copy(studies / "a" / "one.dcm", studies / "copy.dcm")
    write_dicom(studies / "raw.dcm", "1.2.840.4", PresentationIntentType="FOR PROCESSING")
    (studies / "broken.dcm").write_bytes((studies / "a" / "one.dcm").read_bytes()[:2000])
    Image.new("L", (WIDTH, HEIGHT)).save(studies / "one.png")  # two formats of one name
    (studies / "DOE^JANE").mkdir()
    shutil.copy(studies / "one.png", studies / "DOE^JANE" / f"{LATIN}.png")
    before = {f: f.stat().st_mtime_ns for f in studies.rglob("*")}
    store.refresh()
    # In the order of their paths; of two copies the first.
    assert store.list_images() == ["1.2.840.3", "1.2.840.2", "1.2.840.1", "one.png"]
    assert before == {f: f.stat().st_mtime_ns for f in studies.rglob("*")}, "studies are only read"
    # What is left out is told without its path, which may hold a name; the workspace knows that.
    told = {str(row["number"]): row["reason"] for row in store.json()["left_out"]}
    kept = json.loads((store.workspace / "left_out.json").read_text())
    assert {n: row["reason"] for n, row in kept.items()} == told
    reasons = {row["file"]: row["reason"] for row in kept.values()}
    assert set(reasons) == {"copy.dcm", "raw.dcm", "broken.dcm", f"DOE^JANE/{LATIN}.png"}
    assert "another file" in reasons["copy.dcm"]
    assert "FOR PROCESSING" in reasons["raw.dcm"]
    assert "UTF-8" in reasons[f"DOE^JANE/{LATIN}.png"]
    assert all(str(studies) not in reason for reason in reasons.values())
    assert "DOE" not in json.dumps(store.json())
    assert Path(store.get_image_uri("1.2.840.2")) == studies / "a" / "b" / "1.2.840.99"
    info = store.get_image_info("1.2.840.3")
    assert (info["width"], info["height"], info["laterality"], info["view"]) == (96, 128, "L", "CC")
    assert info["state"] == "new"
    assert info["name"] == "1.2.840.3.dcm"


def test_no_name_or_raw_id_is_kept_or_told(store: MammogramStore) -> None:
    told = json.dumps(store.json()) + json.dumps(store.get_image_info("1.2.840.1"))
    kept = "".join(f.read_text() for f in store.workspace.rglob("*.json"))
    for secret in ("Jane", "0815", "Joan", "4711"):
        assert secret not in told + kept
    keys = {i: store.get_image_info(i)["patient_key"] for i in store.list_images()}
    assert keys["1.2.840.1"] == keys["1.2.840.2"] != keys["1.2.840.3"]


def test_a_second_start_reads_no_header_again(
    store: MammogramStore, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Images, "describe", lambda *_: pytest.fail("read again"))
    before = store.list_images()
    assert again(store).list_images() == before
    monkeypatch.undo()
    (store.workspace / "images.json").write_text("{ half a fi")
    (studies / "a" / "one.dcm").unlink()
    assert set(again(store).list_images()) == set(before) - {"1.2.840.1"}


@pytest.mark.parametrize(
    "bad", ["/etc/passwd", "../one.dcm", "a/one.dcm", "..", "1.2.840.7", "a\0b"]
)
def test_only_ids_of_the_list_open_a_file(store: MammogramStore, bad: str) -> None:
    refusal(400 if "\0" in bad else 404, store.get_image_uri, bad)


def test_every_submission_is_a_version(store: MammogramStore, tmp_path: Path) -> None:
    image = store.image_info("1.2.840.1")
    sent = write_label(tmp_path / "x.seg.nrrd", image, "benign")
    store.save_label("1.2.840.1", str(sent), "final", {"client_id": "ann", "based_on": 0})
    first = store.acknowledgement()
    second_file = write_label(tmp_path / "y.seg.nrrd", image, "malignant", "benign")
    store.save_label("1.2.840.1", str(second_file), "final", {"client_id": "bob", "based_on": 1})
    assert (first["version"], store.acknowledgement()["version"]) == (1, 2)

    later = again(store)
    assert Path(later.get_label_uri("1.2.840.1", "final")).read_bytes() == second_file.read_bytes()
    assert Path(later.get_label_uri("1.2.840.1@1", "final")).read_bytes() == sent.read_bytes()
    info = later.get_label_info("1.2.840.1", "final")
    assert info["current"] == 2
    assert [v["annotator"] for v in info["versions"]] == ["ann", "bob"]
    assert info["versions"][1]["findings"] == {"malignant": 1, "benign": 1}
    assert later.get_image_info("1.2.840.1")["annotator"] == "bob"
    assert later.get_labeled_images() == ["1.2.840.1"]
    assert later.status()["label_tags"] == {"final": 1}


def test_the_number_of_a_submission_says_which_is_the_newest(
    store: MammogramStore, tmp_path: Path
) -> None:
    """Not its time, which a clock that is set right may turn back; nor a copy of another's."""
    for label in ("benign", "malignant"):
        sent = write_label(tmp_path / "x.seg.nrrd", store.image_info("1.2.840.1"), label)
        store.save_label("1.2.840.1", str(sent), "final", {})
    folder = store.labels.folder / "1.2.840.1" / "final"
    row = json.loads((folder / "0002.json").read_text())
    (folder / "0002.json").write_text(json.dumps({**row, "time": "2001-01-01T00:00:00.000+00:00"}))
    shutil.copy(folder / "0001.json", folder / "0003.json")
    later = again(store)
    assert Path(later.get_label_uri("1.2.840.1", "final")).name == "0002.seg.nrrd"
    assert len(later.get_label_info("1.2.840.1", "final")["versions"]) == 2


def test_a_repeated_submission_does_nothing(store: MammogramStore, tmp_path: Path) -> None:
    sent = write_label(tmp_path / "x.seg.nrrd", store.image_info("1.2.840.1"), "benign")
    for _ in range(3):
        store.save_label("1.2.840.1", str(sent), "final", {"submission_id": "s-1", "based_on": 0})
        assert store.acknowledgement()["version"] == 1
    assert len(store.get_label_info("1.2.840.1", "final")["versions"]) == 1
    # Another label under its id is no repetition: "stored" would be a lie.
    other = write_label(tmp_path / "y.seg.nrrd", store.image_info("1.2.840.1"), "malignant")
    told = refusal(
        409, store.save_label, "1.2.840.1", str(other), "final", {"submission_id": "s-1"}
    )
    assert "Version 1, another label" in told
    assert len(store.get_label_info("1.2.840.1", "final")["versions"]) == 1


def test_a_stale_submission_is_refused_and_both_are_kept(
    store: MammogramStore, tmp_path: Path
) -> None:
    image = store.image_info("1.2.840.1")
    ann = write_label(tmp_path / "ann.seg.nrrd", image, "benign")
    bob = write_label(tmp_path / "bob.seg.nrrd", image, "malignant")
    store.save_label("1.2.840.1", str(ann), "final", {"client_id": "ann", "based_on": 0})
    with pytest.raises(HTTPException) as caught:
        store.save_label("1.2.840.1", str(bob), "final", {"client_id": "bob", "based_on": 0})
    detail: Any = caught.value.detail
    assert caught.value.status_code == 409
    assert (detail["kept_as"], detail["current"], detail["annotator"]) == (2, 1, "ann")
    later = again(store)
    assert Path(later.get_label_uri("1.2.840.1", "final")).read_bytes() == ann.read_bytes()
    assert Path(later.get_label_uri("1.2.840.1@2", "final")).read_bytes() == bob.read_bytes()


def test_a_withdrawn_label_is_gone_and_kept(store: MammogramStore, tmp_path: Path) -> None:
    image = store.image_info("1.2.840.1")
    for label in ("benign", "malignant"):
        sent = write_label(tmp_path / "x.seg.nrrd", image, label)
        store.save_label("1.2.840.1", str(sent), "final", {})
    store.remove_label("1.2.840.1", "final")
    assert store.get_labeled_images() == []
    later = again(store)
    assert later.get_labeled_images() == [], "the first must not rise from the dead"
    withdrawal = later.get_label_info("1.2.840.1", "final")["versions"][-1]
    assert (withdrawal["standing"], withdrawal["based_on"]) == ("withdrawal", 2)
    refusal(404, later.get_label_uri, "1.2.840.1", "final")
    refusal(404, later.remove_label, "1.2.840.1", "final")
    assert Path(later.get_label_uri("1.2.840.1@2", "final")).is_file()
    later.save_label("1.2.840.1", str(sent), "final", {"based_on": 0})
    assert later.acknowledgement()["version"] == 4


def test_a_label_that_nobody_saw_is_not_withdrawn(store: MammogramStore, tmp_path: Path) -> None:
    """Bob's arrives while Ann's is being withdrawn: after it was looked up, before the lock."""
    sent = write_label(tmp_path / "x.seg.nrrd", store.image_info("1.2.840.1"), "benign")
    store.save_label("1.2.840.1", str(sent), "final", {"client_id": "ann"})
    # The store of another process, of whose labels this one's memory does not know.
    again(store).save_label("1.2.840.1", str(sent), "final", {"client_id": "bob"})
    for ann in ("1.2.840.1", "1.2.840.1@1"):
        told = refusal(409, store.remove_label, ann, "final")
        assert told == "Version 1 does not stand; nothing withdrawn"
    (stands,) = again(store).json()["objects"]["1.2.840.1"]["labels"].values()
    assert (stands["info"]["version"], stands["info"]["annotator"]) == (2, "bob")
    store.refresh()
    store.remove_label("1.2.840.1@2", "final")
    assert again(store).get_labeled_images() == []


def test_a_stock_label_map_becomes_a_label_file(store: MammogramStore, tmp_path: Path) -> None:
    pixels = np.zeros((WIDTH, HEIGHT, 1), np.uint8)
    pixels[10:20, 30:50, 0] = 1
    sent = tmp_path / "map.nrrd"
    nrrd.write(str(sent), pixels)
    # The stock plugin numbers by position: here value 1 is malignant.
    params = {"label_info": [{"name": "malignant", "idx": 1}]}
    store.save_label("1.2.840.1", str(sent), "final", params)
    kept = Path(again(store).get_label_uri("1.2.840.1", "final"))
    assert kept.name == "0001.seg.nrrd"
    (finding,) = read_label_file(kept, image=store.image_info("1.2.840.1")).findings
    assert (finding.label, finding.bbox) == ("malignant", (10, 30, 10, 20))
    assert (kept.parent / "0001.sent.nrrd").read_bytes() == sent.read_bytes()
    digest = hashlib.sha256(sent.read_bytes()).hexdigest()
    assert store.labels.versions("1.2.840.1", "final")[0].sha256 == digest


def test_a_label_map_of_the_model_s_that_comes_back_is_no_drawing(
    store: MammogramStore, tmp_path: Path
) -> None:
    """Three of its masks: one in two pieces, one whose class was changed, one that was edited."""
    image = store.image_info("1.2.840.1")
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    for mask, top in zip(masks, (10, 50, 90), strict=True):
        mask[top : top + 20, 10:30] = True
    masks[0, 40:43, 40:43] = True
    seen = Findings(
        image=image, model=ModelInfo(name="m", version="1", sha256="0" * 64),
        findings=tuple(
            Finding(id=f"F{n}", label="benign", bbox=(9.5, 10.25 + 40 * n, 21, 20), malignancy=0.2,
                    segmentation=encode_rle(mask), mask_source="model", source="model",
                    status="proposed") for n, mask in enumerate(masks)),
        verdict=Verdict(malignancy=0.2, label="benign", how="test"),
    )  # fmt: skip
    sent = tmp_path / "map.seg.nrrd"  # by its name it might be kept as it is
    write_label_map(sent, seen, compress=True)
    pixels, header = nrrd.read(str(sent))
    pixels[:, 50:70] *= 2
    pixels[12, 95] = 0
    nrrd.write(str(sent), pixels, header)
    store.watch(lambda name: {"state": "read"}, {"1.2.840.1": seen}.get)
    store.save_label("1.2.840.1", str(sent), "final", {})
    kept = read_label_file(Path(store.get_label_uri("1.2.840.1", "final")), image=image)
    assert kept.model == seen.model
    told = [(f.source, f.status, f.mask_source, f.label) for f in kept.findings]
    assert told == [
        ("model", "accepted", "model", "benign"),
        ("annotator", "added", "annotated", "benign"),
        ("model", "edited", "model", "malignant"),
    ]
    plain = read_label_file(sent, image=image).findings
    assert [f.id for f in kept.findings] == [f.id for f in plain] != ["F0", "F2", "F1"]
    first, drawn, other = kept.findings
    assert (first.bbox, other.bbox) == (seen.findings[0].bbox, seen.findings[1].bbox)
    assert first.segmentation == seen.findings[0].segmentation
    assert drawn.mask_source == "annotated" and drawn.bbox == (10, 90, 20, 20)


def test_what_is_no_label_is_refused_and_leaves_nothing(
    store: MammogramStore, tmp_path: Path
) -> None:
    image = store.image_info("1.2.840.1")
    good = write_label(tmp_path / "good.seg.nrrd", image, "benign")
    other = write_label(tmp_path / "other.seg.nrrd", store.image_info("1.2.840.2"), "benign")
    small = ImageInfo(id=image.id, width=64, height=64)
    wrong = write_label(tmp_path / "wrong.seg.nrrd", small, "benign")
    bad = {"empty": b"", "text": b"no label", "half": good.read_bytes()[: good.stat().st_size // 2]}
    for name, content in bad.items():
        (tmp_path / f"{name}.seg.nrrd").write_bytes(content)
    for file in (*(tmp_path / f"{name}.seg.nrrd" for name in bad), other, wrong):
        detail = refusal(422, store.save_label, "1.2.840.1", str(file), "final", {})
        assert str(tmp_path) not in detail
    for tag in ("../../x", "", "a b", "x" * 33, ".", None):
        refusal(400, store.save_label, "1.2.840.1", str(good), tag, {})
    for params in ([1], {"based_on": "1"}, {"based_on": True}, {"client_id": "a\nb"},
                   {"label_info": "malignant"}):
        refusal(400, store.save_label, "1.2.840.1", str(good), "final", params)
    refusal(404, store.save_label, "../evil", str(good), "final", {})
    assert store.get_labeled_images() == []
    assert [f.name for f in (store.workspace / "labels").rglob("*") if f.name != ".lock"] == []


def test_another_image_in_a_files_place_is_not_taken_for_the_first(
    store: MammogramStore, studies: Path, tmp_path: Path
) -> None:
    """As an export does that uses its names again. Nobody has asked for the list since."""
    place = Path(store.get_image_uri("1.2.840.1"))
    write_dicom(tmp_path / "new.dcm", "1.2.840.4", patient="Other^1")
    os.replace(tmp_path / "new.dcm", place)
    refusal(404, store.get_image_uri, "1.2.840.1")
    refusal(404, store.get_image, "1.2.840.1")
    assert store.get_image_uri("1.2.840.4") == str(place)
    # The same image again, of another size, is known by what it is now.
    write_dicom(place, "1.2.840.4", Rows=64, PixelData=bytes(2 * 64 * WIDTH))
    assert store.get_image_uri("1.2.840.4") == str(place)
    assert store.image_info("1.2.840.4").height == 64
    # It was moved, and another lies where it was.
    os.rename(place, studies / "moved.dcm")
    write_dicom(place, "1.2.840.1")
    assert store.get_image_uri("1.2.840.4") == str(studies / "moved.dcm")


def test_an_image_that_may_no_longer_be_read_is_told(tmp_path: Path) -> None:
    """Its time of change does not say so, and a download would break off."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        image = write_dicom(Path(folder) / "one.dcm", "1.2.840.1")
        store = MammogramStore(Path(folder), tmp_path)
        image.chmod(0)
        root = os.geteuid() == 0  # whom no permission stops
        if root:
            os.seteuid(NOBODY)
        try:
            detail = refusal(422, store.get_image_uri, "1.2.840.1")
        finally:
            if root:
                os.seteuid(0)
    assert "Permission denied" in detail and folder not in detail


def test_uploads_are_read_before_they_are_kept(store: MammogramStore, tmp_path: Path) -> None:
    new = write_dicom(tmp_path / "new.dcm", "1.2.840.50")
    assert store.add_image("whatever", str(new), {}) == "1.2.840.50"
    assert store.add_image("whatever", str(new), {}) == "1.2.840.50"
    other = write_dicom(tmp_path / "other.dcm", "1.2.840.50", patient="Else")
    refusal(409, store.add_image, "x", str(other), {})
    (tmp_path / "text.dcm").write_text("not an image")
    refusal(422, store.add_image, "x", str(tmp_path / "text.dcm"), {})
    refusal(400, store.add_image, "../evil", str(new), {})
    assert "1.2.840.50" in again(store).list_images()
    refusal(403, store.remove_image, "1.2.840.1")
    store.remove_image("1.2.840.50")
    assert "1.2.840.50" not in store.list_images()
    assert not list(tmp_path.parent.glob("evil*"))


def files_of_every_name(folder: Path) -> dict[str, Path]:
    """Mammograms that only their first bytes tell, or a suffix that is rare; by their ids."""
    folder.mkdir()
    grey = Image.new("L", (WIDTH, HEIGHT), 7)
    grey.save(folder / "film", format="PNG")
    grey.save(folder / "film.1", format="TIFF")
    (folder / "mdb001.pgm").write_bytes(b"P5 96 128 4095 " + bytes(2 * WIDTH * HEIGHT))
    bare = write_dicom(folder / "IM0001", "1.2.840.60")
    bare.write_bytes(bare.read_bytes()[132:])  # as old programs write it, without "DICM"
    return {file.name if file != bare else "1.2.840.60": file for file in folder.iterdir()}


def test_a_mammogram_of_any_name_is_listed_or_told(store: MammogramStore, studies: Path) -> None:
    files = files_of_every_name(studies / "any")
    torn = files["film"].read_bytes()[:60]
    (studies / "torn").write_bytes(torn)
    (studies / "setup.exe").write_bytes(b"MZ" + torn)
    store.refresh()
    listed = {f"any__{name}" for name in files if name != "1.2.840.60"} | {"1.2.840.60"}
    assert listed == set(store.list_images()) - {f"1.2.840.{n}" for n in (1, 2, 3)}
    kept = json.loads((store.workspace / "left_out.json").read_text())
    assert [row["file"] for row in kept.values()] == ["torn"]


def test_an_upload_that_is_taken_in_is_listed(store: MammogramStore, tmp_path: Path) -> None:
    for name, file in files_of_every_name(tmp_path / "sent").items():
        assert store.add_image(file.name, str(file), {}) == name
        assert Path(store.get_image_uri(name)).read_bytes() == file.read_bytes()
    uploads = store.workspace / "uploads"
    before = set(uploads.iterdir())
    for name in ("report.txt", "DICOMDIR"):  # what no work list looks at
        assert "Rename it" in refusal(422, store.add_image, name, str(tmp_path / "sent/film"), {})
    # Its id is free, but not the name of its file.
    write_dicom(tmp_path / "x.dcm", "1.2.840.70")
    store.add_image("x", str(tmp_path / "x.dcm"), {})
    refusal(409, store.add_image, "1.2.840.70.dcm", str(tmp_path / "sent/film"), {})
    assert {f.name for f in set(uploads.iterdir()) - before} == {"1.2.840.70.dcm"}
    assert store.image_info("1.2.840.70").view == "CC"


def test_of_two_uploads_of_one_name_at_once_one_is_refused(
    store: MammogramStore, tmp_path: Path
) -> None:
    """In ten rounds of four that come together; the answer says whose film has the name."""
    for number in range(10):
        films, taken = [], []
        for grey in range(4):
            film = tmp_path / f"{number}-{grey}.png"
            Image.new("L", (WIDTH, HEIGHT), 50 * grey).save(film)
            films.append(film)
        together = threading.Barrier(len(films))

        def send(film: Path, name: str, together: threading.Barrier, taken: list[Path]) -> None:
            together.wait()
            try:
                store.add_image(name, str(film), {})
                taken.append(film)
            except HTTPException as error:
                assert error.status_code == 409

        threads = [
            threading.Thread(target=send, args=(film, f"round{number}", together, taken))
            for film in films
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (film,) = taken
        kept = Path(store.get_image_uri(f"round{number}.png"))
        assert kept.read_bytes() == film.read_bytes()


def test_labels_become_records(store: MammogramStore, tmp_path: Path) -> None:
    image = store.image_info("1.2.840.1")
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:40, 10:30] = True
    rows = [("accepted", "benign"), ("edited", "malignant"), ("rejected", "benign")]
    findings = tuple(
        Finding(
            id=f"f{n}",
            label=label,  # type: ignore[arg-type]
            bbox=(10, 20, 20, 20),
            segmentation=encode_rle(mask) if n == 1 else None,
            mask_source="annotated" if n == 1 else "none",
            source="model",
            status=status,  # type: ignore[arg-type]
        )
        for n, (status, label) in enumerate([*rows, ("proposed", "malignant")])
    )
    verdict = Verdict.of(findings, how="test")
    sent = tmp_path / "x.seg.nrrd"
    write_label_file(sent, Findings(image=image, model=None, findings=findings, verdict=verdict))
    store.save_label("1.2.840.1", str(sent), "final", {})
    empty = write_label(tmp_path / "empty.seg.nrrd", store.image_info("1.2.840.3"))
    store.save_label("1.2.840.3", str(empty), "final", {})

    shutil.copy(store.studies / "a" / "one.dcm", store.studies / "a" / "z.dcm")
    (first, nothing), damaged = read_labels(store.workspace, store.studies)
    (store.studies / "a" / "z.dcm").unlink()
    assert damaged == []
    assert (first.image_id, first.path) == ("1.2.840.1", store.studies / "a" / "one.dcm")
    assert "one.dcm" not in "".join(f.read_text() for f in store.labels.folder.rglob("*.json"))
    assert first.patient_id == image.patient_key != nothing.patient_id
    assert [(a.role, a.category) for a in first.annotations] == [
        ("mass", 1),
        ("mass", 2),
        ("hard_negative", 1),
        ("ignore", 2),
    ]
    assert [a.mask_source for a in first.annotations] == ["none", "annotated", "none", "none"]
    # What nobody judged is of no known class either.
    assert [a.class_known for a in first.annotations] == [True, True, True, False]
    assert nothing.annotations == (), "nothing there is a label too"

    coco = tmp_path / "coco.json"
    command = ["dataset", "labels", str(store.studies), "--workspace", str(store.workspace)]
    assert ftmtl([*command, "--out", str(coco)]) == 0
    assert read_coco(coco, store.studies) == [first, nothing]
    assert ftmtl(["dataset", "labels", str(tmp_path), "--out", str(coco)]) == 2


def test_a_record_lies_in_its_image_has_its_shape_and_claims_no_patient(
    studies: Path, tmp_path: Path
) -> None:
    write_dicom(studies / "flat.dcm", "1.2.840.4", ImagerPixelSpacing=[0.15, 0.1])
    (tmp_path / "workspace").mkdir()
    store = MammogramStore(studies, tmp_path / "workspace")
    image = store.image_info("1.2.840.4")
    box = (WIDTH - 10.0, -0.005, 10.009, HEIGHT + 0.01)  # sticks out by rounding
    finding = Finding(id="f", label="benign", bbox=box, source="annotator", status="added")
    document = Findings(image=image, model=None, findings=(finding,),
                        verdict=Verdict.of([finding], how="test"))
    write_label_file(tmp_path / "x.seg.nrrd", document)
    store.save_label("1.2.840.4", str(tmp_path / "x.seg.nrrd"), "final", {})
    [record], _ = read_labels(store.workspace, store.studies)
    assert record.annotations[0].bbox == pytest.approx((WIDTH - 10, 0, 10, HEIGHT), abs=1e-9)
    assert record.pixel_aspect == pytest.approx(1.5) and record.patient_known
    nobody = to_record(replace(document, image=replace(image, patient_key=None)), Path("x"))
    assert (nobody.patient_id, nobody.patient_known) == ("image 1.2.840.4", False)


@pytest.mark.parametrize(
    "image", [None, {"id": "x", "width": 9, "height": 9}, {"future": 1}, {"pixel_aspect": "x"}]
)
def test_a_record_that_does_not_say_its_image_is_left_out(
    store: MammogramStore, tmp_path: Path, image: dict[str, Any] | None
) -> None:
    for name in ("1.2.840.1", "1.2.840.3"):
        sent = write_label(tmp_path / "x.seg.nrrd", store.image_info(name), "benign")
        store.save_label(name, str(sent), "final", {})
    record = store.labels.folder / "1.2.840.1" / "final" / "0001.json"
    row = json.loads(record.read_text())
    keeps = image is not None and "id" not in image
    record.write_text(json.dumps({**row, "image": {**row["image"], **image} if keeps else image}))
    [other], [line] = read_labels(store.workspace, store.studies)
    assert other.image_id == "1.2.840.3"
    assert line.startswith("1.2.840.1: what 0001.json says of it cannot be read (")


def test_a_label_is_not_of_another_image_that_has_the_name_now(
    store: MammogramStore, studies: Path, tmp_path: Path
) -> None:
    """As after an export that writes 001.png every day. A DICOM file's id is of one image alone."""
    place, dicom, sent = studies / "001.png", studies / "THREE.DCM", tmp_path / "x.seg.nrrd"
    films = [tmp_path / "monday.png", tmp_path / "tuesday.png"]
    for grey, film in enumerate(films):
        Image.new("L", (WIDTH, HEIGHT), grey).save(film)
    shutil.copy(films[0], place)
    store.refresh()

    def submit(image: str, **params: Any) -> int:
        store.save_label(image, str(write_label(sent, store.image_info(image), "benign")),
                         "final", params)
        return int(store.acknowledgement()["version"])

    def taught() -> tuple[list[str], list[str]]:
        """What training learns from and leaves out; the command line finds the same by itself."""
        told = read_labels(store.workspace, images=store.labelled_files())
        assert told == read_labels(store.workspace, store.studies)
        return [str(record.image_id) for record in told[0]], told[1]

    assert submit("001.png") == submit("1.2.840.3") == 1
    assert taught() == (["001.png", "1.2.840.3"], [])
    shutil.copy(films[1], place)
    write_dicom(dicom, "1.2.840.3", patient="Joan^4711", InstitutionName="sent again")
    # Nobody has asked for the list since.
    line = "001.png: it is no longer among the studies, or another image has its name now"
    assert taught() == (["1.2.840.3"], [line])
    info = store.get_image_info("001.png")
    assert (info["state"], info["annotator"], info["version"]) == ("new", None, None)
    assert store.get_labeled_images() == ["1.2.840.3"]
    assert "001.png" in store.get_unlabeled_images()
    assert store.get_labels_by_image_id("001.png") == {}
    assert store.status()["completed"] == 1
    refusal(404, store.get_label, "001.png", "final")
    assert store.get_label_info("001.png", "final")["current"] == 0
    # It is labelled as an image of its own: nobody is told that somebody else was quicker.
    assert submit("001.png", based_on=0) == 2
    assert taught() == (["001.png", "1.2.840.3"], [])
    # Records of before digests were kept stand as they did.
    shutil.copy(films[0], place)
    store.refresh()
    assert taught() == (["1.2.840.3"], [line])
    record = store.labels.folder / "001.png" / "final" / "0002.json"
    row = json.loads(record.read_text())
    assert row.pop("image_sha256") == hashlib.sha256(films[1].read_bytes()).hexdigest()
    record.write_text(json.dumps(row))
    store.refresh()
    assert taught() == (["001.png", "1.2.840.3"], [])


def test_a_damaged_label_is_told_by_its_image(store: MammogramStore, tmp_path: Path) -> None:
    sent = write_label(tmp_path / "x.seg.nrrd", store.image_info("1.2.840.1"), "benign")
    store.save_label("1.2.840.1", str(sent), "final", {})
    Path(store.get_label_uri("1.2.840.1", "final")).write_bytes(b"NRRD0004\n")
    nothing, [line] = read_labels(store.workspace, store.studies, named=lambda image: image + "!")
    assert nothing == []
    assert line.startswith("1.2.840.1!: its label 0001.seg.nrrd cannot be used: it is damaged")


def test_notes_add_up_to_a_limit(store: MammogramStore) -> None:
    notes = store.notes
    for tag, note in (("final", {"a": 1}), ("final", {"b": 2}), ("mine", {"c": 3})):
        notes.add_to_label("1.2.840.1", tag, note)
    notes.add_to_image("1.2.840.1", {"d": 4})
    notes.add_to_image("1.2.840.2", {"e": 5})
    refusal(413, notes.add_to_image, "1.2.840.1", {"f": "x" * 64_000})
    kept = again(store).notes
    assert kept.of_label("1.2.840.1", "final") == {"a": 1, "b": 2}
    assert kept.of_label("1.2.840.1", "mine") == {"c": 3}
    assert (kept.of_image("1.2.840.1"), kept.of_image("1.2.840.2")) == ({"d": 4}, {"e": 5})


def test_a_patient_keeps_her_side(store: MammogramStore, tmp_path: Path) -> None:
    def submit(image: str, tag: str) -> None:
        sent = write_label(tmp_path / "x.seg.nrrd", store.image_info(image), "benign")
        store.save_label(image, str(sent), tag, {})

    submit("1.2.840.1", "original")
    assert store.sides.all() == {}, "only final labels teach or judge"
    assert store.get_labeled_images() == [], "nor does another take an image off the list"
    submit("1.2.840.1", "final")
    submit("1.2.840.2", "final")  # the same woman
    assert list(store.sides.all()) == [store.image_info("1.2.840.1").patient_key]
    sides = [store.sides.settle(f"{n:016x}") for n in range(19)]
    assert sides.count("validation") == 4, "one in five"
    assert [again(store).sides.settle(f"{n:016x}") for n in range(19)] == sides


def test_damaged_files_never_stop_a_start(
    store: MammogramStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent = write_label(tmp_path / "x.seg.nrrd", store.image_info("1.2.840.1"), "benign")
    for image in ("1.2.840.1", "1.2.840.1", "1.2.840.3"):
        sent = write_label(tmp_path / "x.seg.nrrd", store.image_info(image), "benign")
        store.save_label(image, str(sent), "final", {})
    store.update_image_info("1.2.840.1", {"room": 3})
    for number in range(9):
        store.sides.settle(f"{number:016x}")
    sides, infos = store.sides.all(), list((store.workspace / "info").glob("*.json"))
    damaged = [store.workspace / "sides.json", store.workspace / "images.json", *infos]
    labels = sorted((store.workspace / "labels").rglob("*.seg.nrrd"))
    for content in (b"", b"{", b"\xff", b"[1, 2]"):
        for file in damaged:
            file.write_bytes(content)
        caplog.clear()
        later = again(store)
        assert set(later.list_images()) == {"1.2.840.1", "1.2.840.2", "1.2.840.3"}
        assert set(later.get_labeled_images()) == {"1.2.840.1", "1.2.840.3"}
        assert "room" not in later.get_image_info("1.2.840.1")
        # The sides of patients with labels are those that the labels' records tell.
        told = later.sides.all()
        assert len(told) == 2 and told.items() <= sides.items()
        assert all(f"{file.name}.damaged" in caplog.text for file in (damaged[0], *infos))
    # A damaged record: the version before it speaks, and nothing is thrown away.
    (record,) = (store.workspace / "labels").glob("*/final/0002.json")
    record.write_bytes(b"")
    later = again(store)
    assert later.get_label_info("1.2.840.1", "final")["current"] == 1
    assert "0002.json" in caplog.text
    later.save_label("1.2.840.3", str(sent), "final", {})
    assert sorted((store.workspace / "labels").rglob("*.seg.nrrd"))[:3] == labels[:3]


def test_what_no_reply_can_hold_is_told_without_it(store: MammogramStore, tmp_path: Path) -> None:
    """Of a workspace in which such a thing was stored once."""
    sent = write_label(tmp_path / "x.seg.nrrd", store.image_info("1.2.840.1"), "benign")
    store.save_label("1.2.840.1", str(sent), "final", {"comment": "poor"})
    store.update_image_info("1.2.840.1", {"quality": [0.5], "room": 3})
    for file in store.workspace.rglob("*.json"):
        text = file.read_text().replace('"poor"', r'"poor \ud83d"').replace("0.5", "NaN")
        file.write_text(text)
    later = again(store)
    told = json.dumps(later.json(), allow_nan=False, ensure_ascii=False).encode()
    assert b'"quality": [null]' in told and b'"room": 3' in told and b'"poor ?"' in told


def test_a_model_whose_name_is_no_text_is_refused(store: MammogramStore, tmp_path: Path) -> None:
    image = store.image_info("1.2.840.1")
    sent = write_label(tmp_path / "x.seg.nrrd", image, "benign")
    model = {"name": "\ud83d", "version": "1", "sha256": "a" * 64}
    voxels, header = nrrd.read(str(sent))
    document = json.loads(header["ftmtl_findings"])
    header["ftmtl_findings"] = json.dumps({**document, "model": model}).replace("\\", "\\\\")
    nrrd.write(str(sent), voxels, header)
    told = refusal(422, store.save_label, "1.2.840.1", str(sent), "final", {})
    assert "whole characters" in told


def test_a_label_map_under_another_name_keeps_its_meaning(
    store: MammogramStore, tmp_path: Path
) -> None:
    """A label map called .seg.nrrd is understood by its `label_info`, now and when it is read."""
    pixels = np.zeros((WIDTH, HEIGHT, 1), np.uint8)
    pixels[10:20, 30:50, 0] = 1
    sent = tmp_path / "Doe.Jane.seg.nrrd"
    nrrd.write(str(sent), pixels)
    params = {"label_info": [{"name": "malignant", "idx": 1}], "comment": "from the stock plugin"}
    store.save_label("1.2.840.1", str(sent), "final", params)
    kept = Path(store.get_label_uri("1.2.840.1", "final"))
    (finding,) = read_label_file(kept, image=store.image_info("1.2.840.1")).findings
    assert finding.label == "malignant"
    assert sorted(f.name for f in kept.parent.iterdir()) == [
        *("0001.json", "0001.seg.nrrd", "0001.sent.seg.nrrd")
    ]
    (version,) = store.get_label_info("1.2.840.1", "final")["versions"]
    assert version["comment"] == "from the stock plugin"
