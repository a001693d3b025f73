"""Who may come in: this machine, or whoever carries the token."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_VARIABLE = "FTMTL_TOKEN"
SHORTEST_TOKEN = 16
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
# A stock client asks here how to get in, so these two answer before it is in.
OPEN = frozenset({"/auth/", "/auth/token"})


class UnusableToken(ValueError):
    """A token that protects nothing; names where it came from and the remedy."""


def find_token(file: Path | None, workspace: Path, *, needed: bool) -> tuple[str | None, bool]:
    """The token that requests must carry, and whether it was made just now.

    From `file`, else from the environment, else, where one is needed, from the workspace, in which
    it is made once, readable by the server's user alone. Raises UnusableToken.
    """
    if file is not None:
        return _usable(file.read_text("utf-8", errors="replace"), str(file)), False
    if given := os.environ.get(TOKEN_VARIABLE):
        return _usable(given, f"the environment's {TOKEN_VARIABLE}"), False
    if not needed:
        return None, False
    kept = workspace / "token"
    if kept.exists():
        return _usable(kept.read_text("utf-8", errors="replace"), str(kept)), False
    token = secrets.token_urlsafe(32)
    workspace.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="utf-8") as stream:
        stream.write(token + "\n")
    return token, True


def _usable(text: str, source: str) -> str:
    token = text.strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        raise UnusableToken(
            f"{source}: a token is at least {SHORTEST_TOKEN} ASCII characters without a space. "
            "Make one with: openssl rand -hex 32"
        )
    return token


class Guard:
    """Lets a request in, or answers 401 or 403.

    `hosts` are the names by which a browser may call the server, None for any: a page of another
    site that has pointed its own name at this machine (DNS rebinding) still calls it by that name.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, hosts: frozenset[str] | None) -> None:
        self.app, self.token, self.hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] == "http":
            refusal = self._refusal(Headers(scope=scope), scope["path"])
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> JSONResponse | None:
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return _answer(403, "This server goes by localhost or 127.0.0.1 alone.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("//")[2] != host:
            return _answer(403, "Another site may not use this server.")
        if self.token is not None and path not in OPEN:
            kind, _, sent = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not same(sent, self.token):
                return _answer(
                    401, "Send the server's token: Authorization: Bearer TOKEN", challenge=True
                )
        return None


def sign_in(token: str) -> APIRouter:
    """MONAI Label's way to a token, for its own clients: any name, the token as the password."""
    router = APIRouter(prefix="/auth", tags=["Auth"])

    @router.get("/", summary="Whether a token is needed")
    def enabled() -> dict[str, Any]:
        return {"enabled": True, "client_id": "ftmtl", "realm": ""}

    @router.post("/token", summary="The token, for one who knows it")
    def access_token(
        password: Annotated[str, Form()], username: Annotated[str, Form()] = ""
    ) -> dict[str, Any]:
        if not same(password, token):
            raise HTTPException(401, "The password is the server's token")
        return {"access_token": token, "token_type": "bearer"}

    @router.get("/token/valid", summary="Whether the token sent is the right one")
    def valid() -> dict[str, Any]:
        return {"valid": True}

    return router


def same(sent: str, token: str) -> bool:
    """Whether they are equal, in a time that does not tell how far they are."""
    return hmac.compare_digest(sent.encode(), token.encode())


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _answer(status: int, detail: str, *, challenge: bool = False) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if challenge else None
    return JSONResponse({"detail": detail}, status, headers=headers)
