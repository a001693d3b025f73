"""`ftmtl-serve`: MONAI Label's server with safe settings.

The endpoints are MONAI Label's own functions. Around them: loopback unless told otherwise, no
cross-origin access, only the routes that this app answers for, mistakes in a request answered with
a reason, and a server that goes on answering while the model runs. `monailabel start_server` works
too, without these.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import ipaddress
import json
import logging
import logging.config
import os
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from monailabel.config import settings
from monailabel.endpoints import activelearning, datastore, infer, info, model, session, train
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from monailabel.utils.async_tasks.utils import tasks
from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

APP = Path(__file__).resolve().parent
SERVED = (info, infer, train, activelearning, datastore, session, model)
# Weights are taken into service by the gate or by /versions, never by overwriting a file. A
# data set with patients' names does not leave by a GET; `ftmtl dataset labels` makes one.
WITHHELD = {("/model/{model}", "PUT"), ("/model/{model}", "DELETE"), ("/datastore/dataset", "GET")}


def main(arguments: list[str] | None = None) -> int:
    """Serves until interrupted. Returns the exit status."""
    options = _options(arguments)
    configure(options)
    if not _is_loopback(options.host):
        print(
            f"WARNING: {options.host} can be reached by others, and this server has neither "
            "password nor encryption. Put it behind a proxy that has both.",
            file=sys.stderr,
        )
    print(f"Reading mammograms in {options.studies} on http://{options.host}:{options.port}")
    uvicorn.run(
        create_app(),
        host=options.host,
        port=options.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ftmtl-serve", description=main.__doc__)
    parser.add_argument("--studies", type=Path, required=True, help="folder of mammograms")
    parser.add_argument("--workspace", type=Path, help="labels, models, key [STUDIES-workspace]")
    parser.add_argument("--weights", type=Path, help="weights to begin with [the starter weights]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--host", default="127.0.0.1", help="[127.0.0.1]")
    parser.add_argument("--port", type=int, default=8000, help="[8000]")
    options = parser.parse_args(arguments)
    if not options.studies.is_dir():
        parser.error(f"--studies: there is no folder {options.studies}")
    if options.weights is not None and not options.weights.is_file():
        parser.error(f"--weights: there is no file {options.weights}")
    return options


def configure(options: argparse.Namespace) -> None:
    """Tells MONAI Label, and by the environment the processes that it starts, what to do."""
    conf = {"device": options.device}
    for name in ("workspace", "weights"):
        if (value := getattr(options, name)) is not None:
            conf[name] = str(value.resolve())
    chosen: dict[str, Any] = {
        "MONAI_LABEL_APP_DIR": str(APP),
        "MONAI_LABEL_STUDIES": str(options.studies.resolve()),
        "MONAI_LABEL_APP_CONF": conf,
        "MONAI_LABEL_SERVER_PORT": options.port,
        "MONAI_LABEL_TRACKING_ENABLED": False,  # MLflow is not wanted
        "MONAI_LABEL_AUTO_UPDATE_SCORING": False,  # a process at every start and next sample
    }
    for name, value in chosen.items():
        setattr(settings, name, value)
        os.environ[name] = json.dumps(value) if isinstance(value, dict) else str(value)
    os.environ.setdefault("PYTHONPATH", "")  # MONAI Label expects it to exist
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
            "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": "INFO", "handlers": ["console"]},
            # Its lines repeat whole requests.
            "loggers": {name: {"level": "WARNING"} for name in ("monailabel", "timeloop")},
        }
    )


def create_app() -> FastAPI:
    """The server, for the app that the settings name."""
    # One model, first come first served; and trainings are started one after the other.
    pools = {infer: ThreadPoolExecutor(1, "model"), train: ThreadPoolExecutor(1, "train")}
    others = ThreadPoolExecutor(8, "request")
    server = FastAPI(title="FT-MTL-Net", docs_url=None, redoc_url=None, lifespan=_lifespan)
    for module in SERVED:
        for route in module.router.routes:
            methods = [m for m in route.methods if (route.path, m) not in WITHHELD]
            if methods:
                server.add_api_route(
                    route.path,
                    _off_the_loop(route.endpoint, pools.get(module, others)),
                    methods=methods,
                    tags=route.tags,
                    summary=route.summary,
                    include_in_schema=route.include_in_schema,
                )
    server.add_api_route("/versions/{model}/{version}", bring_back, methods=["POST"])
    server.add_exception_handler(MONAILabelException, _refused)
    server.add_exception_handler(Exception, _failed)
    server.add_middleware(SameOrigin)
    return server


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


def _off_the_loop(endpoint: Callable[..., Any], pool: ThreadPoolExecutor) -> Callable[..., Any]:
    """MONAI Label's endpoint, run in `pool`.

    Its endpoints are `async def` around code that never awaits and would hold up every other
    request for as long as it takes.
    """

    def run(values: dict[str, Any]) -> Any:
        coroutine = endpoint(**_checked(endpoint.__name__, values))
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        except BaseException:
            # What it meant to do after its reply, which is to delete what was uploaded.
            for task in getattr(values.get("background_tasks"), "tasks", ()):
                task.func(*task.args, **task.kwargs)
            raise
        coroutine.close()
        raise RuntimeError(f"{endpoint.__name__} awaits; it needs the event loop")

    async def answer(**values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, run, values)

    answer.__name__ = endpoint.__name__
    answer.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return answer


def _checked(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a request; 400 for what MONAI Label would fall over."""
    for field in ("params", "info"):
        if isinstance(values.get(field), str):
            try:
                document = json.loads(values[field] or "{}")
            except ValueError as error:
                raise HTTPException(400, f"{field} is not JSON: {error}") from error
            if not isinstance(document, dict):
                raise HTTPException(400, f"{field} must be a JSON object, such as {{}}")
            if name == "api_run_inference" and values.get("output") is not None:
                # Lets the model leave out a file that nobody will fetch.
                document["output"] = values["output"].value
            values[field] = json.dumps(document)
    if name == "api_run_inference" and not any(
        values.get(key) for key in ("image", "file", "session_id")
    ):
        raise HTTPException(400, "Say which image: image, file or session_id")
    if name == "api_run_model":
        app_instance().check_training(values["model"], values.get("params") or {})
        waiting = [t for t in tasks("train") if t["status"] in ("SUBMITTED", "RUNNING")]
        if waiting and not values.get("enqueue"):
            since = waiting[0]["start_ts"]
            raise HTTPException(429, f"A training has been running since {since}")
    return values


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(getattr(error, "msg", error))}, status_code=400)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"detail": "The server failed; its log says why."}, status_code=500)


class SameOrigin:
    """Refuses what a page of another site makes a browser send here."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 403."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            origin = headers.get(b"origin")
            if origin is not None and origin.split(b"//")[-1] != headers.get(b"host"):
                reply = JSONResponse({"detail": "Another site may not use this server."}, 403)
                await reply(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
