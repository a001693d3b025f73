"""The versions of the model: kept for ever, one in service, changed over in one step.

    models/ft_mtl_net/0002.safetensors    weights, never changed
    models/ft_mtl_net/0002.json           where they come from and how they were judged
    models/ft_mtl_net/current.json        which version is in service, and what was before
    models/ft_mtl_net/current.copy.json   the same, for the day when that is damaged

Readers look at `current.json` alone; it is replaced in one step, so that nobody ever loads a
half-written file. A version exists from the moment its `.json` is there. Files that are damaged all
the same, by a disk or a hand, are set aside, and the newest publication that is whole serves. A
record that says more than this program knows is of a newer one: it stays where it is.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from ftmtl.atomic import write_json
from ftmtl.digest import sha256_of

from .files import copy_file, set_aside
from .stamps import now

logger = logging.getLogger(__name__)

MODEL = "ft_mtl_net"
POINTER, COPY = "current.json", "current.copy.json"
ASKED = "asked for"  # the reason of a publication: by a person
PASSED = ("better", "not worse")  # the gate's words for what may go into service


class UnknownVersion(LookupError):
    """A version that the registry does not hold; names the ones it does."""


class RefusedVersion(ValueError):
    """A version that the gate has refused; says by which figures."""


class Overtaken(RuntimeError):
    """Another version went into service since the one that a candidate was compared with."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One set of weights. `version` is "1", "2", …; `origin` says who made it."""

    version: str
    file: str
    sha256: str
    origin: str  # "starter" | "given" | "training"
    time: str
    parent: str | None = None
    verdict: str | None = None  # the gate's: "better" | "not worse" | "worse" | "not judged"
    details: dict[str, Any] = field(default_factory=dict)  # figures, settings, counts

    def to_json(self) -> dict[str, Any]:
        """As written to disk and shown in `/info/`."""
        return asdict(self)


class ModelRegistry:
    """The versions in one folder; safe between threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        self._shelf: _Shelf | None = None

    def path(self, version: ModelVersion) -> Path:
        """The weights file of a version."""
        return self.folder / version.file

    def versions(self) -> list[ModelVersion]:
        """All versions, oldest first. Constant-time unless something was added."""
        return list(self._look().versions)

    def get(self, version: str) -> ModelVersion:
        """The version of that name. Raises UnknownVersion."""
        known = {v.version: v for v in self._look().versions}
        if version not in known:
            names = ", ".join(known) or "none"
            raise UnknownVersion(f"There is no version {version!r} of {MODEL}. Versions: {names}")
        return known[version]

    def current(self) -> ModelVersion | None:
        """The version in service; None before the first publication."""
        pointer = self._look().pointer
        return None if pointer is None else self.get(pointer["version"])

    def anchor(self) -> ModelVersion | None:
        """The version than which no candidate may be worse; None where there is no such.

        It is the last that went into service as better, as unjudged on request, because a person
        chose it, or as what the program began with. One that was merely not worse does not take
        its place; one whose weights are gone is passed over.
        """
        known = {v.version: v for v in self.versions() if self.path(v).is_file()}
        for row in reversed(self.publications()):
            version = known.get(row["version"])
            if version and (row["reason"] == ASKED or version.verdict != "not worse"):
                return version
        return None

    def publications(self) -> list[dict[str, Any]]:
        """Which version went into service when, oldest first: {version, time, reason}."""
        pointer = self._look().pointer
        return [] if pointer is None else list(pointer["publications"])

    def add(
        self,
        weights: Path,
        *,
        origin: str,
        parent: str | None = None,
        verdict: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> ModelVersion:
        """Copies a weights file in as a new version; it is not in service yet."""
        with self._lock:
            # Past what was set aside too: its weights are still there.
            stems = (file.name.partition(".")[0] for file in self.folder.iterdir())
            number = 1 + max((int(stem) for stem in stems if stem.isdigit()), default=0)
            file = self.folder / f"{number:04d}.safetensors"
            copy_file(weights, file)
            version = ModelVersion(
                version=str(number),
                file=file.name,
                sha256=sha256_of(file),
                origin=origin,
                time=now(),
                parent=parent,
                verdict=verdict,
                details=details or {},
            )
            write_json(self.folder / f"{number:04d}.json", version.to_json())
        return version

    def bring_back(self, version: str) -> ModelVersion:
        """Takes an earlier version, or a candidate, into service because a person asks for it.

        Raises UnknownVersion, and RefusedVersion for what the gate found worse.
        """
        chosen = self.get(version)
        served = {row["version"] for row in self.publications()}
        if chosen.verdict == "worse" and version not in served:
            gate = chosen.details.get("gate", {})
            outlines = gate.get("outlines") or {}
            raise RefusedVersion(
                f"The gate refused version {version}: its figure is {gate.get('candidate')}, that "
                f"of version {gate.get('against') or gate.get('champion_version')} was "
                f"{gate.get('champion')}"
                + (f"; the mean Dice of its outlines is {outlines['candidate']:.3f}, that was "
                   f"{outlines['champion']:.3f}" if outlines else "")
            )
        return self.publish(version, reason=ASKED)

    def publish(self, version: str, *, reason: str, over: str | None = None) -> ModelVersion:
        """Takes a version into service. Raises UnknownVersion.

        `over` is the version that it was compared with: Overtaken if that is no longer in service.
        """
        with self._lock:
            chosen = self.get(version)
            if not self.path(chosen).is_file():
                raise UnknownVersion(
                    f"The weights of version {version} are gone: {chosen.file}. Restore them from "
                    "the backup"
                )
            current = self.current()
            if over is not None and current is not None and current.version != over:
                raise Overtaken(
                    f"Version {version} was compared with {over}, but now {current.version} is in "
                    "service; it stays a candidate"
                )
            self._point_to(chosen, self.publications(), reason)
        return chosen

    def begin_with(self, weights: Path, *, origin: str) -> ModelVersion:
        """Sees to it that `weights` are known and that something is in service.

        The same weights again change nothing, so that a restart does not undo what training has
        published since. New ones that were given are published; so is a new starter after an older
        one. In the place of a trained version, or of one that a person chose, it waits as a
        candidate: an update of the program does not go past the gate.
        """
        with self._lock:
            for told in self._look().newer:
                logger.warning("%s", told)
            digest = sha256_of(weights)
            known = next((v for v in self.versions() if v.sha256 == digest), None)
            current = self.current()
            is_new = known is None
            known = known or self.add(weights, origin=origin)
            if current is None or (is_new and (origin != "starter" or self._only_starters())):
                current = self.publish(known.version, reason=origin)
            elif is_new:
                logger.warning(
                    "This program's starter weights are new: version %s, a candidate. Version %s, "
                    "which came here by training or by choice, stays in service. Try the new one "
                    "with POST /versions/%s/%s",
                    known.version, current.version, MODEL, known.version,
                )  # fmt: skip
            if not (self.folder / COPY).exists():
                write_json(self.folder / COPY, self._look().pointer)
            return current

    def _only_starters(self) -> bool:
        """Whether what is in service came with a program, and nobody chose it."""
        latest = self.publications()[-1]
        return latest["reason"] != ASKED and self.get(latest["version"]).origin == "starter"

    def _point_to(
        self, version: ModelVersion, before: list[dict[str, Any]], reason: str
    ) -> None:
        publication = {"version": version.version, "time": now(), "reason": reason}
        pointer = {
            "version": version.version,
            "file": version.file,
            "sha256": version.sha256,
            "publications": [*before, publication],
        }
        for name in (POINTER, COPY):
            write_json(self.folder / name, pointer)

    def _look(self) -> _Shelf:
        # A new version or pointer comes by a rename, which changes the folder's own time. That
        # clock ticks slowly: what was changed just now is not trusted to show the next change.
        changed = self.folder.stat().st_mtime_ns
        shelf = self._shelf
        if shelf is None or shelf.changed != changed:
            shelf = _Shelf.read(self.folder, changed)
            if not shelf.is_whole:
                shelf = self._mended()
            self._shelf = shelf if time.time_ns() - shelf.changed > 100_000_000 else None
        return shelf

    def _mended(self) -> _Shelf:
        """What is there, once a version is in service again."""
        with self._lock:
            shelf = _Shelf.read(self.folder, self.folder.stat().st_mtime_ns)
            if shelf.is_whole:
                return shelf  # another process was quicker
            pointer = self.folder / POINTER
            if shelf.pointer is not None:
                reason = f"version {shelf.pointer['version']} of {POINTER} is not there whole"
                history = shelf.pointer["publications"]
            else:
                reason = f"{POINTER} was damaged or gone"
                if pointer.exists():
                    set_aside(pointer, ValueError("it does not say what is in service"))
                history = (_pointer(self.folder / COPY) or {"publications": []})["publications"]
            known = {v.version: v for v in shelf.versions if self.path(v).is_file()}
            served = [known[row["version"]] for row in history if row["version"] in known]
            # Without any history the gate's word counts, and a person's more than the program's.
            passed = [v for v in known.values() if v.origin != "training" or v.verdict in PASSED]
            passed.sort(key=lambda v: (v.origin != "starter", int(v.version)))
            if whole := served or passed:
                self._point_to(whole[-1], history, reason)
                logger.error(
                    "%s in %s: version %s is in service instead. Restore the folder from the "
                    "backup, or choose another with POST /versions/%s/VERSION",
                    reason, self.folder, whole[-1].version, MODEL,
                )  # fmt: skip
            else:
                for file in (pointer, self.folder / COPY):
                    if file.exists():
                        set_aside(file, ValueError(reason))
            return _Shelf.read(self.folder, self.folder.stat().st_mtime_ns)


@dataclass(frozen=True)
class _Shelf:
    changed: int
    versions: list[ModelVersion]
    pointer: dict[str, Any] | None  # None also where it is damaged
    is_whole: bool  # the pointer, if there ever was one, names a version that can be loaded
    newer: list[str]  # of each record that a newer program wrote: what becomes of it

    @classmethod
    def read(cls, folder: Path, changed: int) -> _Shelf:
        versions, newer = [], []
        for file in sorted(folder.glob("[0-9]*.json")):
            unknown: list[str] = []
            try:
                row = dict(json.loads(file.read_text("utf-8")))
                unknown = sorted(set(row) - set(ModelVersion.__dataclass_fields__))
                version = ModelVersion(**{k: v for k, v in row.items() if k not in unknown})
                if int(version.version) != int(file.stem):
                    raise ValueError(f"it tells of version {version.version}")
                versions.append(version)
                use = "What this program knows of it counts"
            except (ValueError, TypeError) as error:
                if not unknown:
                    set_aside(file, error)
                use = f"This program cannot use it ({error})"
            if unknown:
                newer.append(
                    f"{file.name} was written by a newer program: it also tells of "
                    f"{', '.join(unknown)}. {use}; it stays as it is"
                )
        versions.sort(key=lambda v: int(v.version))
        pointer = _pointer(folder / POINTER)
        if pointer is None:
            is_whole = not (folder / POINTER).exists() and not (folder / COPY).exists()
        else:
            named = (v.file for v in versions if v.version == pointer["version"])
            is_whole = any((folder / file).is_file() for file in named)
        return cls(changed, versions, pointer, is_whole, newer)


def _pointer(file: Path) -> dict[str, Any] | None:
    """What is in service and what was before; None where a file does not say so."""
    try:
        pointer: dict[str, Any] = json.loads(file.read_text("utf-8"))
        for row in (pointer, *pointer["publications"]):
            int(row["version"])
        return pointer
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
