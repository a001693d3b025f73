"""`kill -9` at any moment: no acknowledged label is lost, and the server always starts again."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from serving import Server, serve
from test_datastore import write_dicom, write_label

from ftmtl.digest import sha256_of
from ftmtl.findings import ImageInfo

IMAGES = ["1.2.840.1", "1.2.840.2"]


class Annotators:
    """Two people who submit without a pause; what the server said yes to is noted."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files
        self.acknowledged: set[tuple[str, int, str]] = set()  # image, version, submission

    def work(self, server: Server, round_: int, seconds: float) -> None:
        threads = [
            threading.Thread(target=self._submit, args=(server, image, round_)) for image in IMAGES
        ]
        for thread in threads:
            thread.start()
        threading.Event().wait(seconds)
        server.kill()
        for thread in threads:
            thread.join()

    def _submit(self, server: Server, image: str, round_: int) -> None:
        content = self.files[image].read_bytes()
        for number in range(1_000_000):
            name = f"{round_}-{number}"
            try:
                reply = server.put(
                    f"/datastore/label?image={image}&tag=final",
                    files={"label": ("label.seg.nrrd", content)},
                    data={"params": f'{{"client_id": "ann", "submission_id": "{name}"}}'},
                )
            except requests.RequestException:
                return
            assert reply.status_code == 200, reply.text
            self.acknowledged.add((image, reply.json()["version"], name))

    def check(self, server: Server) -> int:
        """Everything acknowledged is there, as it was sent. Returns how many are kept."""
        kept: set[tuple[str, int, str]] = set()
        for image in IMAGES:
            reply = server.get("/datastore/label/info", label=image, tag="final")
            if reply.status_code == 404:
                continue
            rows: list[dict[str, Any]] = reply.json()["versions"]
            numbers = [row["version"] for row in rows]  # one that was cut off is never given again
            assert numbers == sorted(set(numbers))
            assert {row["sha256"] for row in rows} == {sha256_of(self.files[image])}
            kept |= {(image, row["version"], row["submission_id"]) for row in rows}
            last = server.get("/datastore/label", label=image, tag="final")
            assert last.content == self.files[image].read_bytes()
        assert self.acknowledged <= kept, self.acknowledged - kept
        return len(kept)


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.timeout(0)
def test_no_kill_loses_a_label(tmp_path: Path, untrained: Path, kills: int) -> None:
    files = {}
    for image in IMAGES:
        write_dicom(tmp_path / "studies" / f"{image}.dcm", image)
        info = ImageInfo(id=image, width=96, height=128)
        files[image] = write_label(tmp_path / f"{image}.seg.nrrd", info, "benign")
    annotators = Annotators(files)
    moments = random.Random(kills)
    for round_ in range(kills + 1):
        with serve(
            tmp_path, tmp_path / "studies", workspace=tmp_path / "ws", weights=untrained
        ) as server:
            kept = annotators.check(server)
            if round_ < kills:
                annotators.work(server, round_, moments.uniform(0.05, 0.8))
    acknowledged = len(annotators.acknowledged)
    print(f"{kills} kills: {acknowledged} labels acknowledged, {kept} kept, none lost")
    assert acknowledged > kills
