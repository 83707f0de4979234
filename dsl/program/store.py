"""Folders kept on disk under keys, for what takes long to make.

In: a key that names content, a function that fills a folder. Out: the folder, later and in other
processes. Invariant: an entry appears whole or not at all, whoever writes at the same time or is
interrupted; what is found has the bytes that were written: a damaged entry is removed with one
warning (`StoreWarning`) and counts as missing. The entries used longest ago go first.

    store = Store(folder, most=48)
    store.put("key", lambda place: write_bundle(…, place), {"what": "unet.sdl for cpu"})
    store.get("key").about["what"]
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABOUT = "kept.json"
"""Stands in each entry: what is said of it, and the digest of every file."""
STALE_SECONDS = 3600
"""A part that an interrupted writer left is this old before somebody else removes it."""


TRIES = 10


class StoreWarning(UserWarning):
    """An entry was damaged."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry that was found: its folder and what was said of it."""

    place: Path
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as a list shows it; `used` is in seconds since the epoch."""

    key: str
    about: Mapping[str, Any]
    nbytes: int
    used: float


@dataclass(frozen=True, slots=True)
class Store:
    """At most `most` entries, of `most_bytes` together (None: of any size), in a folder that
    exists. Of files with a name in `checked_by_readers` only the size is looked at here."""

    folder: Path
    most: int
    most_bytes: int | None = None
    checked_by_readers: tuple[str, ...] = ()

    def get(self, key: str) -> Kept | None:
        """What was put under `key`. Whoever finds it has used it."""
        place = self.folder / key
        for _ in range(TRIES):
            before = _identity(place)
            about = None if before is None else _sound(place, self.checked_by_readers)
            if about is not None:
                with suppress(OSError):
                    os.utime(place)
                return Kept(place, about)
            if before is None:
                break
            if _identity(place) == before:
                text = f"`{place}` was damaged: it is removed and made again"
                warnings.warn(text, StoreWarning, stacklevel=2)
                remove(place)
                break
            # Another process exchanged the entry for its own meanwhile: look again.
        return None

    def put(self, key: str, fill: Callable[[Path], object], about: Mapping[str, Any]) -> None:
        """Makes the entry `key` of what `fill` writes into a folder that is not there yet. A sound
        entry of the same key stays: keys name content, and others may be reading it.

        Raises OSError, or what `fill` raises; then there is no entry."""
        part = self.folder / f".{key}.{os.getpid()}.{secrets.token_hex(4)}.part"
        try:
            fill(part)
            said = _described(part, about, self.checked_by_readers)
            (part / ABOUT).write_text(said, "utf-8")
            _exchange(part, self.folder / key, self.checked_by_readers)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self.trim()

    def entries(self) -> list[Entry]:
        """All entries, the one used last first."""
        found = [e for e in map(_entry, self._places()) if e is not None]
        return sorted(found, key=lambda e: e.used, reverse=True)

    def trim(self) -> None:
        """Removes what is too much, and what interrupted writers left."""
        room = self.most_bytes
        for number, entry in enumerate(self.entries()):
            room = None if room is None else room - entry.nbytes
            if number >= self.most or (room is not None and room < 0):
                remove(self.folder / entry.key)
        for part in self.folder.glob(".*.part*"):
            used = _used(part)
            if used is not None and time.time() - used > STALE_SECONDS:
                remove(part)

    def clear(self, unused_seconds: float = 0.0) -> int:
        """Removes the entries that nobody has used for so long; gives their number."""
        last = time.time() - unused_seconds
        old = [e for e in self.entries() if unused_seconds == 0 or e.used < last]
        for entry in old:
            remove(self.folder / entry.key)
        return len(old)

    def _places(self) -> Iterator[Path]:
        with suppress(OSError):
            yield from (p for p in self.folder.iterdir() if not p.name.startswith("."))


def remove(place: Path) -> None:
    """Removes a folder or a file, at once for whoever looks for it."""
    gone = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    with suppress(OSError):
        place.rename(gone)
        if gone.is_dir():
            shutil.rmtree(gone, ignore_errors=True)
        else:
            gone.unlink(missing_ok=True)


def _exchange(part: Path, place: Path, by_size: Collection[str]) -> None:
    """Puts `part` where `place` is, unless a sound entry is there: another process has made it
    meanwhile, and who has found it still reads it."""
    for attempt in range(TRIES):
        try:
            part.rename(place)
        except OSError:
            if _sound(place, by_size) is not None:
                return
            if attempt == TRIES - 1:
                raise
            remove(place)
        else:
            return


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(place: Path, by_size: Collection[str]) -> dict[str, str]:
    """The digest of every file but the description, or its size, by its path in the entry."""
    paths = sorted(p for p in place.rglob("*") if not p.is_dir())
    named = ((p.relative_to(place).as_posix(), p) for p in paths)
    return {
        name: f"{path.stat().st_size} bytes" if name in by_size else digest(path)
        for name, path in named
        if name != ABOUT
    }


def _described(place: Path, about: Mapping[str, Any], by_size: Collection[str]) -> str:
    said = {"about": dict(about), "files": _files(place, by_size)}
    return json.dumps({**said, "digest": _digest_of(said)})


def _digest_of(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _sound(place: Path, by_size: Collection[str]) -> Mapping[str, Any] | None:
    """What an entry says of itself, where it is as it was written."""
    try:
        held = json.loads((place / ABOUT).read_bytes())
        said = {"about": held["about"], "files": held["files"]}
        if held["digest"] != _digest_of(said) or _files(place, by_size) != held["files"]:
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    about: Mapping[str, Any] = held["about"]
    return about


def _entry(place: Path) -> Entry | None:
    """An entry for a list, sound or not."""
    used = _used(place)
    if used is None:
        return None
    about: Mapping[str, Any] = {}
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        about = dict(json.loads((place / ABOUT).read_bytes())["about"])
    nbytes = 0
    with suppress(OSError):  # another process may remove it meanwhile
        for path in (place, *place.rglob("*")):
            nbytes += path.stat().st_size if path.is_file() else 0
    return Entry(place.name, about, nbytes, used)


def _identity(place: Path) -> tuple[int, int] | None:
    """What tells an entry from the next one under its key; None where there is none."""
    try:
        found = place.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _used(place: Path) -> float | None:
    try:
        return place.lstat().st_mtime
    except OSError:
        return None
