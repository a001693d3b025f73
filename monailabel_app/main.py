"""The MONAI Label app: FT-MTL-Net and its parts, wired together."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.utils.async_tasks.utils import background_executors, processes

from ftmtl import __version__
from ftmtl.device import pick_device
from ftmtl.findings import OPTIONAL
from ftmtl.weights_file import STARTER_WEIGHTS
from monailabel_app.lib import own_server
from monailabel_app.lib.background import Background, Busy, IdleSteps, Job, Steps
from monailabel_app.lib.batch import BatchRead, IdleReading, chosen_images, read_all
from monailabel_app.lib.datastore import MammogramStore
from monailabel_app.lib.dicomweb import DicomWeb
from monailabel_app.lib.files import clear_parts, copy_file
from monailabel_app.lib.infer import FindMasses, ImageFile, listed
from monailabel_app.lib.models import MODEL, ModelRegistry, RefusedVersion, UnknownVersion
from monailabel_app.lib.question import check_device
from monailabel_app.lib.refusals import NAME
from monailabel_app.lib.scoring import ScoreHistory, ScoreModel, is_due, score
from monailabel_app.lib.sessions import Sessions
from monailabel_app.lib.strategies import Holds, strategies
from monailabel_app.lib.train import LearnFromLabels
from monailabel_app.lib.training_request import TrainingRequest
from monailabel_app.lib.training_tasks import TrainingTasks
from monailabel_app.server import log

logger = logging.getLogger(__name__)
LEFTOVER_SECONDS = 3600
ORIGINAL = DefaultLabelTag.ORIGINAL.value  # the tag of what the model says


class MyApp(MONAILabelApp):  # type: ignore[misc]
    """FT-MTL-Net for breast masses.

    `--conf workspace DIR` holds labels, models and the key (beside the studies unless given),
    `--conf device` is auto, cpu, cuda or cuda:N, `--conf weights` the weights to begin with.
    Studies may be a folder or the address of a PACS's DICOMweb service; there `--conf
    dicomweb_filter` says which series, as JSON ({"Modality": "MG"} unless given), and `--conf
    pacs_cache_gb` how much of it is kept here besides the images with a label (20 unless given).
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.is_child = _main_module() == "monailabel.interfaces.utils.app"
        if self.is_child:
            own_server.die_with_server()
            log.configure(json_lines=False)
        else:
            os.environ[own_server.SERVER_PROCESS] = str(os.getpid())
        in_pacs = studies.startswith(("http://", "https://"))
        if in_pacs and not conf.get("workspace"):
            raise SystemExit("Studies in a PACS need --conf workspace DIR for labels and models")
        folder = conf.get("workspace") or f"{studies.rstrip(os.sep)}-workspace"
        self.workspace = Path(folder).resolve()
        self.workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.device = conf.get("device") or "auto"
        # Uploads come as files in the temporary folder. In one of our own they can be told from
        # every other path that a request may name, and none is left behind.
        self.uploads = self.workspace / "tmp"
        self.uploads.mkdir(exist_ok=True, mode=0o700)
        tempfile.tempdir = str(self.uploads)
        self.registry = ModelRegistry(self.workspace / "models" / MODEL)
        if not self.is_child:
            self._begin_with(conf.get("weights"))
        super().__init__(
            app_dir,
            studies,
            conf,
            name="FT-MTL-Net",
            description="Masses in mammograms: found, outlined and judged benign or malignant",
            version=__version__,
        )
        self._auto_update_scoring = False
        infer = self._infers[MODEL]
        self._idle_reading = IdleReading(infer, self._datastore)
        self.background = Background(
            self._idle_steps,
            quiet_for=infer.turns.quiet_for,
            rests=self._trains,
            at_end=infer.save,
        )
        self._training_tasks = TrainingTasks(self._trainers[MODEL].stats)
        self._software = _software()
        self._device = _describe(pick_device(self.device))

    def init_datastore(self) -> MammogramStore:
        """The studies and the labels."""
        if not self.studies.startswith(("http://", "https://")):
            return MammogramStore(Path(self.studies), self.workspace)
        user = settings.MONAI_LABEL_DICOMWEB_USERNAME
        try:
            looking_for = json.loads(self.conf.get("dicomweb_filter") or '{"Modality": "MG"}')
            gigabytes = float(self.conf.get("pacs_cache_gb") or 20)
        except ValueError as error:
            raise SystemExit(f"--conf dicomweb_filter or pacs_cache_gb: {error}") from error
        service = DicomWeb(
            self.studies,
            looking_for=looking_for,
            credentials=(user, settings.MONAI_LABEL_DICOMWEB_PASSWORD) if user else None,
        )
        return MammogramStore(service, self.workspace, pacs_cache=int(gigabytes * 1e9))

    def init_infers(self) -> dict[str, FindMasses]:
        """The one model."""
        infer = FindMasses(
            self.registry, self._datastore.key, self.workspace, device=self.device
        )
        return {MODEL: infer}

    def init_trainers(self) -> dict[str, LearnFromLabels]:
        """Its training."""
        folder = self.workspace / "training"
        return {MODEL: LearnFromLabels(self.registry, folder, device=self.device)}

    def init_strategies(self) -> dict[str, Any]:
        """What to read next."""
        self._holds = Holds(self.workspace / "holds.json")
        infer = self._infers[MODEL]
        self._datastore.watch(
            lambda image: infer.state(image, held_by=self._holds.holder(image)),
            lambda image: infer.known(self._datastore, image),
        )
        return dict(strategies(self._holds, infer.serving, infer.is_unreadable))

    def init_scoring_methods(self) -> dict[str, Any]:
        """How good the version in service is, by the labels of this server."""
        self.history = ScoreHistory(self.workspace / "scores.json")
        return {MODEL: ScoreModel(self._infers[MODEL], self.history)}

    def init_batch_infer(self) -> Any:
        """Many images at once; for MONAI Label's own launcher, in a process of its own."""
        return BatchRead(self._infers[MODEL])

    def on_init_complete(self) -> None:
        """Clears what an earlier server left and warms the model up."""
        super().on_init_complete()
        background_executors["train"] = self._training_tasks
        for leftover in self.uploads.iterdir():
            age = time.time() - leftover.stat().st_mtime
            if age > LEFTOVER_SECONDS and leftover.name != "sessions":
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if cleared := clear_parts(self.workspace):
            logger.info("%d writes that were cut off were cleared away", cleared)
        self._datastore.watch_pacs()
        began = time.monotonic()
        self._infers[MODEL].warm_up()
        logger.info("The model is warm after %.1f s", time.monotonic() - began)
        self.background.start()

    def info(self) -> dict[str, Any]:
        """What `/info/` says: models, training, labels, and what the server is made of."""
        device = {"asked_for": self.device, **self._device}
        info = {**super().info(), "software": self._software, "device": device}
        info["label_fields"] = list(OPTIONAL)
        info["train_stats"] = {MODEL: self._training_tasks.stats()}
        for model in info["models"].values():
            model["scores"] = self.history.shown()
        return info

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """The findings in one image; MONAI Label deletes the file after its reply."""
        self._need_model(request.get("model"))
        task = self._infers[MODEL]
        store = datastore or self._datastore
        saves, tag = request.get("save_label") in (True, "true"), request.get("label_tag")
        if saves and tag not in (None, "", ORIGINAL):
            # A reading that nobody looked at must not take the place of a reader's label.
            raise HTTPException(400, f"save_label keeps the findings under {ORIGINAL!r} alone")
        image, known = request.get("image"), True
        if isinstance(image, str) and self._was_uploaded(image):
            source, known = ImageFile(Path(image), Path(image).parent), False
        else:
            source = listed(store, image)
            client = request.get("client_id")
            if isinstance(client, str) and NAME.fullmatch(client):
                self._holds.hold(client, str(image))
        file, document = task({**request, "source": source})
        label = file
        if file and known and saves:
            label = store.save_label(image, file, ORIGINAL, {})
        return {"label": label, "tag": ORIGINAL, "file": file, "params": document}

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """The next image to read, without the server's path to it."""
        strategy = request.get("strategy")
        task = self._strategies.get(strategy) if isinstance(strategy, str) else None
        if task is None:
            names = ", ".join(self._strategies)
            raise HTTPException(404, f"There is no strategy {strategy!r}. Strategies: {names}")
        return dict(task(request, self._datastore) or {})

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """What goes into the reply to a submission."""
        if self._datastore.labels.current(image_id) is not None:
            self._holds.release(image_id)
        return dict(self._datastore.acknowledgement())

    def start_batch(self, model: str, images: str, settings: dict[str, Any]) -> Job:
        """Begins to read many images; 429 while that goes on already."""
        self._need_model(model)
        device = check_device(settings.get("device") or self.device)
        chosen = chosen_images(self._datastore, images)
        request = {"model": model, "images": images, "device": device}
        job = Job("batch_infer", request, total=len(chosen))
        return self._begin(
            job, read_all(self._infers[model], self._datastore, chosen, job, device=device)
        )

    def start_scoring(self, model: str) -> Job:
        """Begins to score the version in service; 409 without labels, 429 while it is scored."""
        self._need_model(model)
        if not self._datastore.labels.labelled():
            raise HTTPException(409, "There is no label to score the model against yet")
        job = Job("scoring", {"method": model})
        return self._begin(job, score(self._infers[model], self._datastore, self.history, job))

    def _begin(self, job: Job, steps: Steps) -> Job:
        try:
            return self.background.begin(job, steps)
        except Busy as error:
            raise HTTPException(429, str(error)) from error

    def _idle_steps(self) -> IdleSteps:
        infer, store = self._infers[MODEL], self._datastore
        pause = yield from self._idle_reading.steps()
        if is_due(infer, store, self.history):
            yield from score(infer, store, self.history, Job("scoring", {"method": MODEL}))
        return pause

    def _trains(self) -> bool:
        # From the start of its process on, which is long before it says so itself.
        return bool(processes("train")) or self._training_tasks.stats().get("state") == "running"

    def bring_back(self, model: str, version: str) -> dict[str, Any]:
        """Takes a version into service; 404 for one that is not there, 409 past the gate."""
        self._need_model(model)
        try:
            return dict(self.registry.bring_back(version).to_json())
        except UnknownVersion as error:
            raise HTTPException(404, str(error)) from error
        except RefusedVersion as error:
            raise HTTPException(409, str(error)) from error

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Every version, what the gate measured of it, and whether it is in service."""
        self._need_model(model)
        return list(self._infers[model].info()["versions"])

    def check_training(self, model: str, settings: dict[str, Any]) -> None:
        """404 or 400 for a training that could not begin."""
        self._need_model(model)
        TrainingRequest.of(settings, device=self.device)
        if not self._datastore.get_labeled_images():
            raise HTTPException(409, "There is no label to learn from yet")
        if not self._datastore.teaching():
            raise HTTPException(
                409, "All labels are of patients who judge the model. Label another patient's image"
            )

    def what_trains(self, model: str) -> str:
        """What a training that is running says of itself, in words."""
        stats = self._training_tasks.stats()
        if stats.get("state") != "running" or not stats.get("epoch"):
            return "A training has just been started"
        left = stats.get("seconds_left")
        return (
            f"A training has been running since {stats['started']}: {stats.get('stage')}, epoch "
            f"{stats['epoch']} of {stats.get('epochs')}"
            + (f", about {left:.0f} s left" if left is not None else "")
        )

    def bundle_path(self, model: str | None) -> None:
        """None; MONAI Label asks for it before any task starts, so a wrong name ends here."""
        if model is not None:
            self._need_model(model)

    def model_file(self, model: str, validate: bool = True) -> str | None:
        """A copy of the weights in service: the file itself is not for others to change."""
        self._need_model(model)
        if not validate:
            raise HTTPException(403, "Weights come into service through training or /versions")
        current = self.registry.current()
        if current is None:
            return None
        copy = self.uploads / f"{MODEL}-{current.sha256[:16]}.safetensors"
        if not copy.exists():
            copy_file(self.registry.path(current), copy)
        return str(copy)

    def _begin_with(self, given: str | None) -> None:
        weights = Path(given or STARTER_WEIGHTS)
        if weights.is_file():
            self.registry.begin_with(weights, origin="given" if given else "starter")
        elif given or self.registry.current() is None:
            raise SystemExit(f"{weights}: there are no such weights. Train, or give others")

    def _need_model(self, model: Any) -> None:
        if model != MODEL:
            raise HTTPException(404, f"There is no model {model!r}, only {MODEL}")

    def _was_uploaded(self, image: str) -> bool:
        path = Path(os.path.realpath(image))
        return path.is_relative_to(self.uploads) and path.is_file()

    def _local_request(self, url: str, params: Any, action: str) -> Any:
        """What a child asks of the server, also where that wants a token or speaks TLS."""
        if "FTMTL_SERVER" not in os.environ:
            return super()._local_request(url, params, action)
        reply = own_server.post(url, params or {})
        if reply.status_code != 200:
            logger.error("%s was not started: status %d", action, reply.status_code)
            return None
        return reply.json()

    def _load_sessions(self, load: bool = False) -> Sessions | None:
        folder = self.uploads / "sessions"
        folder.mkdir(exist_ok=True)
        return Sessions(folder) if load else None


def _software() -> dict[str, str]:
    names = ("torch", "monai", "monailabel", "numpy", "pydicom", "fastapi")
    return {
        "ftmtl": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def _describe(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        return {"name": torch.cuda.get_device_name(device), "type": "cuda"}
    return {"name": platform.processor() or platform.machine(), "type": "cpu",
            "threads": torch.get_num_threads()}


def _main_module() -> str | None:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec else None
