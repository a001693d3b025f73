"""What a reader asks of the model itself: train, stop, another version, a score."""

from __future__ import annotations

from typing import Any, Callable

from .client import Client
from .connection import Connection
from .failures import Failure
from .i18n import _
from .jobs import Job, Jobs

LEARNING = "learning"


class Learning:
    """Requests about the model; each is followed by a look at how things are then."""

    def __init__(self, jobs: Jobs, connection: Connection, say: Callable[[str], None]) -> None:
        self._jobs, self._connection, self._say = jobs, connection, say

    def start(self, settings: dict[str, Any]) -> None:
        """Trains on the labels of the server; `settings` as `POST /train/` takes them."""
        self._ask(
            _("Starting the training"), lambda client, job: client.start_training(settings, job)
        )

    def stop(self) -> None:
        """Stops the training; the model in service stays what it is."""
        self._ask(_("Stopping the training"), lambda client, job: client.stop_training(job))

    def take(self, version: str) -> None:
        """Takes a version of the model into service: a candidate, or an older one."""
        self._ask(
            _("Taking version {version} into service").format(version=version),
            lambda client, job: client.bring_back(version, job),
            _("Version {version} is in service.").format(version=version),
        )

    def score(self) -> None:
        """Scores the model in service on the labels."""
        self._ask(_("Asking for a score"), lambda client, job: client.start_scoring(job))

    def _ask(self, name: str, request: Callable[[Client, Job], Any], said: str = "") -> None:
        client = self._connection.client
        if client is None:
            return

        def done(answer: Any) -> None:
            if said:
                self._say(said)
            self._connection.check()

        def failed(error: Exception) -> None:
            if not isinstance(error, Failure):
                raise error
            self._say(str(error))
            self._connection.check()

        self._jobs.start(lambda job: request(client, job), done, failed, name=name, key=LEARNING)
