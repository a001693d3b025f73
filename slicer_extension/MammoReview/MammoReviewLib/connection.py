"""Whether the server is there, and what it says of itself; always true, never in the way."""

from __future__ import annotations

from .signal import Signal


class Connection:
    """The line to one server.

    `status`: "off" | "connecting" | "connected" | "busy" (it works for us) | "training" | "lost".
    `sentence`: the status in words, with the reason and the next attempt where it is lost.
    `info`: `server_info.ServerInfo`, or None before the first answer.
    `changed()`: any of them is not what it was.
    """

    def __init__(self) -> None:
        self.changed = Signal()

    def offers(self, request: str) -> bool:
        """Whether the server has a request, as "POST /scoring/{model}"; hide what it lacks."""
        raise NotImplementedError
