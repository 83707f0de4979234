"""Compiled networks on disk, so that the second picture starts at once.

In: everything that a program depends on. Out: the program and its texts for the device, from the
user's cache or made anew. Invariant: a key changes whenever the compiler, the library, a network,
its configuration, the target or the device does; an entry that is damaged is made again.

    program, texts = kept(key_of(target, device.info, …), device, make, fits)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import sdlc.backends
import sdlc.models
import sdlc.stdlib
from sdlc.backends.opencl_loader import cache_folder
from sdlc.language.diagnostics import SdlError
from sdlc.program.bundle import read_bundle, write_bundle
from sdlc.program.device import Device, DeviceInfo, KernelText
from sdlc.program.program import Program
from sdlc.target import Target

MOST = 48
"""Programs that are kept; the oldest go first."""
SOURCES = (".py", ".sdl", ".toml", ".lark")

Compiled = tuple[Program, tuple[KernelText, ...]]


@cache
def compiler_digest() -> str:
    """A digest of the compiler, the library and the networks as they are installed."""
    digest = hashlib.sha256()
    for name, data in _sources():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _sources() -> Iterator[tuple[str, bytes]]:
    """Every file that says what a network compiles to: its name in its folder, what it holds."""
    folders = (*sdlc.__path__, *sdlc.backends.__path__, *sdlc.models.__path__)
    for folder in dict.fromkeys((*folders, *sdlc.stdlib.__path__)):
        for path in sorted(p for p in Path(folder).rglob("*") if p.suffix in SOURCES):
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def key_of(target: Target, info: DeviceInfo, *parts: object) -> str:
    """A name for what `parts` (which JSON can hold) compile to, for a target on a device."""
    described = json.dumps(parts, sort_keys=True, default=str)
    text = "\n".join((compiler_digest(), repr(target), repr(info), described))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def kept(
    key: str, device: Device, make: Callable[[], Program], fits: Callable[[Program], object]
) -> Compiled:
    """The program `key` and its texts for `device`; what `make` gives is kept where it can be.

    `fits` raises SdlError where a kept program is not for the weights at hand: `make` says why.
    """
    place = _place(key)
    found = None if place is None else _read(place, device)
    if found is not None:
        try:
            fits(found[0])
            return found
        except SdlError:
            place = None  # the entry is sound, and stays for the weights that fit it
    program = make()
    texts = tuple(device.text(kernel) for kernel in program.all_kernels)
    if place is not None:
        with suppress(SdlError, OSError):  # a cache that cannot be written keeps nothing
            write_bundle(program, texts, device.info.caps, place)
            _trim(place.parent)
    return program, texts


def _place(key: str) -> Path | None:
    try:
        return cache_folder("programs") / key
    except OSError:
        return None


def _read(place: Path, device: Device) -> Compiled | None:
    """What was kept; None where there is nothing, or nothing sound (which is removed)."""
    if not place.exists():
        return None
    try:
        bundle = read_bundle(place)
        texts = bundle.texts_for(device.info.caps)
    except (SdlError, OSError):
        _remove(place)
        return None
    with suppress(OSError):
        place.touch()
    return bundle.program, texts


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):
        place.unlink(missing_ok=True)


def _trim(folder: Path) -> None:
    """Removes the programs that were used longest ago."""
    entries = sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in entries[MOST:]:
        _remove(old)
