"""Weights as a device holds them, kept on disk, so that they are converted and packed once.

In: a compiled network, a device, its weights. Out: an `Executable`, from what an earlier call has
kept where there is such. Invariant: a key names the content of the weights' files, how the program
stores them and what its load program makes of them; an entry appears whole or not at all
(`program.store`); each tensor's bytes are checked when they are mapped, and a damaged entry is
removed and made again. Only one tensor at a time lies in memory beside the device's.

    executable = open_network(compiled, device, model.weights("unet"))
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sdlc.backends.opencl_loader import cache_folder
from sdlc.graph.types import Array
from sdlc.models.cache import Compiled
from sdlc.models.weights import Entry, Weights
from sdlc.program.device import BuildsAhead, Device
from sdlc.program.execute import NO_FEEDBACK, Executable, texts_of
from sdlc.program.host import give_back
from sdlc.program.load import bound, of_role
from sdlc.program.program import Program, Tensor, TensorRole
from sdlc.program.store import Store, StoreWarning, digest, remove
from sdlc.program.values import stored_shape, unstored

MOST = 32
MOST_BYTES = 24 * 2**30
"""Networks, and bytes, that are kept; the oldest go first."""
SPARE_BYTES = 2**30
"""What is left free on the disk."""
DATA, INDEX = "weights.bin", "index.json"
ALIGNMENT = 64
LARGE_BYTES = 1 << 27
"""Weights beside which no compiler should work."""
PIECE_BYTES = 1 << 22
"""Bytes that lie beside the device's memory at once."""
MOST_DIGESTS = 512


def weight_store() -> Store | None:
    """The user's cache of packed weights; None where there can be none."""
    try:
        return Store(cache_folder("weights"), MOST, MOST_BYTES, (DATA,))
    except OSError:
        return None


def open_network(
    compiled: Compiled,
    device: Device,
    weights: Weights,
    feedback: Mapping[str, str] = NO_FEEDBACK,
) -> Executable:
    """The network on a device with its weights; what is made of them is kept where it can be.

    Raises what `Executable` raises."""
    program, texts = compiled
    store = weight_store()
    key = None if store is None else weights_key(compiled, device, weights)
    if store is None or key is None:
        return Executable(program, device, weights, texts, feedback)
    found = store.get(key)
    _build_ahead(compiled, device, found is not None)
    if found is not None:
        try:
            return Executable(program, device, read_packed(found.place, program), texts, feedback)
        except DamagedError:
            text = f"`{found.place}` was damaged: it is removed and made again"
            warnings.warn(text, StoreWarning, stacklevel=2)
            remove(found.place)
    made = Executable(program, device, weights, texts, feedback)
    files = sorted({str(entry.file) for entry in weights.entries.values()})
    settings = f"{program.name} {program.target} {program.precision.value}"
    about = {"what": f"{files[0]}  {settings}", "command": "generate"}
    _keep(store, key, made, about)
    give_back()
    return made


def _build_ahead(compiled: Compiled, device: Device, prepared: bool) -> None:
    """Has kernels compiled before large weights lie beside the compiler."""
    program, texts = compiled
    if isinstance(device, BuildsAhead) and program.memory.weights > LARGE_BYTES:
        bare = replace(program, load=None) if prepared else program
        device.build_ahead(texts_of(bare, texts))


# ---- what an entry is of -------------------------------------------------------------------------


def weights_key(compiled: Compiled, device: Device, weights: Weights) -> str | None:
    """A name for what is made of the weights; None where one is missing or cannot be read."""
    program = compiled[0]
    made = hashlib.sha256()
    try:
        for part in (*_stored(program), *_loading(compiled, device), *_given(program, weights)):
            made.update(repr(part).encode())
    except (OSError, KeyError):
        return None
    return made.hexdigest()[:32]


def _stored(program: Program) -> Iterator[object]:
    """How each weight is stored."""
    for t in of_role(program, TensorRole.WEIGHT):
        yield t.weight, t.shape, t.dtype, t.order, t.block, t.nbytes


def _loading(compiled: Compiled, device: Device) -> Iterator[object]:
    """What the load program computes, and on what."""
    program, texts = compiled
    load = program.load
    if load is None:
        return
    yield device.info.name, device.info.driver
    names = {dispatch.kernel for dispatch in load.dispatches}
    yield sorted((t.name, t.text) for t in texts if t.name in names)
    for dispatch in load.dispatches:
        yield dispatch.kernel, dispatch.bindings
    for name, array in load.constants.items():
        yield name, array.tobytes()


def _given(program: Program, weights: Weights) -> Iterator[object]:
    """The content of every weight that the program reads."""
    for tensor in program.raw_weights:
        name = tensor.weight
        yield name, _content(weights.entry(name))
        for change in weights.changes.get(name, ()):
            yield change.amount, [_content(entry) for entry in change.sources]


def _content(entry: Entry) -> tuple[object, ...]:
    place = (entry.begin, entry.end, entry.stored, entry.shape, entry.transposed)
    return content_digest(entry.file), *place


def content_digest(file: Path) -> str:
    """The digest of a file's content, remembered for as long as the file does not change."""
    path = file.resolve()
    found = path.stat()
    identity = (str(path), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    folder = cache_folder("digests")
    memo = folder / hashlib.sha256(repr(identity).encode()).hexdigest()
    with suppress(OSError):
        known = memo.read_text("ascii")
        if len(known) == hashlib.sha256().digest_size * 2:
            return known
    made = digest(path)
    part = memo.with_suffix(f".{os.getpid()}.part")
    with suppress(OSError):
        part.write_text(made, "ascii")
        part.replace(memo)
        for old in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime)[:-MOST_DIGESTS]:
            old.unlink(missing_ok=True)
    return made


# ---- entries -------------------------------------------------------------------------------------


class DamagedError(Exception):
    """A kept tensor has not the bytes that were written."""


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of a tensor in an entry's file, and their check sum."""

    begin: int
    nbytes: int
    check: int


@dataclass(frozen=True, slots=True)
class Packed(Mapping[str, Array]):
    """Kept weights by scope path or hoisted name, mapped and checked at each access: views in
    logical axes of what lies in the file in storage order."""

    file: Path
    places: Mapping[str, Place]
    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Array:
        place, tensor = self.places[name], self.tensors[name]
        try:
            pages = np.memmap(self.file, np.uint8, "r", place.begin, (place.nbytes,))
        except (OSError, ValueError) as error:
            raise DamagedError(str(error)) from None
        if zlib.crc32(pages.data) != place.check:
            raise DamagedError(name)
        shape = stored_shape(tensor)
        count = prod(shape) * tensor.dtype.numpy.itemsize
        return unstored(np.asarray(pages)[:count].view(tensor.dtype.numpy).reshape(shape), tensor)

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a tensor as they are stored, a few at a time. Raises DamagedError at the end
        where they are not those that were written."""
        place, check = self.places[name], 0
        try:
            with self.file.open("rb") as stream:
                stream.seek(place.begin)
                for begin in range(0, place.nbytes, PIECE_BYTES):
                    piece = stream.read(min(PIECE_BYTES, place.nbytes - begin))
                    check = zlib.crc32(piece, check)
                    yield piece
        except OSError as error:
            raise DamagedError(str(error)) from None
        if check != place.check:
            raise DamagedError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def read_packed(place: Path, program: Program) -> Packed:
    """What an entry holds for a program. Raises DamagedError where it does not fit."""
    tensors = {t.weight: t for t in of_role(program, TensorRole.WEIGHT)}
    try:
        index = json.loads((place / INDEX).read_text("utf-8"))
        places = {name: Place(*map(int, index[name])) for name in tensors}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(str(error)) from None
    if any(places[name].nbytes != bound(tensor) for name, tensor in tensors.items()):
        raise DamagedError("sizes")
    return Packed(place / DATA, MappingProxyType(places), MappingProxyType(tensors))


def _keep(store: Store, key: str, made: Executable, about: Mapping[str, object]) -> None:
    """Keeps what an executable has on its device; says so where it cannot."""
    total = sum(t.nbytes for t in of_role(made.program, TensorRole.WEIGHT))
    try:
        free = shutil.disk_usage(store.folder).free
        if total > MOST_BYTES or free < total + SPARE_BYTES:
            raise OSError(f"{free:,} bytes are free on the disk")
        store.put(key, lambda place: _write(made, place), about)
    except OSError as error:
        text = f"packed weights ({total:,} bytes) are not kept: {error}"
        warnings.warn(text, StoreWarning, stacklevel=3)


def _write(made: Executable, place: Path) -> None:
    place.mkdir()
    index = {}
    with (place / DATA).open("wb") as stream:
        for tensor in of_role(made.program, TensorRole.WEIGHT):
            at = made.places[tensor.name]
            start, check = stream.tell(), 0
            for begin in range(0, at.nbytes, PIECE_BYTES):
                size = min(PIECE_BYTES, at.nbytes - begin)
                data = made.device.read(at.memory, at.offset + begin, size)
                check = zlib.crc32(data, check)
                stream.write(data)
            index[tensor.weight] = (start, at.nbytes, check)
            if at.nbytes > PIECE_BYTES:
                give_back()
            stream.write(bytes(-stream.tell() % ALIGNMENT))
    (place / INDEX).write_text(json.dumps(index), "utf-8")
