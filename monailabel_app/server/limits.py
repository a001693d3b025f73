"""How much a request may send, and how long it may take to send it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import h11
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

MEGABYTE = 1_000_000
LARGEST_DOCUMENT = MEGABYTE  # of a body that is no upload
HEADER_SECONDS = 10.0
TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class PunctualProtocol(H11Protocol):
    """uvicorn's HTTP, hanging up on who has not sent a request's headers after ten seconds.

    Otherwise a few hundred connections that send a byte now and then would use up the server.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEADER_SECONDS, self._hang_up)

    def data_received(self, data: bytes) -> None:
        """It has sent something."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:  # its headers are all here
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _hang_up(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(TOO_LATE)
            self.transport.close()


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
        deadline = time.monotonic() + self.seconds
        if announced.isdecimal() and int(announced) > most:
            await self._drain(receive, deadline)
            reply = JSONResponse({"detail": refusal}, 413, headers={"Connection": "close"})
            await reply(scope, receive, send)
            return
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
                if not complete:
                    await self._drain(receive, deadline)
                raise HTTPException(413, refusal, headers={"Connection": "close"})
            return message

        await self.app(scope, watched, send)

    async def _drain(self, receive: Receive, deadline: float) -> None:
        """Throws away what still comes, as much again as the largest upload and no longer.

        Most clients read the answer only when they have sent everything; closing on them before
        shows them a broken connection in its place.
        """
        left = self.largest_upload
        with suppress(TimeoutError):
            while left > 0:
                message = await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0))
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
