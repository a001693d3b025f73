"""The server under its readers: our part of a request, `/info/` meanwhile, eight at once.

    python benchmarks/server.py                   # about 3 minutes on 2 cores

Prints medians and the slowest, in milliseconds. Our part is what a request takes beyond reading the
file and the network's own time, both measured before the server starts, on films of 4400×2800
16-bit pixels. The peer in the same run is MONAI Label's `BasicInferTask` with ITKReader and a
network of one layer, called without HTTP; so all of its time is its part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ftmtl` does; before torch is loaded

import numpy as np
import torch
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    LoadImaged,
    ScaleIntensityd,
)
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from serving import Server, serve  # noqa: E402
from test_datastore import write_dicom, write_label  # noqa: E402

from ftmtl.findings import ImageInfo  # noqa: E402
from ftmtl.mammogram import read_mammogram  # noqa: E402
from ftmtl.predict import Predictor  # noqa: E402
from ftmtl.weights_file import STARTER_WEIGHTS  # noqa: E402

HEIGHT, WIDTH = 4400, 2800
MODEL = "ft_mtl_net"


def films(folder: Path, count: int) -> list[Path]:
    """Films of noise in half an ellipse, as large as a large detector's."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    breast = (x / 2300) ** 2 + ((y - HEIGHT / 2) / 2000) ** 2 < 1
    random = np.random.default_rng(0)
    written = []
    for number in range(count):
        pixels = np.where(breast, random.integers(800, 3800, breast.shape), 0).astype("<u2")
        size = {"Rows": HEIGHT, "Columns": WIDTH, "PixelData": pixels.tobytes()}
        patient = f"W{number}"
        file = folder / f"{number}.dcm"
        written.append(write_dicom(file, f"1.2.840.{number + 1}", patient=patient, **size))
    return written


class OneLayer(BasicInferTask):  # type: ignore[misc]
    """What MONAI Label's own task does around a network that does next to nothing."""

    def __init__(self) -> None:
        super().__init__(
            path=None,
            network=torch.nn.Conv2d(1, 2, 1),
            type=InferType.SEGMENTATION,
            labels={"mass": 1},
            dimension=2,
            description="one layer",
        )

    def is_valid(self) -> bool:
        """It needs no weights."""
        return True

    def pre_transforms(self, data: Any = None) -> list[Any]:
        """Read and scale."""
        return [
            LoadImaged(keys="image", reader="ITKReader"),
            EnsureChannelFirstd(keys="image"),
            _Squeeze(),
            ScaleIntensityd(keys="image"),
        ]

    def inferer(self, data: Any = None) -> Callable[..., Any]:
        """The whole film at once."""
        return lambda inputs, network: network(inputs)

    def post_transforms(self, data: Any = None) -> list[Any]:
        """A label map."""
        return [Activationsd(keys="pred", softmax=True), AsDiscreted(keys="pred", argmax=True)]


class _Squeeze:
    """A DICOM film comes as a volume of one slice."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if data["image"].ndim == 4:
            data["image"] = data["image"][..., 0]
        return data


def milliseconds(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def told(taken: list[float]) -> dict[str, float]:
    """Median and slowest."""
    return {
        "median": round(statistics.median(taken), 1),
        "slowest": round(max(taken), 1),
        "of": len(taken),
    }


def show(name: str, figure: object) -> None:
    """One line."""
    print(f"{name:32} {figure}", flush=True)


def network_time(predictor: Predictor, file: Path) -> float:
    """Milliseconds inside the network while it reads a film."""
    spent = 0.0
    detect = predictor.network.detect

    def timed(*given: Any, **named: Any) -> Any:
        nonlocal spent
        began = time.perf_counter()
        result = detect(*given, **named)
        spent += 1000 * (time.perf_counter() - began)
        return result

    predictor.network.detect = timed  # type: ignore[method-assign]
    try:
        predictor(read_mammogram(file))
    finally:
        del predictor.network.detect
    return spent


def ask(server: Server, image: str, **params: Any) -> None:
    """One request for findings."""
    data = {"params": json.dumps(params)} if params else None
    server.post(f"/infer/{MODEL}?image={image}&output=json", data=data).raise_for_status()


def refused(server: Server, image: str) -> None:
    """The same request with a mistake in it: what HTTP and MONAI Label's endpoint alone take."""
    data = {"params": json.dumps({"threshold": 2})}
    reply = server.post(f"/infer/{MODEL}?image={image}&output=json", data=data)
    assert reply.status_code == 400, reply.text


def info_meanwhile(server: Server, busy: Callable[[], bool]) -> list[float]:
    """Milliseconds of `/info/` as long as the server is busy."""
    taken = []
    while busy():
        taken.append(milliseconds(lambda: server.get("/info/").raise_for_status()))
        time.sleep(0.05)
    return taken


def eight_at_once(server: Server, images: list[str]) -> dict[str, Any]:
    """Who was answered when, of eight that asked a moment after one another."""
    answered: list[int] = []
    taken: dict[int, float] = {}

    def one(number: int) -> None:
        taken[number] = milliseconds(lambda: ask(server, images[number], fresh=True))
        answered.append(number)

    clients = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for client in clients:
        client.start()
        time.sleep(0.03)
    for client in clients:
        client.join()
    return {"answered": len(answered), "in order": answered == sorted(answered),
            "last after": round(max(taken.values()))}


def training(server: Server, folder: Path) -> list[float]:
    """`/info/` while a training learns from one label."""
    info = ImageInfo(id="1.2.840.1", width=WIDTH, height=HEIGHT)
    label = write_label(folder / "x.seg.nrrd", info, "malignant").read_bytes()
    files = {"label": ("x.seg.nrrd", label)}
    server.put("/datastore/label?image=1.2.840.1&tag=final", files=files).raise_for_status()
    settings = {"max_epochs": 1, "steps": 20}
    server.post(f"/train/{MODEL}", json=settings).raise_for_status()
    status = lambda: server.get("/train/").json()["status"]  # noqa: E731
    taken = info_meanwhile(server, lambda: status() in ("SUBMITTED", "RUNNING"))
    assert status() == "DONE", server.get("/train/").text
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="films, at least 7 [9]")
    parser.add_argument("--weights", type=Path, default=STARTER_WEIGHTS)
    options = parser.parse_args()
    if options.repeats < 7:
        parser.error("--repeats is at least 7, since eight clients ask at once")
    show("load before", os.getloadavg()[0])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = films(folder / "studies", options.repeats + 1)
        images = [f"1.2.840.{n + 1}" for n in range(len(files))]
        predictor = Predictor.load(options.weights, device="cpu")
        for file in files[:2]:
            network_time(predictor, file)
        stock = OneLayer()
        stock({"image": str(files[0]), "device": "cpu", "result_extension": ".nrrd"})
        reads, networks, peers = [], [], []
        for file in files[1:]:
            reads.append(milliseconds(lambda f=file: read_mammogram(f)))  # type: ignore[misc]
            networks.append(network_time(predictor, file))
            request = {"image": str(file), "device": "cpu", "result_extension": ".nrrd"}
            peers.append(milliseconds(lambda r=request: stock(r)))  # type: ignore[misc]
        with serve(
            folder, folder / "studies", workspace=folder / "workspace", weights=options.weights,
            by_command=True,
        ) as server:
            # Without a pause: after two seconds of quiet the server would read ahead.
            ask(server, images[0])
            wholes = [milliseconds(lambda i=i: ask(server, i, fresh=True))  # type: ignore[misc]
                      for i in images[1:]]
            knowns = [milliseconds(lambda i=i: ask(server, i)) for i in images]  # type: ignore[misc]
            https = [milliseconds(lambda i=i: refused(server, i))  # type: ignore[misc]
                     for i in images]
            ours = [w - r - n for w, r, n in zip(wholes, reads, networks, strict=True)]
            beyond = [k - statistics.median(https) for k in knowns]
            show("read", told(reads))
            show("network", told(networks))
            show("request", told(wholes))
            show("our part", told(ours))
            show("BasicInferTask, one layer", told(peers))
            show("known answer, beyond HTTP", told(beyond))
            show("eight at once", eight_at_once(server, images[:8]))
            reader = threading.Thread(
                target=lambda: [ask(server, i, fresh=True) for i in images]
            )
            reader.start()
            show("/info/ while the model runs", told(info_meanwhile(server, reader.is_alive)))
            show("/info/ while it trains", told(training(server, folder)))
    show("load after", os.getloadavg()[0])


if __name__ == "__main__":
    main()
