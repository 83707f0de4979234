"""Weights from safetensors files, mapped into memory when they are asked for.

In: a file, or a folder that holds one file, or shards and their index. Out: a mapping from tensor
names to arrays (f16, f32, i32; bf16 and f64 come as f32). Invariant: a name never becomes a path;
an array that is handed out is finite, and its pages are given back with it, so that of a large file
only what is in use takes memory. Errors: SdlError with a code W….

    load_weights(folder / "unet")["conv_in.weight"].shape
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from sdlc.graph.node import Graph, Input, Role, topological
from sdlc.graph.types import Array
from sdlc.language.diagnostics import Diagnostic, SdlError, failure

MAX_NAME = 512
MAX_HEADER = 100_000_000
PIECE = 2**20
PREFERRED = ("model.safetensors", "diffusion_pytorch_model.safetensors")

_STORED: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {
        "F64": np.dtype("<f8"),
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype("<u2"),
        "I64": np.dtype("<i8"),
        "I32": np.dtype("<i4"),
    }
)

OLD_NAMES = MappingProxyType(
    {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
)
"""What diffusers called the projections of `AutoencoderKL`'s attention before 0.15."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: bytes `begin` to `end` of `file`, row-major; what is handed out is its
    transpose where `transposed`."""

    file: Path
    stored: str
    shape: tuple[int, ...]
    begin: int
    end: int
    transposed: bool = False

    @property
    def given(self) -> tuple[int, ...]:
        """The shape that is handed out."""
        return self.shape[::-1] if self.transposed else self.shape

    def part(self, number: int, count: int) -> Entry:
        """One of `count` equal parts along the first axis."""
        each = (self.end - self.begin) // count
        begin = self.begin + number * each
        shape = (self.shape[0] // count, *self.shape[1:])
        return replace(self, shape=shape, begin=begin, end=begin + each)


class Change(Protocol):
    """What becomes of a weight when it is read: `amount` times something made of `sources`."""

    @property
    def sources(self) -> tuple[Entry, ...]: ...

    @property
    def amount(self) -> float: ...

    def apply(self, name: str, array: Array) -> Array: ...


@dataclass(frozen=True, slots=True)
class Weights(Mapping[str, Array]):
    """The tensors of one or more files. An array is mapped, widened, checked and changed at each
    access."""

    entries: Mapping[str, Entry]
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        array = read_entry(name, self.entry(name))
        for change in self.changes.get(name, ()):
            array = change.apply(name, array)
        return array

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.entries or old_name(name) in self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        return self.entry(name).given

    def entry(self, name: str) -> Entry:
        """Where a tensor lies, under its name or its old one."""
        return self.entries.get(name) or self.entries[old_name(name)]


def old_name(name: str) -> str:
    """The name of a weight in files of the first diffusers releases, or `name` itself."""
    if ".attentions." in name:
        for new, old in OLD_NAMES.items():
            name = name.replace(f".{new}.", f".{old}.")
    return name


def load_weights(path: Path | str) -> Weights:
    """The weights in a safetensors file or in a folder of such files.

    Raises SdlError if there are none, if a file is damaged, or if a name is given twice.
    """
    entries: dict[str, Entry] = {}
    for file in weight_files(Path(path)):
        for name, entry in read_header(file).entries.items():
            if name in entries:
                raise failure(
                    "W004",
                    f"tensor `{name}` is in {entries[name].file.name} and in {file.name}",
                    help="keep one of the two files",
                )
            entries[name] = entry
    return Weights(MappingProxyType(entries))


def weight_files(path: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder: the shards of its index, else the usual name, else the
    only one. A file stands for itself."""
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise failure(
            "W001", f"no weights at {path}", help="give a .safetensors file or its folder"
        )
    indices = sorted(path.glob("*.safetensors.index.json"))
    if indices:
        return _shards(indices[0])
    for usual in PREFERRED:
        if (path / usual).is_file():
            return (path / usual,)
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return (found[0],)
    if found:
        names = ", ".join(f.name for f in found)
        raise failure("W001", f"several weight files in {path}: {names}", help="keep one of them")
    if any(path.glob("*.bin")) or any(path.glob("*.ckpt")):
        help = (
            "convert the weights: pickled .bin and .ckpt files can run code, so they are not read"
        )
        raise failure("W001", f"no .safetensors file in {path}", help=help)
    help = f"a part of a diffusers folder holds {' or '.join(PREFERRED)}"
    raise failure("W001", f"no .safetensors file in {path}", help=help)


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise failure(
            "W002", f"{index} is not a weight index: {error}", help="download it again"
        ) from None
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise failure(
                "W001", f"{index.name} names a missing shard `{name}`", help="download it as well"
            )
    return tuple(index.parent / name for name in names)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself: its tensors, and notes of whoever wrote it."""

    entries: Mapping[str, Entry]
    notes: Mapping[str, str]


def read_header(file: Path) -> Header:
    """The header of a safetensors file, checked: every tensor lies inside the file and has the
    bytes that its type and shape take. Raises SdlError (W002, W003)."""
    try:
        with safe_open(str(file), framework="np"):  # the library checks offsets and sizes
            pass
        start, header = _header(file)
        notes = header.pop("__metadata__", None) or {}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from None
    entries = {}
    for name, fields in header.items():
        _check_name(name, file)
        begin, end = fields["data_offsets"]
        shape = tuple(int(n) for n in fields["shape"])
        entries[name] = Entry(file, str(fields["dtype"]), shape, start + begin, start + end)
    return Header(entries, {str(key): str(value) for key, value in notes.items()})


def _header(file: Path) -> tuple[int, dict[str, dict[str, list[int]]]]:
    """Where the data begin, and the header as it is written, duplicate names refused."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > MAX_HEADER:
            raise ValueError("the header is too long")
        return 8 + length, json.loads(stream.read(length), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name `{twice[:80]}` is given twice")
    return result


def _damaged(file: Path, reason: str) -> SdlError:
    return failure(
        "W002", f"{file} is not a sound safetensors file: {reason}", help="download it again"
    )


def _check_name(name: str, file: Path) -> None:
    strange = not name or len(name) > MAX_NAME or not name.isprintable()
    if strange or any(part in name for part in ("/", "\\", "..")):
        shown = name[:80].encode("unicode_escape").decode("ascii")
        help = "names are dotted words; this file was not written by a training library"
        raise failure("W003", f"{file.name} holds a tensor with the name `{shown}`", help=help)


def read_entry(name: str, entry: Entry) -> Array:
    """A tensor, widened to a type that NumPy has. Raises SdlError: W002 the file has changed, W005
    an unknown type, W006 values that are not finite."""
    if entry.stored not in _STORED:
        known = ", ".join(_STORED)
        raise failure(
            "W005", f"tensor `{name}` has the type {entry.stored}", help=f"known types are {known}"
        )
    stored = _STORED[entry.stored]
    try:
        array = _widen(entry.stored, _mapped(entry, stored)).reshape(entry.shape)
    except ValueError as error:  # more axes, or longer ones, than an array can have
        raise _damaged(entry.file, f"`{name}`: {error}") from None
    array = array.T if entry.transposed else array
    bad = _not_finite(array) if array.dtype.kind == "f" else 0
    if bad:
        help = f"{entry.file.name} is damaged, or training diverged; use another file"
        message = f"tensor `{name}` holds {bad} values that are infinite or not a number"
        raise failure("W006", message, help=help)
    return array


def _not_finite(array: Array) -> int:
    """How many values are infinite or not a number, without a mask of a large weight's size."""
    flat = array.ravel("K")
    pieces = (flat[i : i + PIECE] for i in range(0, flat.size, PIECE))
    return sum(piece.size - int(np.count_nonzero(np.isfinite(piece))) for piece in pieces)


def _mapped(entry: Entry, stored: np.dtype[np.generic]) -> Array:
    """The elements of an entry, one after the other, as pages of its file."""
    count = (entry.end - entry.begin) // stored.itemsize
    if count == 0:
        return np.zeros(0, stored)
    try:
        pages = np.memmap(entry.file, np.uint8, "r", entry.begin, (entry.end - entry.begin,))
    except (OSError, ValueError) as error:
        raise _damaged(entry.file, f"it has changed: {error}") from None
    return np.asarray(pages).view(stored)


def _widen(stored: str, raw: Array) -> Array:
    match stored:
        case "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        case "F64":
            return raw.astype(np.float32)
        case "I64":
            return raw.astype(np.int32)
        case _:
            return raw


def check_weights(graph: Graph, weights: Weights, sources: Mapping[str, str], place: str) -> None:
    """Raises one SdlError for every weight of the graph that is missing or mis-shaped: its name,
    both shapes and the `.sdl` line that declares it. `place` names the folder for the reader."""
    problems = []
    for node in topological(graph):
        if isinstance(node, Input) and node.role is Role.WEIGHT:
            if node.name not in weights:
                problems.append(_missing(node, weights, place))
            elif weights.shape(node.name) != node.shape:
                problems.append(_misshapen(node, weights.shape(node.name), place))
    if problems:
        raise SdlError(tuple(problems[:8]), sources)


def _missing(node: Input, weights: Weights, place: str) -> Diagnostic:
    tail = node.name.rsplit(".", 2)[-2:]
    alike = sorted(n for n in weights if n.split(".")[-2:] == tail)[:2]
    help = (
        f"similar names there: {', '.join(alike)}" if alike else "is this another model's folder?"
    )
    return Diagnostic(
        "W007",
        f"weight `{node.name}` is missing in {place}",
        node.origin.span,
        f"declared with shape {list(node.shape)}",
        help=help,
    )


def _misshapen(node: Input, given: tuple[int, ...], place: str) -> Diagnostic:
    return Diagnostic(
        "W008",
        f"weight `{node.name}` has shape {list(given)} in {place}, not {list(node.shape)}",
        node.origin.span,
        f"declared with shape {list(node.shape)}",
        help="config.json and the weights must be of one model",
    )
