"""Who the patient is, without saying who she is: a keyed hash of her id.

A plain hash of a hospital number is undone by trying all numbers, so the hash is keyed
(HMAC-SHA256, RFC 2104) with a secret that never leaves its file. Without that file the same woman
would get a new name, her images could fall on both sides of a split into training and validation,
and nobody would notice: so a lost key stops the start.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

_KEY = re.compile(rb"[0-9a-f]{64}\n?")


class PatientKeyError(RuntimeError):
    """The key cannot be used; the message names the file, the reason and the remedy."""


class Identified(Protocol):
    """What is asked of a mammogram. Blank and placeholder ids are None."""

    @property
    def patient_id(self) -> str | None:
        """The hospital's id of the woman."""

    @property
    def study_uid(self) -> str | None:
        """StudyInstanceUID."""

    @property
    def image_id(self) -> str:
        """SOPInstanceUID or path; never empty."""


class PatientKey:
    """The secret of one workspace. `PatientKey.open(file).of(mammogram)` is 16 hex digits."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @classmethod
    def open(cls, file: Path, *, labels_exist: bool) -> PatientKey:
        """Read the key, or make it (mode 0600) if there is none and no label depends on it.

        Of several processes that make it at once, one wins and all get its key. Raises
        PatientKeyError if the key is damaged, cannot be read or written, or is gone although
        labels exist.
        """
        try:
            if not file.exists():
                if labels_exist:
                    raise PatientKeyError(
                        f"{file}: the patient key is gone, but there are labels made with it. "
                        "Bring the file back from a backup, or move the labels away to start anew."
                    )
                _create(file)
            text = file.read_bytes()
            if os.name == "posix" and file.stat().st_mode & 0o077:
                log.warning("%s could be read by others; its mode is set to 0600", file)
                file.chmod(0o600)
        except OSError as error:
            raise PatientKeyError(
                f"{file}: the patient key cannot be read or made ({error.strerror}). "
                "Check that the folder exists, is writable and is on a local disk."
            ) from error
        if not _KEY.fullmatch(text):
            raise PatientKeyError(
                f"{file}: this is not a patient key (64 hexadecimal digits). "
                "Bring the file back from a backup."
            )
        return cls(bytes.fromhex(text.decode().strip()))

    def of(self, mammogram: Identified) -> str:
        """Key of the patient: 16 hexadecimal digits, the same for all her images.

        Without a patient's id the study stands for her, and without a study the image.
        """
        patient = (mammogram.patient_id or "").strip()
        study = (mammogram.study_uid or "").strip()
        if patient:
            kind, text = "patient", patient
        else:
            kind, text = ("study", study) if study else ("image", mammogram.image_id)
        return self._key(kind, text)

    def of_examination(self, mammogram: Identified) -> str | None:
        """Key of the examination, by its study; None where the file names none."""
        study = (mammogram.study_uid or "").strip()
        return self._key("examination", study) if study else None

    def _key(self, kind: str, text: str) -> str:
        # The kind is part of the message: a study never gets the key of a patient.
        return hmac.new(self._secret, f"{kind}:{text}".encode(), "sha256").hexdigest()[:16]


def _create(file: Path) -> None:
    """Make the key file, whole or not at all; leave the one that another process made first.

    The secret is written to a hidden file that nobody else can open, and linked to its name:
    unlike a rename, a link never replaces what is there.
    """
    part = file.parent / f".{file.name}.{secrets.token_hex(4)}.part"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_hex(32).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.link(part, file)
    except FileExistsError:
        pass
    finally:
        part.unlink(missing_ok=True)
