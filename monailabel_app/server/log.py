"""What is written down: one JSON object a line, and nothing of a patient.

A request is named by its route's pattern, never by its path or query, which hold ids and may hold
names. Messages of unexpected errors may quote a header of an image, so of those only the kind and
the places in the code are kept.
"""

from __future__ import annotations

import json
import logging
import logging.config
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

# Their lines repeat whole requests, or what an image's header says.
TALKATIVE = ("monailabel", "timeloop", "schedule", "py.warnings", "pydicom", "httpx", "urllib3")


def configure(*, json_lines: bool = True) -> None:
    """Sets logging up for this process; without `json_lines` for one whose lines another reads."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": JsonLine if json_lines else PlainLine}},
            "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": "INFO", "handlers": ["console"]},
            "loggers": {name: {"level": "CRITICAL"} for name in TALKATIVE},
        }
    )
    logging.captureWarnings(True)
    logging.getLogger("timeloop").disabled = True  # it sets its own level and handler later


class PlainLine(logging.Formatter):
    """Level and message; of an exception its kind and where it was raised."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        row = describe(record)
        return " ".join(f"{k}={v}" if k == "error" else str(v) for k, v in row.items())


class JsonLine(logging.Formatter):
    """One JSON object: time, level, logger, message, and what the caller added as `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        row = {"time": moment, "logger": record.name, **describe(record)}
        return json.dumps({**row, **getattr(record, "fields", {})}, default=str)


def describe(record: logging.LogRecord) -> dict[str, Any]:
    """Level and message; of an exception its kind and where it was raised, not what it says."""
    row: dict[str, Any] = {"level": record.levelname, "message": record.getMessage()}
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, trace = record.exc_info
        row["error"] = kind.__name__
        if isinstance(error, OSError):
            row["errno"] = error.strerror
        row["at"] = places(trace)
    return row


def places(trace: TracebackType | None) -> list[str]:
    """Where an error came through, outermost first: "label_store.py:71 submit"."""
    frames = traceback.extract_tb(trace)
    return [f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in frames[-12:]]


class RequestLog:
    """One line for each request, when it has been answered; `observe` is told the same."""

    def __init__(self, app: ASGIApp, *, observe: Callable[[str, str, int, float], None]) -> None:
        self.app, self.observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on and writes down what became of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if route != "unknown" else "ANY"
            self.observe(route, method, status, seconds)
            fields = {
                "route": route,
                "method": method,
                "status": status,
                "seconds": round(seconds, 4),
            }
            logger.info("request", extra={"fields": fields})
