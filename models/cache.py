"""Compiled networks on disk, so that the second picture starts at once.

In: everything that a program depends on. Out: the program and its texts for the device, from the
user's cache or made anew. Invariant: a key changes whenever the compiler, the library, a network,
its configuration, the target or the device does; an entry that is damaged is made again
(`program.store`).

    program, texts = kept(key_of(target, device.info, …), device, make, fits)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import MappingProxyType

import sdlc.backends
import sdlc.models
import sdlc.stdlib
from sdlc.backends.opencl_loader import cache_folder
from sdlc.language.diagnostics import SdlError
from sdlc.program.bundle import read_bundle, write_bundle
from sdlc.program.device import Device, DeviceInfo, KernelText
from sdlc.program.program import Program
from sdlc.program.store import Store, remove
from sdlc.target import Target

MOST = 48
"""Programs that are kept; the oldest go first."""
SOURCES = (".py", ".sdl", ".toml", ".lark")

NOTHING: Mapping[str, object] = MappingProxyType({})

Compiled = tuple[Program, tuple[KernelText, ...]]


@cache
def compiler_digest() -> str:
    """A digest of the compiler, the library and the networks as they are installed."""
    digest = hashlib.sha256()
    for name, data in _sources():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _sources() -> Iterator[tuple[str, bytes]]:
    """Every file that says what a network compiles to: its name in its folder, what it holds. Of
    an installation by links, too."""
    folders = (*sdlc.__path__, *sdlc.backends.__path__, *sdlc.models.__path__)
    for folder in dict.fromkeys((*folders, *sdlc.stdlib.__path__)):
        places = os.walk(folder, followlinks=True)
        found = (Path(place, name) for place, _, names in places for name in names)
        for path in sorted(p for p in found if p.suffix in SOURCES):
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def digest_of(*parts: object) -> str:
    """A name for what this compiler makes of `parts`, which JSON can hold."""
    described = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(f"{compiler_digest()}\n{described}".encode()).hexdigest()[:32]


def key_of(target: Target, info: DeviceInfo, *parts: object) -> str:
    """A name for what `parts` compile to, for a target on a device."""
    return digest_of(repr(target), repr(info), *parts)


def program_store() -> Store | None:
    """The user's cache of programs; None where there can be none."""
    try:
        return Store(cache_folder("programs"), MOST)
    except OSError:
        return None


def kept(
    key: str,
    device: Device,
    make: Callable[[], Program],
    fits: Callable[[Program], object],
    about: Mapping[str, object] = NOTHING,
) -> Compiled:
    """The program `key` and its texts for `device`; what `make` gives is kept where it can be, with
    what is to be said `about` it.

    `fits` raises SdlError where a kept program is not for the weights at hand: `make` says why.
    """
    store = program_store()
    found = None if store is None else _read(store, key, device)
    if found is not None:
        try:
            fits(found[0])
            return found
        except SdlError:
            store = None  # the entry is sound, and stays for the weights that fit it
    program = make()
    texts = tuple(device.text(kernel) for kernel in program.all_kernels)
    if store is None:
        return program, texts
    with suppress(SdlError, OSError):  # a cache that cannot be written keeps nothing
        caps = device.info.caps
        store.put(key, lambda place: write_bundle(program, texts, caps, place), about)
    # What was kept has no kernels as expressions, which take tens of MiB of a large network.
    return _read(store, key, device) or (program, texts)


def _read(store: Store, key: str, device: Device) -> Compiled | None:
    """What was kept; None where there is nothing, or nothing sound (which is removed)."""
    entry = store.get(key)
    if entry is None:
        return None
    try:
        bundle = read_bundle(entry.place)
        return bundle.program, bundle.texts_for(device.info.caps)
    except (SdlError, OSError):
        remove(entry.place)
        return None
