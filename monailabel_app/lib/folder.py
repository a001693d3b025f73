"""Mammograms in a folder, nested and named as they come. The folder is only read."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftmtl.mammogram import UnreadableMammogram, may_be_mammogram

from .catalogue import Entry, image_suffix

NOT_IMAGES = (".seg.nrrd", ".json", ".txt", ".csv", ".xml", ".md", ".pdf", ".html", ".zip")
LINK = "it is a link to a folder, and links are not followed. Put the folder itself here"
GONE = "the folder of the studies is not there. Check the disk or the network share that it is on"

# file, root -> what is known of the image; raises UnreadableMammogram and OSError
Describe = Callable[[Path, Path], dict[str, Any]]


class Folder:
    """The images below `top`, but not below the folders `apart`."""

    def __init__(
        self, name: str, top: Path, describe: Describe, *, apart: Collection[Path] = ()
    ) -> None:
        self.name, self.top = name, top
        self._describe = describe
        self._apart = {folder.resolve() for folder in apart}

    def look(self, known: Mapping[str, Entry]) -> Iterator[Entry]:
        """Every file that may be an image; headers are read of those that are not `known`.

        What is passed over and may hold images, such as a folder of another user, is an entry too.
        """
        for path, found in self._walk(known):
            entry = known.get(path)
            if isinstance(found, str):
                passed_over = Entry(path=path, root=self.name, changed=0, size=0, problem=found)
                entry = entry if entry == passed_over else passed_over
            elif entry is None or not entry.describes(found):
                entry = self._examine(path, found)
            yield entry

    def fetch(self, entry: Entry) -> Path:
        """Where an entry's file lies."""
        return self.top / entry.path

    def withheld(self, entry: Entry) -> str | None:
        """Why an image cannot be had now: None, since it lies here."""
        return None

    def _walk(self, known: Mapping[str, Entry]) -> Iterator[tuple[str, os.stat_result | str]]:
        """Path below `top`, with "/", and stat, or why it is passed over; in order."""
        folders = [""]
        while folders:
            below = folders.pop()
            try:
                with os.scandir(self.top / below) as listing:
                    found = sorted(listing, key=lambda item: item.name)
            except (FileNotFoundError, NotADirectoryError):
                if not below:
                    yield ".", GONE
                continue  # it went away while we looked
            except OSError as error:
                yield below.rstrip("/") or ".", _unreadable(error)
                continue
            deeper = []
            for item in found:
                path = below + item.name
                try:
                    if item.is_dir(follow_symlinks=False):
                        if not item.name.startswith(".") and not self._is_apart(item):
                            deeper.append(path + "/")
                    elif item.is_file() and (_was_read(known.get(path)) or _may_be_image(item)):
                        yield path, item.stat()
                    elif item.is_symlink() and item.is_dir() and not item.name.startswith("."):
                        yield path, LINK
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield path, _unreadable(error)
            folders += reversed(deeper)

    def _is_apart(self, item: os.DirEntry[str]) -> bool:
        return bool(self._apart) and Path(item.path).resolve() in self._apart

    def _examine(self, path: str, stat: os.stat_result) -> Entry:
        entry = Entry(path=path, root=self.name, changed=stat.st_mtime_ns, size=stat.st_size)
        try:
            image = self._describe(self.top / path, self.top)
            image["id"].encode()
        except UnreadableMammogram as error:
            return replace(entry, problem=f"{error.reason}. {error.remedy}")
        except OSError as error:
            return replace(entry, problem=_unreadable(error))
        except UnicodeEncodeError:
            return replace(entry, problem="its name is not UTF-8. Rename it")
        return replace(entry, image_id=image["id"], image=image)


def _was_read(entry: Entry | None) -> bool:
    return entry is not None and entry.changed != 0


def _unreadable(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "it may not be read by this user. Change its permissions"
    return f"it cannot be read ({error.strerror}). Check the disk"


def _may_be_image(item: os.DirEntry[str]) -> bool:
    name = item.name.lower()
    if name.startswith(".") or name == "dicomdir" or name.endswith(NOT_IMAGES):
        return False
    if image_suffix(name):
        return True
    # Exports of a PACS often have no suffix, or a name made of dots.
    with open(item.path, "rb") as stream:
        return may_be_mammogram(stream)
