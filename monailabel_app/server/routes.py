"""The server: MONAI Label's own endpoints, only those that this app answers for, and ours.

Mistakes in a request are answered with a reason, and the server goes on answering while the model
runs.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import inspect
import json
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import PurePath
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.endpoints import activelearning, datastore, infer, info, model, session, train
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks
from starlette.datastructures import UploadFile as UploadedFile
from starlette.responses import Response

from monailabel_app.lib import job_routes
from monailabel_app.lib.refusals import check_object

from .access import LOOPBACK_NAMES, Guard, sign_in
from .limits import BodyLimits
from .log import RequestLog
from .metrics import Metrics

logger = logging.getLogger(__name__)

SERVED = (info, infer, train, activelearning, datastore, session, model)
# Weights come into service by the gate or by /versions, never by overwriting a file. A data set
# with patients' names does not leave by a GET; `ftmtl dataset labels` makes one. "Train all models"
# goes past every check.
WITHHELD = {
    ("/model/{model}", "PUT"),
    ("/model/{model}", "DELETE"),
    ("/datastore/dataset", "GET"),
    ("/train/", "POST"),
}
# Their replies tell of models, tasks and uploads, with the server's own paths.
TELLING = (info, train, session)
FOLDERS = re.compile(r"(?<![\w.:/])(?:/[^\s/:'\",]+)+/")  # of an absolute path
SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
SESSION = re.compile(r"[0-9a-f-]{36}")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def create_app(
    *,
    token: str | None = None,
    loopback: bool = True,
    max_upload_mb: float = 256,
    upload_seconds: float = 120,
) -> FastAPI:
    """The server, for the app that MONAI Label's settings name."""
    server = FastAPI(
        title="FT-MTL-Net",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if loopback else None,
        lifespan=_lifespan,
    )
    # Readers wait in line at the model itself, so that what it knows already is answered at once;
    # trainings are started one after the other.
    pools = {infer: ThreadPoolExecutor(16, "reader"), train: ThreadPoolExecutor(1, "train")}
    # An image may have to come from a PACS, for minutes where that is slow.
    images, others = ThreadPoolExecutor(8, "image"), ThreadPoolExecutor(8, "request")
    for module in SERVED:
        for route in module.router.routes:
            methods = [m for m in route.methods if (route.path, m) not in WITHHELD]
            pool = images if route.path == "/datastore/image" else pools.get(module, others)
            if methods:
                server.add_api_route(
                    route.path,
                    _off_the_loop(route.endpoint, pool, telling=module in TELLING),
                    methods=methods,
                    tags=route.tags,
                    summary=route.summary,
                    include_in_schema=route.include_in_schema,
                )
    server.add_api_route("/versions/{model}", versions, methods=["GET"], tags=["Model"])
    server.add_api_route(
        "/versions/{model}/{version}", bring_back, methods=["POST"], tags=["Model"]
    )
    server.include_router(job_routes.router)
    metrics = Metrics(lambda: dict(app_instance().info()))
    server.add_api_route("/metrics", metrics.page, methods=["GET"], response_class=Response)
    if token is not None:
        server.include_router(sign_in(token))
    server.add_exception_handler(MONAILabelException, _refused)
    server.add_exception_handler(RequestValidationError, _misshapen)
    server.add_exception_handler(OSError, _disk_failed)
    server.add_exception_handler(Exception, _failed)
    # The last one added stands outermost.
    server.add_middleware(BodyLimits, megabytes=max_upload_mb, seconds=upload_seconds)
    server.add_middleware(Guard, token=token, hosts=LOOPBACK_NAMES if loopback else None)
    server.add_middleware(RequestLog, observe=metrics.observe)
    return server


def versions(model: str) -> list[dict[str, Any]]:
    """Every version of the model with what the gate measured, oldest first."""
    result: list[dict[str, Any]] = app_instance().versions(model)
    return result


def bring_back(model: str, version: str) -> dict[str, Any]:
    """Takes a version of the model into service: an earlier one, or a candidate."""
    result: dict[str, Any] = app_instance().bring_back(model, version)
    return result


@asynccontextmanager
async def _lifespan(server: FastAPI) -> AsyncIterator[None]:
    instance = app_instance()
    instance.server_mode(True)
    instance.on_init_complete()
    yield
    AsyncTask.stop("train")


def _off_the_loop(
    endpoint: Callable[..., Any], pool: ThreadPoolExecutor, *, telling: bool
) -> Callable[..., Any]:
    """MONAI Label's endpoint, run in `pool`; from a `telling` one's reply folders are taken out.

    Its endpoints are `async def` around code that never awaits and would hold up every other
    request for as long as it takes.
    """

    def run(values: dict[str, Any]) -> Any:
        mark = secrets.token_hex(8)
        coroutine = endpoint(**_checked(endpoint.__name__, values, mark))
        try:
            coroutine.send(None)
        except StopIteration as end:
            return without_folders(end.value) if telling else end.value
        except BaseException:
            # It deletes what was uploaded after its reply, which it will not come to.
            for left in list(app_instance().uploads.rglob(f"*.{mark}*")):
                left.unlink(missing_ok=True)
                with suppress(OSError):  # a session's own folder, empty now
                    left.parent.rmdir()
            raise
        coroutine.close()
        raise RuntimeError(f"{endpoint.__name__} awaits; it needs the event loop")

    async def answer(**values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, run, values)

    answer.__name__ = endpoint.__name__
    answer.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return answer


def _checked(name: str, values: dict[str, Any], mark: str) -> dict[str, Any]:
    """The values of a request, its files marked; 400 for what MONAI Label would fall over."""
    for field in ("params", "info"):
        if isinstance(values.get(field), str):
            document = _object(field, values[field])
            if name == "api_run_inference" and values.get("output") is not None:
                # Lets the model leave out a file that nobody will fetch.
                document["output"] = values["output"].value
            values[field] = json.dumps(document)
        elif isinstance(values.get(field), dict):
            check_object(values[field], field)
    for value in values.values():
        for upload in value if isinstance(value, list) else [value]:
            if isinstance(upload, UploadedFile):
                upload.filename = _safe_name(upload.filename, mark, keep=name == "api_add_image")
    session_id = values.get("session_id")
    if session_id and not SESSION.fullmatch(session_id):
        raise HTTPException(404, "There is no such session")
    if name == "api_run_inference":
        if not any(values.get(key) for key in ("image", "file", "session_id")):
            raise HTTPException(400, "Say which image: image, file or session_id")
        if session_id and app_instance().sessions().get_session(session_id) is None:
            raise HTTPException(404, "There is no such session; it may have expired")
        if values.get("output") == infer.ResultType.dicom_seg:
            raise HTTPException(400, "dicom_seg is not offered: submit the label with to_pacs")
    if name == "api_create_session" and (values.get("uncompress") or len(values["files"]) != 1):
        raise HTTPException(400, "A session is one mammogram; archives are not opened")
    if name == "api_check_image" and values.get("check_sum"):
        _check_sum(values["image"], values.pop("check_sum"))
    if name == "api_run_model":
        _check_training(values)
    return values


def _safe_name(name: str | None, mark: str, *, keep: bool) -> str:
    """A file's name with the mark before its suffix: "film.seg.nrrd" -> "upload.MARK.seg.nrrd".

    What a file is called may say who is in it, so it is kept only where it becomes an image's id.
    """
    given = PurePath((name or "").replace("\0", "").replace("\\", "/")).name
    suffix = "".join(s for s in PurePath(given).suffixes[-2:] if SUFFIX.fullmatch(s))
    stem = given.removesuffix(suffix)[:100] if keep else "upload"
    return f"{stem or 'upload'}.{mark}{suffix}"


def _check_sum(image: str, told: str) -> None:
    """404 for another content. MONAI Label's own comparison finds no two sums alike."""
    name, _, digest = told.rpartition(":")
    algorithm = (name or "SHA256").lower()
    if algorithm not in ("sha256", "sha512", "md5"):
        raise HTTPException(400, "check_sum is SHA256:…, SHA512:… or MD5:…")
    with open(app_instance().datastore().get_image_uri(image), "rb") as stream:
        if hashlib.file_digest(stream, algorithm).hexdigest() != digest.lower():
            raise HTTPException(404, "The image's content is another")


def _check_training(values: dict[str, Any]) -> None:
    if values.get("run_sync"):
        raise HTTPException(400, "A training runs in the background; run_sync is not offered")
    instance, settings = app_instance(), values.get("params") or {}
    instance.check_training(values["model"], settings)
    if not isinstance(settings.get("gpus") or "all", str):
        raise HTTPException(400, 'gpus is "all" or a list of graphics cards such as "0,1"')
    if any(task["status"] in ("SUBMITTED", "RUNNING") for task in tasks("train")):
        # One teaches from all labels there are, so a queue of them would gain nothing.
        raise HTTPException(429, instance.what_trains(values["model"]))


def _object(field: str, text: str) -> dict[str, Any]:
    try:
        document = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"{field} is not JSON: {error}") from error
    return check_object(document, field)


def without_folders(reply: Any) -> Any:
    """A JSON reply whose absolute paths have become names: "/srv/app/x.py" -> "x.py"."""
    if isinstance(reply, str):
        return FOLDERS.sub("", reply)
    if isinstance(reply, dict):  # a task's grows meanwhile, and so does what it tells
        return {key: without_folders(value) for key, value in reply.copy().items()}
    if isinstance(reply, list | tuple | deque):
        return [without_folders(value) for value in list(reply)]
    return reply


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(getattr(error, "msg", error))}, status_code=400)


async def _misshapen(request: Request, error: Exception) -> JSONResponse:
    """Says it in one text, as everywhere, without what was sent, which no reply may hold."""
    rows = error.errors() if isinstance(error, RequestValidationError) else []
    told = (f"{' '.join(str(part) for part in row['loc'])}: {row['msg']}" for row in rows)
    return JSONResponse({"detail": "; ".join(told)}, 422)


async def _disk_failed(request: Request, error: Exception) -> JSONResponse:
    if getattr(error, "errno", None) in FULL:
        logger.error("The disk is full", exc_info=error)
        return JSONResponse({"detail": "The server's disk is full; nothing was stored"}, 507)
    return await _failed(request, error)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    logger.error("A request failed", exc_info=error)
    return JSONResponse({"detail": "The server failed; its log says why."}, status_code=500)
