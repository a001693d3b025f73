"""What is asked of a PACS over DICOMweb (DICOM PS3.18): which series, their headers, one file, and
to store a new object. Every request has a time limit; a dropped connection is tried again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

MAMMOGRAMS = {"Modality": "MG"}
TIME_LIMITS = (5.0, 60.0)  # seconds to connect, and between two packets
PAGE = 500  # series asked for at once
UID = re.compile(r"[0-9]+(\.[0-9]+)+")
UNAVAILABLE = {408, 429, 500, 502, 503, 504}

Answer = TypeVar("Answer")

logging.getLogger("dicomweb_client").setLevel(logging.WARNING)  # else a line for every request


class PacsError(RuntimeError):
    """The PACS did not do what it was asked for; the message says why, and names no patient."""


class Unreachable(PacsError):
    """It does not answer now; later it may."""


class DicomWeb:
    """One DICOMweb service. Safe between threads."""

    def __init__(
        self,
        url: str,
        *,
        looking_for: Mapping[str, str] = MAMMOGRAMS,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        """`looking_for` chooses series (QIDO-RS); `credentials` are (user, password), if any."""
        place = urlsplit(url)
        self.url = f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path.rstrip('/')}"
        self._looking_for = dict(looking_for)
        session = requests.Session()
        if place.username:
            credentials = place.username, place.password or ""
        session.auth = credentials
        session.headers["Accept-Encoding"] = "identity"  # pixels hardly shrink, and slowly
        session.mount(f"{place.scheme}://", _Limited())
        self._client = DICOMwebClient(self.url, session)
        self._client.set_http_retry_params(retry=False)  # the session does that

    def series(self) -> dict[str, int | None]:
        """The series there are: "STUDY/SERIES" -> number of instances, None if it is not told."""
        found: dict[str, int | None] = {}
        while True:
            page = _asked(partial(self._page, len(found)))
            new = {}
            for row in page:
                study, series = _first(row, "0020000D"), _first(row, "0020000E")
                if _is_uid(study) and _is_uid(series):
                    count = _first(row, "00201209")
                    new[f"{study}/{series}"] = None if count is None else int(count)
            if not new.keys() - found.keys():  # the last page, or a server that knows no pages
                return found
            found |= new

    def _page(self, offset: int, *, limit: int = PAGE) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client.search_for_series(
            search_filters=self._looking_for, limit=limit, offset=offset
        )
        return found

    def answers(self) -> bool:
        """Whether it answers at all."""
        try:
            _asked(partial(self._page, 0, limit=1))
        except Unreachable:
            return False
        except PacsError:
            pass  # not as it should, but it does
        return True

    def headers(self, place: str) -> list[Dataset]:
        """The headers of all instances of "STUDY/SERIES", without pixels."""
        study, series = place.split("/")
        rows = _asked(lambda: self._client.retrieve_series_metadata(study, series))
        # Long values come as links, which are not followed: none of them is needed.
        return [Dataset.from_json(row, bulk_data_uri_handler=lambda *_: None) for row in rows]

    def instance(self, place: str) -> Dataset:
        """The object "STUDY/SERIES/INSTANCE", in the transfer syntax in which it is stored."""
        study, series, instance = place.split("/")
        every = (("application/dicom", "*"),)
        return _asked(
            lambda: self._client.retrieve_instance(study, series, instance, media_types=every)
        )

    def store(self, dataset: Dataset) -> None:
        """Stores an object; raises PacsError where it is refused."""
        answer = _asked(lambda: self._client.store_instances([dataset]))
        for failed in answer.get("FailedSOPSequence") or []:
            reason = int(failed.get("FailureReason", 0))
            raise PacsError(f"The PACS refused the object (reason {reason:#06x})")


class _Limited(HTTPAdapter):
    """Requests with time limits, repeated where nothing can have happened yet."""

    def __init__(self) -> None:
        again = Retry(total=2, backoff_factor=0.3, status_forcelist=(429, 502, 503, 504))
        again.raise_on_status = False
        super().__init__(max_retries=again)

    def send(self, request: Any, *arguments: Any, **options: Any) -> requests.Response:
        """As `HTTPAdapter.send`."""
        options["timeout"] = options.get("timeout") or TIME_LIMITS
        return super().send(request, *arguments, **options)


def _asked(question: Callable[[], Answer]) -> Answer:
    try:
        return question()
    except requests.RequestException as error:
        answer = error.response if isinstance(error, requests.HTTPError) else None
        if answer is None:
            raise Unreachable(f"The PACS does not answer ({type(error).__name__})") from error
        kind = Unreachable if answer.status_code in UNAVAILABLE else PacsError
        raise kind(f"The PACS answers {answer.status_code}") from error
    except Exception as error:  # an answer that is no DICOM: anything can come out of it
        raise PacsError(f"The PACS's answer makes no sense ({type(error).__name__})") from error


def _first(row: Mapping[str, Any], tag: str) -> Any:
    values = row.get(tag, {}).get("Value") or [None]
    return values[0]


def _is_uid(value: Any) -> bool:
    """Whether a text is a UID: it becomes part of a path."""
    return isinstance(value, str) and len(value) <= 64 and UID.fullmatch(value) is not None
