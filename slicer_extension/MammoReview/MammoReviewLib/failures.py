"""What can go wrong between panel and server, each as one sentence that says what to do."""

from __future__ import annotations

from typing import Any


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


PASSING = frozenset(
    {"refused", "unreachable", "timeout", "tls", "cut", "not-ours", "unauthorised", "busy", "full",
     "failed"}
)
