"""What can go wrong between panel and server, each as one sentence that says what to do."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Any

from .i18n import _

WAY = frozenset({"refused", "unreachable", "timeout", "tls", "cut", "not-ours"})
PASSING = WAY | {"unauthorised", "busy", "full", "failed"}
LONGEST_DETAIL = 400  # characters of the server's own words


class Failure(Exception):
    """A request that failed. `str()` is the sentence.

    `kind`: "address" | "refused" | "unreachable" | "timeout" | "tls" | "cut" | "not-ours" (no
    answer of such a server) | "unauthorised" 401 | "forbidden" 403 | "missing" 404 | "conflict"
    409 | "too-large" 413 | "unusable" 400, 422 | "busy" 429, 503 | "full" 507 | "failed" other 5xx
    | "disk" (of this computer).
    `status` is the HTTP status, `detail` what the server said.
    """

    def __init__(
        self, kind: str, sentence: str, *, status: int | None = None, detail: Any = None
    ) -> None:
        super().__init__(sentence)
        self.kind, self.status, self.detail = kind, status, detail

    @property
    def passes(self) -> bool:
        """The same request may well succeed later, without anybody changing it."""
        return self.kind in PASSING


def of_error(error: BaseException, place: str) -> Failure:
    """A failure on the way to `place` (host:port), from the socket's or HTTP's own error."""
    kind, sentence = _way(error)
    return Failure(kind, sentence.format(place=place, reason=_reason(error)))


def _way(error: BaseException) -> tuple[str, str]:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls", _("The certificate of {place} is not trusted: {reason}.")
    if isinstance(error, ssl.SSLError):
        return "tls", _("{place} does not speak TLS; is its address http:// rather than https://?")
    if isinstance(error, socket.gaierror):
        return "unreachable", _("There is no computer named {place}; check the address.")
    if isinstance(error, ConnectionRefusedError):
        return "refused", _("Nothing answers at {place}; is the server running?")
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "timeout", _("{place} did not answer in time; it may be busy or out of reach.")
    broken = (ConnectionError, http.client.IncompleteRead, http.client.RemoteDisconnected)
    if isinstance(error, broken):
        return "cut", _("The connection to {place} broke off.")
    if isinstance(error, http.client.HTTPException):
        return "not-ours", _("What answers at {place} does not speak HTTP; check the address.")
    return "unreachable", _("{place} cannot be reached: {reason}.")


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def of_status(status: int, body: bytes, place: str, *, with_token: bool) -> Failure:
    """A failure that the server answered with."""
    detail = _detail(body)
    said = detail.get("reason", "") if isinstance(detail, dict) else detail or ""
    kind, sentence = _status(status, with_token)
    sentence = sentence.format(place=place, status=status, said=_sentence(str(said)))
    return Failure(kind, sentence.strip(), status=status, detail=detail)


def _status(status: int, with_token: bool) -> tuple[str, str]:
    if status == 401:
        if with_token:
            return "unauthorised", _("{place} does not accept this token.")
        return "unauthorised", _("{place} wants a token.")
    if status == 403:
        return "forbidden", _("The server does not allow this. {said}")
    if status == 404:
        return "missing", _("The server does not have this. {said}")
    if status == 409:
        return "conflict", _("This is not possible as things are now. {said}")
    if status == 413:
        return "too-large", _("This is larger than {place} takes. {said}")
    if status in (400, 422):
        return "unusable", _("The server cannot use this. {said}")
    if status in (429, 503):
        return "busy", _("The server is busy with something else. {said}")
    if status == 507:
        return "full", _("The server's disk is full; nothing was stored.")
    if status >= 500:
        return "failed", _("The server failed ({status}); its log says why. {said}")
    return "not-ours", _("What answers at {place} is no MammoReview server (it said {status}).")


def not_ours(place: str) -> Failure:
    """Something answered that is no such server: a login page, a proxy, another program."""
    return Failure(
        "not-ours", _("What answers at {place} is no MammoReview server.").format(place=place)
    )


def broke_off(place: str) -> Failure:
    """The answer ended before its end."""
    return Failure("cut", _("The connection to {place} broke off.").format(place=place))


def of_disk(error: OSError) -> Failure:
    """A file on this computer that cannot be written or read."""
    return Failure(
        "disk", _("This computer cannot keep the file: {reason}.").format(reason=_reason(error))
    )


def _detail(body: bytes) -> Any:
    try:
        document = json.loads(body)
        return document["detail"] if isinstance(document, dict) else None
    except (ValueError, KeyError):
        return None


def _sentence(said: str) -> str:
    said = " ".join(said.split())[:LONGEST_DETAIL]
    return said if not said or said[-1] in ".!?" else said + "."
