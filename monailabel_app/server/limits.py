"""How much a request may send, and how long it may take to send it."""

from __future__ import annotations

import asyncio
import time

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEGABYTE = 1_000_000
LARGEST_DOCUMENT = MEGABYTE  # of a body that is no upload


class BodyLimits:
    """Answers 413 to more than `megabytes`, 408 to a body that takes longer than `seconds`."""

    def __init__(self, app: ASGIApp, *, megabytes: float, seconds: float) -> None:
        self.app, self.largest_upload, self.seconds = app, int(megabytes * MEGABYTE), seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on with its body watched, or answers it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        upload = headers.get("content-type", "").lower().startswith("multipart/")
        most = self.largest_upload if upload else min(LARGEST_DOCUMENT, self.largest_upload)
        refusal = f"The server takes up to {most:,} bytes of this kind"
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            reply = JSONResponse({"detail": refusal}, 413, headers={"Connection": "close"})
            await reply(scope, receive, send)
            return
        deadline = time.monotonic() + self.seconds
        received = 0
        complete = False

        async def watched() -> Message:
            nonlocal received, complete
            if complete:  # what comes now is that the client has gone
                return await receive()
            try:
                left = max(deadline - time.monotonic(), 0)
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError as error:
                late = f"The body did not arrive within {self.seconds:g} s"
                raise HTTPException(408, late, headers={"Connection": "close"}) from error
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > most:
                raise HTTPException(413, refusal, headers={"Connection": "close"})
            return message

        await self.app(scope, watched, send)
