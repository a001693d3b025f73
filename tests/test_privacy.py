"""Who a patient is stays in her image's file: not in logs, labels, checkpoints or replies."""

import json
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from serving import serve
from test_datastore import write_dicom, write_label

from ftmtl.findings import ImageInfo

PLANTED = {
    "PatientName": "Zyxwick^Wilhelmina",
    "PatientBirthDate": "19470311",
    "OtherPatientIDs": "OTHER-55331",
    "AccessionNumber": "ACC-99218",
    "InstitutionName": "Klinik-Quarkheim",
    "ReferringPhysicianName": "Grobknecht^Otto",
}
RAW_ID = "PAT-0815-4711"
NAMED = "Zyxwick^Wilhelmina__L_CC.png"  # the id of an image that is no DICOM
SECRETS = [RAW_ID, *PLANTED.values(), "Zyxwick", "Wilhelmina"]


@pytest.mark.timeout(900)
def test_nothing_of_a_patient_leaves_her_image(tmp_path: Path, untrained: Path) -> None:
    studies, workspace = tmp_path / "studies", tmp_path / "ws"
    for number in (1, 2):
        write_dicom(studies / f"{number}.dcm", f"1.2.840.{number}", patient=RAW_ID, **PLANTED)
    (studies / "torn.dcm").write_bytes((studies / "1.dcm").read_bytes()[:700])
    sent = write_dicom(tmp_path / "Zyxwick.dcm", "1.2.840.3", patient=RAW_ID, **PLANTED)
    label = write_label(
        tmp_path / "x.seg.nrrd", ImageInfo(id="1.2.840.1", width=96, height=128), "malignant"
    )
    replies = []
    with serve(tmp_path, studies, workspace=workspace, weights=untrained) as server:
        film = {"file": (sent.name, sent.read_bytes())}
        spoken = {"params": json.dumps({"client_id": "ann", "patient": PLANTED, "id": RAW_ID})}
        replies += [
            server.get("/info/"),
            server.get("/datastore/", output="all"),
            server.post("/activelearning/first", json={"client_id": "ann"}),
            server.post("/infer/ft_mtl_net?image=1.2.840.1"),
            server.post("/infer/ft_mtl_net", files=film),
            server.put("/session/", files={"files": film["file"]}),
            server.put("/datastore/image", files=film),
            server.put(
                "/datastore/label?image=1.2.840.1&tag=final",
                files={"label": (f"{RAW_ID}.seg.nrrd", label.read_bytes())},
                data=spoken,
            ),
            server.get("/datastore/label/info", label="1.2.840.1", tag="final"),
            server.get("/datastore/label", label="1.2.840.1", tag="final"),
            server.get("/datastore/image/info", image="1.2.840.1"),
            server.post(
                "/train/ft_mtl_net",
                json={"max_epochs": 1, "steps": 1, "publish": "always"},
            ),
        ]
        assert [r.status_code for r in replies] == [200] * len(replies), [r.text for r in replies]
        # These name her, so what they echo is the asker's; what is written down is not.
        server.post(f"/infer/ft_mtl_net?image={RAW_ID}")
        server.put(f"/datastore/image/info?image=1.2.840.1&x={RAW_ID}", data={"info": "{"})
        while server.get("/train/").json()["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        replies += [server.get("/train/"), server.get("/info/"), server.get("/metrics")]
        assert replies[-3].json()["status"] == "DONE", replies[-3].text
        replies.append(server.get("/model/ft_mtl_net"))
        replies.append(server.get("/datastore/", output="all"))
        assert server.get("/info/").json()["models"]["ft_mtl_net"]["version"] == "2"

        for reply in replies:
            for secret in SECRETS:
                assert secret.encode() not in reply.content, (reply.url, secret)
            for folder in (workspace, studies):
                assert str(folder).encode() not in reply.content, (reply.url, folder)
        written = [file for file in workspace.rglob("*") if file.is_file()]
        images = [file for file in written if file.read_bytes()[128:132] == b"DICM"]
        assert len(images) == 2, "the one that was uploaded, and the session's"
        assert any(file.suffix == ".safetensors" for file in written)
        for file in {*written, server.log} - {*images}:
            text = file.read_bytes()
            for secret in SECRETS:
                assert secret.encode() not in text, (file, secret)
                assert secret not in file.name


@pytest.mark.timeout(900)
def test_a_name_in_a_files_name_is_not_written_down(tmp_path: Path, untrained: Path) -> None:
    """The list alone tells it, as the image's id. Log and training tell a number."""
    studies, workspace = tmp_path / "studies", tmp_path / "ws"
    write_dicom(studies / "1.dcm", "1.2.840.1")
    torn = write_dicom(studies / "Wilhelmina.dcm", "1.2.840.2", patient="Else")
    torn.write_bytes(torn.read_bytes()[:-9000])
    noise = np.random.default_rng(0).integers(0, 255, (128, 96), np.uint8)
    film = studies / NAMED.replace("__", "/")
    film.parent.mkdir()
    Image.fromarray(noise).save(film)
    content = bytearray(film.read_bytes())
    content[5000:5100] = bytes(100)  # its header is whole, so it is in the list
    film.write_bytes(content)
    with serve(tmp_path, studies, workspace=workspace, weights=untrained) as server:
        for image in ("1.2.840.1", "1.2.840.2", NAMED):
            label = write_label(
                tmp_path / "x.seg.nrrd", ImageInfo(id=image, width=96, height=128), "benign"
            )
            reply = server.put(
                f"/datastore/label?image={quote(image)}&tag=final",
                files={"label": ("x.seg.nrrd", label.read_bytes())},
            )
            assert reply.status_code == 200, reply.text
            note = {"info": '{"room": 3}'}
            assert server.put(f"/datastore/image/info?image={quote(image)}", data=note).ok
        for file in (workspace / "info").glob("*.json"):
            file.write_text("{")  # set aside when it is read the next time
        assert server.get("/datastore/", output="all").ok
        (workspace / "labels" / quote(NAMED, safe="") / "final" / "0000.json").write_text("{")
        assert server.get("/datastore/label/info", label=NAMED, tag="final").ok
        settings = {"max_epochs": 1, "steps": 1}
        assert server.post("/train/ft_mtl_net", json=settings).status_code == 200
        while (task := server.get("/train/")).json()["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(0.5)
        while "left out of the table" not in server.log.read_text():
            time.sleep(0.5)
        stats = server.get("/info/").json()["train_stats"]["ft_mtl_net"]
    number = next(
        n for n, i in json.loads((workspace / "unreadable.json").read_text()).items() if i == NAMED
    )
    called = [line.partition(": ")[0] for line in stats["left_out"]]
    assert called == ["1.2.840.2", f"image {number} of unreadable.json"], stats
    written = task.text + json.dumps(stats) + server.log.read_text()
    assert written.count(f"image {number} of unreadable.json") > 3
    assert "0000.json is not a label's record" in written and "1.2.840.1.json is damaged" in written
    assert not [secret for secret in ("Zyxwick", "Wilhelmina") if secret in written]
