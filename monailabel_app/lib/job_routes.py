"""The requests for long work on the model: `/batch/infer` and `/scoring`, as MONAI Label has them.

Its own start a process that builds a second server, with a second model; ours are done by the one
model here, between the readers' requests.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException
from monailabel.interfaces.utils.app import app_instance

router = APIRouter()

Params = Annotated[dict[str, Any] | None, Body()]


@router.post("/batch/infer/{model}", tags=["Infer"])
def start_batch(model: str, images: str = "unlabeled", params: Params = None) -> Any:
    """Reads many images, so that their findings are there when somebody opens them."""
    return app_instance().start_batch(model, images, params or {}).to_json()


@router.get("/batch/infer", tags=["Infer"])
def batch_status() -> Any:
    """How far the latest batch is, and what could not be read."""
    return _job("batch_infer")


@router.delete("/batch/infer", tags=["Infer"])
def stop_batch() -> Any:
    """Stops it after the image in hand; another one goes on from there."""
    return _stopped("batch_infer")


@router.post("/scoring/{model}", tags=["Scoring"])
def start_scoring(model: str, params: Params = None) -> Any:
    """Scores the version in service against the final labels."""
    return app_instance().start_scoring(model).to_json()


@router.get("/scoring/", tags=["Scoring"])
def scoring_status() -> Any:
    """How far the latest scoring is; its row once it is done."""
    return _job("scoring")


@router.delete("/scoring/", tags=["Scoring"])
def stop_scoring() -> Any:
    """Stops it after the image in hand."""
    return _stopped("scoring")


def _job(kind: str) -> Any:
    job = app_instance().background.job(kind)
    if job is None:
        raise HTTPException(404, f"No {kind} was started since the server was")
    return job.to_json()


def _stopped(kind: str) -> Any:
    job = app_instance().background.cancel(kind)
    return None if job is None else job.to_json()
