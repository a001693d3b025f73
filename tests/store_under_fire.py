"""Run as a program: processes that write to one store, and are killed while they do.

    store_under_fire.py kill STUDIES WORKSPACE LABEL TIMES
    store_under_fire.py share STUDIES WORKSPACE LABEL TIMES

`kill` prints "IMAGE VERSION" of each label that was acknowledged before its writer was killed.
`share` lets two writers update TIMES labels, notes and sides each at the same time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from monailabel_app.lib.datastore import MammogramStore


def main(what: str, *arguments: str) -> None:
    studies, workspace, label = map(Path, arguments[:3])
    store = MammogramStore(studies, workspace)
    store.save_label(store.list_images()[0], str(label), "original", {})  # all is loaded now
    times = int(arguments[3])
    if what == "kill":
        for number in range(times):
            kill(studies, workspace, label, number)
    else:
        writers = [fork_sharer(studies, workspace, label, times, name) for name in ("ann", "bob")]
        for writer in writers:
            assert os.waitpid(writer, 0)[1] == 0


def kill(studies: Path, workspace: Path, label: Path, number: int) -> None:
    """One writer, from its start (which must succeed) to its end at a moment of chance."""
    reading, writing = os.pipe()
    writer = os.fork()
    if writer == 0:
        os.close(reading)
        store = MammogramStore(studies, workspace)
        os.write(writing, b"started\n")
        image = store.list_images()[number % 3]
        while True:
            store.save_label(image, str(label), "final", {"client_id": f"writer {number}"})
            version = store.acknowledgement()["version"]
            os.write(writing, f"{image} {version}\n".encode())
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.readline() == "started\n"
        began = time.monotonic()
        lines = [told.readline() for _ in range(random.randint(1, 2))]
        # Somewhere in the next submission, however fast this machine is.
        time.sleep(random.uniform(0, (time.monotonic() - began) / len(lines)))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        sys.stdout.write("".join(lines) + told.read())


def fork_sharer(studies: Path, workspace: Path, label: Path, times: int, name: str) -> int:
    writer = os.fork()
    if writer == 0:
        store = MammogramStore(studies, workspace)
        image = store.list_images()[0]
        for number in range(times):
            store.save_label(image, str(label), "final", {"client_id": name})
            store.update_image_info(image, {f"{name} {number}": number})
            store.sides.settle(f"{name.encode().hex()}{number:010x}")
        os._exit(0)
    return writer


if __name__ == "__main__":
    random.seed(11)
    main(*sys.argv[1:])
