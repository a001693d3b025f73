"""How quick the panel is: real Qt widgets and a real Slicer core, drawn into memory.

    python benchmarks/panel.py            # five openings of each kind

A small server in a process of its own answers at once with a 3328 × 2560 mammogram (16 bits,
uncompressed) and 5 findings, so that what is measured is the panel alone: everything between the
server's last answer and the drawn view; and then with 50 of them. What the panel does (in Qt and in
Slicer's scene) and what VTK's renderer does are timed apart: without a graphics card VTK draws by
software, which is a workstation's graphics card's work. The processor's time of an opening is what
other work on the machine does not lengthen as much. At last the server takes 10 s for an answer,
while a timer in the panel's thread counts how long the window was ever unable to react.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "slicer_extension" / "MammoReview")]

HEIGHT, WIDTH = 3328, 2560
FEW, FINDINGS = 5, 50
SLOW_SECONDS = 10.0
BEAT_MILLISECONDS = 2


# --- the server, in a process of its own -----------------------------------------------------


def prepare(folder: Path) -> None:
    """The mammogram, its findings and its label, as files."""
    import pydicom

    from ftmtl.findings import Finding, Findings, ImageInfo, ModelInfo, Verdict, encode_rle
    from ftmtl.label_file import write_label_file

    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    breast = (columns / 1900) ** 2 + ((rows - HEIGHT / 2) / 1450) ** 2 < 1
    noise = np.random.default_rng(1).integers(0, 400, (HEIGHT, WIDTH))
    pixels = np.where(breast, 1500 + noise, noise // 20).astype(np.uint16)
    film = pydicom.Dataset()
    film.SOPClassUID, film.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.2", "1.2.3"
    film.Modality, film.Rows, film.Columns = "MG", HEIGHT, WIDTH
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.PhotometricInterpretation, film.ImagerPixelSpacing = "MONOCHROME2", [0.07, 0.07]
    film.WindowCenter, film.WindowWidth = 1700, 900
    film.PixelData = pixels.tobytes()
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    film.is_little_endian, film.is_implicit_VR = True, False
    film.save_as(folder / "image", write_like_original=False)
    film.compress(pydicom.uid.RLELossless)
    film.save_as(folder / "image-rle", write_like_original=False)
    found = []
    for number in range(FINDINGS):
        x, y, side = 120 + 150 * (number % 10), 700 + 380 * (number // 10), 130
        mask = ((columns - x - side / 2) ** 2 + (rows - y - side / 2) ** 2) < (side / 2) ** 2
        share = 0.99 - number / 100
        scores = {"background": 1 - share, "benign": share / 4, "malignant": 3 * share / 4}
        found.append(
            Finding(
                id=f"F{number + 1}", label="malignant", scores=scores, malignancy=share,
                bbox=(x, y, side, side), segmentation=encode_rle(mask), mask_source="model",
                source="model", status="proposed",
            )
        )
    document = Findings(
        image=ImageInfo(id="1.2.3", width=WIDTH, height=HEIGHT, spacing_mm=(0.07, 0.07)),
        model=ModelInfo(name="ft_mtl_net", version="1", sha256="0" * 64),
        findings=tuple(found),
        verdict=Verdict(malignancy=0.99, label="malignant", how="malignant-veto"),
    )
    few = replace(document, findings=document.findings[:FEW])
    (folder / "findings-1.2.3").write_text(json.dumps(few.to_json()))
    many = json.dumps(document.to_json()).replace("1.2.3", "1.2.5")
    (folder / "findings-1.2.5").write_text(many)
    packed = json.dumps(few.to_json()).replace("1.2.3", "1.2.6")
    (folder / "findings-1.2.6").write_text(packed)
    labelled = replace(few, image=replace(few.image, id="1.2.4"))
    write_label_file(folder / "label", labelled)


def answer_requests(folder: Path) -> None:
    """Answers what the panel asks; `slow` in the folder makes an inference take its time."""
    info = {"width": WIDTH, "height": HEIGHT, "spacing_mm": [0.07, 0.07], "laterality": "L"}
    objects = {
        "1.2.3": {"image": {"info": {**info, "state": "new"}}},
        "1.2.4": {"image": {"info": {**info, "state": "labelled", "version": 1}}},
        "1.2.5": {"image": {"info": {**info, "state": "new"}}},
        "1.2.6": {"image": {"info": {**info, "state": "new"}}},
    }
    points = {"0.3": 0.7, "1": 0.4, "3.67": 0.2}
    model = {"version": "1", "metadata": {"operating_points": points}}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            pass

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            asked = parse_qs(url.query)
            body, status = b"{}", 200
            if url.path == "/info/":
                body = json.dumps({"models": {"ft_mtl_net": model}}).encode()
            elif url.path == "/datastore/image":
                packed = asked["image"] == ["1.2.6"]
                body = (folder / ("image-rle" if packed else "image")).read_bytes()
            elif url.path == "/datastore/label/info":
                body = json.dumps({"current": 1, "versions": [{"version": 1}]}).encode()
                status = 200 if asked["label"] == ["1.2.4"] else 404
            elif url.path == "/datastore/label":
                body = (folder / "label").read_bytes()
            elif url.path == "/datastore/":
                body = json.dumps({"objects": objects}).encode()
            elif url.path.startswith("/infer/"):
                if (folder / "slow").exists():
                    time.sleep(SLOW_SECONDS)
                body = (folder / f"findings-{asked['image'][0]}").read_bytes()
            if url.path.startswith(("/infer/", "/datastore/label", "/datastore/image")):
                (folder / "answer").write_text(repr(time.time()))
                (folder / "answer").replace(folder / "answered")
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_OPTIONS = answer  # noqa: N815  http.server's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


@contextlib.contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """The server's address."""
    command = [sys.executable, __file__, "--answer", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()


# --- the panel -------------------------------------------------------------------------------


def measure(folder: Path, address: str, times: int) -> None:
    """Prints the figures."""
    from panel_screen import APPLICATION, Screen
    from PySide6.QtCore import QTimer

    screen = Screen(folder)
    session = screen.panel.session
    session.connect(address)
    screen.wait(lambda: len(session.worklist.rows) == 4)

    def render() -> float:
        """Draws the view; seconds that it took."""
        began = time.time()
        screen.core.view.window.Render()
        return time.time() - began

    def opened(image_id: str) -> tuple[float, ...]:
        """Seconds: click to drawn, panel after the server's last answer, renderer, processor."""
        session.close_case()
        began, busy = time.time(), time.process_time()
        session.open(image_id)
        screen.wait(lambda: screen.case is not None)
        ours = time.time() - float((folder / "answered").read_text())
        rendering = render()
        return time.time() - began, ours, rendering, time.process_time() - busy

    opened("1.2.4")  # Slicer's and Qt's own beginnings
    for image_id, what in (("1.2.3", "plain"), ("1.2.6", "RLE")):
        first = [opened(image_id)[0]]
        report(f"click to a film drawn that is fetched first, {what}", first)
    for image_id, what in (
        ("1.2.3", f"a new case with {FEW} findings"),
        ("1.2.4", "a labelled case"),
        ("1.2.5", f"a new case with {FINDINGS} findings"),
    ):
        opened(image_id)  # the first one also downloads the image
        columns = zip(*(opened(image_id) for _ in range(times)), strict=True)
        names = ("whole", "panel, after the server's last answer", "renderer", "processor")
        for name, seconds in zip(names, columns, strict=True):
            report(f"click to {what} drawn: {name}", seconds)
    screen.ui.thresholdSlider.setValue(0)
    render()
    ours, rendering = [], []
    for _ in range(FINDINGS):
        began = time.perf_counter()
        screen.press("Down")
        ours.append(time.perf_counter() - began)
        rendering.append(render())
    assert screen.case.selected == f"F{FINDINGS}", screen.case.selected
    report(f"one of {FINDINGS} findings selected by a key: panel", ours)
    report(f"one of {FINDINGS} findings selected by a key: renderer", rendering)

    (folder / "slow").touch()
    gaps, last = [0.0], [time.perf_counter()]

    def beat() -> None:
        now = time.perf_counter()
        gaps.append(now - last[0])
        last[0] = now

    timer = QTimer()
    timer.timeout.connect(beat)
    timer.start(BEAT_MILLISECONDS)
    session.ask_model("F1")
    began = last[0] = time.perf_counter()
    while session.jobs.is_running("box F1"):
        APPLICATION.processEvents()
        time.sleep(0.0005)
    timer.stop()
    took = time.perf_counter() - began
    longest = 1000 * max(gaps)
    print(f"longest time without a reaction in {took:.1f} s of inference: {longest:.0f} ms")
    screen.close()


def report(name: str, seconds: Sequence[float]) -> None:
    """One line: median and slowest."""
    median, slowest = statistics.median(seconds), max(seconds)
    print(f"{name}: median {1000 * median:.0f} ms, slowest {1000 * slowest:.0f} ms", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5, help="openings of each kind")
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        answer_requests(arguments.answer)
        return
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        with running_server(folder) as address:
            measure(folder, address, arguments.times)


if __name__ == "__main__":
    main()
