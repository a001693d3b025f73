"""Who a patient is stays in her image's file: not in logs, labels, checkpoints or replies."""

import json
import time
from pathlib import Path

import pytest
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
