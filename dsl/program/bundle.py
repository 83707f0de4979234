"""Bundles: a compiled program as a folder that can be shipped.

In: a `Program`, its kernels' texts, perhaps weights. Out: a folder with `manifest.json`, `kernels/`
and safetensors files (docs/bundle.md), or what such a folder holds. Invariant: a folder appears
whole or not at all; what `read_bundle` returns has passed every check, so it can be run blindly.

    write_bundle(program, texts, target.caps, Path("softmax-adreno"))
    bundle = read_bundle(Path("softmax-adreno"))
    executable = bundle.executable(device, weights)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from sdlc.graph.types import Array
from sdlc.language.diagnostics import SdlError, failure
from sdlc.program.bundle_manifest import (
    Manifest,
    contradictions,
    lacks,
    manifest_of,
    manifest_text,
    program_of,
    text_of,
)
from sdlc.program.bundle_schema import FORMAT, MANIFEST, VERSION, faults
from sdlc.program.device import Device, KernelText
from sdlc.program.execute import Executable
from sdlc.program.load import fitting, is_prepared, of_role
from sdlc.program.program import Program, Tensor, TensorRole
from sdlc.program.values import stored, stored_shape, unstored
from sdlc.target import Capabilities

EXTENSIONS = MappingProxyType({"opencl": "cl", "wgsl": "wgsl"})
AGAIN = "the bundle is damaged or was edited: write it again with `sdlc compile`"
NO_WEIGHTS: Mapping[str, Array] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was read: `program` has no kernel IR; `texts` are by language; `packed` are the
    weights in the folder, None where it has none."""

    program: Program
    texts: dict[str, tuple[KernelText, ...]]
    requires: Mapping[str, Any]
    packed: Mapping[str, Array] | None = field(default=None)

    def texts_for(self, caps: Capabilities) -> tuple[KernelText, ...]:
        """The texts in the first language that the device speaks.

        Raises SdlError (B006) where it speaks none of them, or cannot do what the kernels need."""
        speaks = [language for language in caps.languages if language in self.texts]
        if not speaks:
            has, wants = ", ".join(self.texts), ", ".join(caps.languages)
            message = f"bundle `{self.program.name}` holds {has} kernels; the device takes {wants}"
            help = "choose another device (--device), or compile for a target with that language"
            raise failure("B006", message, help)
        missing = tuple(lacks(self.requires, caps))
        if missing:
            message = f"the device cannot run bundle `{self.program.name}`"
            help = "choose another device (--device), or compile for a target with less"
            raise failure("B006", message, help, missing)
        return self.texts[speaks[0]]

    def executable(
        self,
        device: Device,
        weights: Mapping[str, Array] | None = None,
        feedback: Mapping[str, str] = MappingProxyType({}),
    ) -> Executable:
        """The bundle on a device; `weights` default to the packed ones."""
        held = NO_WEIGHTS if self.packed is None else self.packed
        texts = self.texts_for(device.info.caps)
        return Executable(
            self.program, device, held if weights is None else weights, texts, feedback
        )


# ---- writing -------------------------------------------------------------------------------------


def write_bundle(
    program: Program,
    texts: Sequence[KernelText],
    caps: Capabilities,
    directory: Path,
    weights: Mapping[str, Array] | None = None,
) -> Path:
    """Writes `program` to `directory`, which becomes whole or stays as it was.

    `texts` are its kernels in every language of the target, `caps` the target's; `weights`, where
    given, are packed into the bundle as the kernels want them. Replaces an older bundle. Raises
    SdlError: B001 `directory` is something else or cannot be written; P001, P002 for the weights.
    """

    def fill(part: Path) -> None:
        _write_all(program, texts, caps, part, _fitted(program, weights))

    return _appears(directory, fill)


def copy_bundle(source: Path, directory: Path, weights: Mapping[str, Array] | None = None) -> Path:
    """Writes what `write_bundle` would write for the program of the bundle `source`, which has no
    weights. Raises SdlError: what `write_bundle` raises, and what `read_bundle` says of `source`.
    """

    def fill(part: Path) -> None:
        manifest = _copy_files(source, part)
        if weights is not None:
            program = read_bundle(source).program
            _write_packed(part, program, _fitted(program, weights), manifest)

    return _appears(directory, fill)


def _fitted(program: Program, weights: Mapping[str, Array] | None) -> dict[str, Array] | None:
    return None if weights is None else {t.weight: a for t, a in fitting(program, weights)}


def _copy_files(source: Path, part: Path) -> Manifest:
    """Copies what the manifest names, and gives the manifest."""
    manifest = _manifest(source)
    (part / "kernels").mkdir(parents=True)
    records = [*manifest["kernels"], manifest, manifest.get("load", {})]
    named = [r["file"] for r in records if "file" in r]
    named += [r[kind]["file"] for r in records for kind in ("constants", "weights") if kind in r]
    for name in (*named, MANIFEST):
        shutil.copyfile(source / name, part / name)
    return manifest


def _appears(directory: Path, fill: Callable[[Path], object]) -> Path:
    """A folder that `fill` writes, under its name only when it is complete."""
    check_place(directory)
    directory = directory.resolve()
    part = directory.parent / f".{directory.name}.{os.getpid()}.part"
    try:
        fill(part)
        _exchange(part, directory)
    except OSError as error:
        message = f"cannot write the bundle `{directory}`: {error.strerror or error}"
        raise failure("B001", message, help="choose a directory that you can write to") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return directory


def check_place(directory: Path) -> None:
    """Raises SdlError (B001) where a bundle could not be written, or would overwrite something."""
    if directory.name in ("", ".."):
        raise failure(
            "B001", f"`{directory}` has no name of its own", help="choose a new directory"
        )
    file = next((p for p in directory.absolute().parents if p.is_file()), None)
    if file is not None:
        message = f"cannot write the bundle `{directory}`: `{file}` is a file"
        raise failure("B001", message, help="choose another directory with -o")
    if not directory.exists() or is_bundle(directory):
        return
    if not directory.is_dir():
        raise failure("B001", f"`{directory}` is a file", help="choose another directory with -o")
    if any(directory.iterdir()):
        message = f"`{directory}` holds other files and is no bundle: it is left alone"
        raise failure("B001", message, help="choose another directory with -o, or empty this one")


def is_bundle(directory: Path) -> bool:
    """Whether a folder holds a manifest of ours (valid or not)."""
    try:
        head = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(head, dict) and head.get("format") == FORMAT


def _write_all(
    program: Program,
    texts: Sequence[KernelText],
    caps: Capabilities,
    part: Path,
    weights: Mapping[str, Array] | None,
) -> None:
    (part / "kernels").mkdir(parents=True)
    files = [
        (name, _write_file(part / name, text.text.encode()))
        for name, text in zip(file_names(texts), texts, strict=True)
    ]
    manifest = manifest_of(program, texts, files, caps, version("sdlc"))
    _write_packed(part, program, weights, manifest)


def _write_packed(
    part: Path, program: Program, weights: Mapping[str, Array] | None, manifest: Manifest
) -> None:
    """Writes constants, weights and the manifest, which then names them."""
    _write_data(part, "", program, weights, manifest)
    if program.load is not None:
        raw = None if is_prepared(program, weights or {}) else weights
        _write_data(part, "load_", program.load, raw, manifest["load"])
    problems = [*faults(manifest), *contradictions(manifest)]
    assert not problems, problems  # a defect of the compiler: never shipped
    _write_file(part / MANIFEST, manifest_text(manifest).encode())


def file_names(texts: Sequence[KernelText]) -> list[str]:
    """A file for each text: the kernel's name with every other character replaced, unique."""
    made: list[str] = []
    for text in texts:
        stem = re.sub(r"[^A-Za-z0-9_-]", "_", text.name) or "kernel"
        extension = EXTENSIONS.get(text.language, "txt")
        name, number = f"kernels/k_{stem}.{extension}", 1
        while name.lower() in (m.lower() for m in made):
            number += 1
            name = f"kernels/k_{stem}-{number}.{extension}"
        made.append(name)
    return made


def _write_file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _write_data(
    part: Path,
    prefix: str,
    program: Program,
    weights: Mapping[str, Array] | None,
    record: Manifest,
) -> None:
    """Writes constants, and weights where there are some, and notes the files in `record`."""
    constants = of_role(program, TensorRole.CONSTANT)
    if constants:
        path = part / f"{prefix}constants.safetensors"
        record["constants"] = _write_tensors(path, constants, program.constants)
    if weights is not None:
        # What a load program will compute is not there, unless it was computed before.
        given = [t for t in of_role(program, TensorRole.WEIGHT) if t.weight in weights]
        path = part / f"{prefix}weights.safetensors"
        record["weights"] = _write_tensors(path, given, weights)


def _write_tensors(
    path: Path, tensors: Sequence[Tensor], arrays: Mapping[str, Array]
) -> dict[str, str]:
    from safetensors.numpy import save_file

    save_file({t.name: stored(_shaped(arrays, t), t) for t in tensors}, path)
    return {"file": path.name, "digest": _digest(path)}


def _shaped(arrays: Mapping[str, Array], tensor: Tensor) -> Array:
    return np.asarray(arrays[tensor.weight or tensor.name]).reshape(tensor.shape)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _exchange(part: Path, directory: Path) -> None:
    """Puts `part` where `directory` is; on failure the old one is back in its place."""
    old = part.with_suffix(".old")
    had = directory.exists()
    if had:
        directory.rename(old)
    try:
        part.rename(directory)
    except BaseException:
        if had:
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


# ---- reading -------------------------------------------------------------------------------------


def read_bundle(directory: Path) -> Bundle:
    """A checked bundle. Raises SdlError: B002 no bundle, or of another version; B003 a manifest of
    the wrong form; B004 one that contradicts itself; B005 a file that is missing or changed."""
    directory = Path(directory)
    manifest = _manifest(directory)
    program = program_of(manifest)
    texts: dict[str, list[KernelText]] = {}
    for record in manifest["kernels"]:
        source = _checked_file(directory, record["file"], record["digest"])
        try:
            text = text_of(record, source.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise failure("B005", f"`{source}` is no UTF-8 text", help=AGAIN) from error
        texts.setdefault(record["language"], []).append(text)
    packed = _packed(directory, manifest, program)
    return Bundle(
        program=_with_constants(directory, manifest, program),
        texts={language: tuple(each) for language, each in texts.items()},
        requires=manifest["requires"],
        packed=packed,
    )


def _manifest(directory: Path) -> Manifest:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except OSError as error:
        message = f"`{directory}` is no bundle: {MANIFEST} cannot be read ({error.strerror})"
        raise failure("B002", message, help="`sdlc compile FILE -o DIR` makes one") from error
    except (ValueError, RecursionError) as error:
        raise failure("B003", f"`{path}` is not JSON: {error}", help=AGAIN) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        help = "`sdlc compile FILE -o DIR` makes one"
        raise failure("B002", f"`{path}` is not the manifest of a bundle", help)
    if manifest.get("version") != VERSION:
        message = f"`{directory}` has format version {manifest.get('version')!r}, not {VERSION}"
        help = f"it was made by sdlc {manifest.get('compiler')}: use that one, or compile again"
        raise failure("B002", message, help)
    _refuse(path, "B003", "does not have the form of a manifest", faults(manifest))
    _refuse(path, "B004", "contradicts itself", contradictions(manifest))
    return manifest


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _refuse(path: Path, code: str, message: str, found: Iterator[str]) -> None:
    problems = [fault for _, fault in zip(range(8), found, strict=False)]
    if problems:
        notes = tuple(("fault", problem) for problem in problems)
        raise failure(code, f"`{path}` {message}", AGAIN, notes)


def _checked_file(directory: Path, name: str, digest: str) -> Path:
    """A file of the bundle with the digest that the manifest gives. The schema keeps `name` plain;
    a link that leads out of the folder is refused here."""
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise failure("B005", f"`{path}` lies outside the bundle", help=AGAIN)
    try:
        found = _digest(path)
    except OSError as error:
        raise failure("B005", f"`{path}` cannot be read: {error.strerror}", help=AGAIN) from error
    if found != digest:
        notes = (("expected", digest), ("found", found))
        raise failure("B005", f"`{path}` is not the file that the manifest describes", AGAIN, notes)
    return path


def _with_constants(directory: Path, manifest: Manifest, program: Program) -> Program:
    """The program, and its load program, with the data of their constants."""
    tensors = of_role(program, TensorRole.CONSTANT)
    constants = _data(directory, manifest, "constants", tensors)
    load = program.load
    if load is not None:
        load = _with_constants(directory, manifest["load"], load)
    return replace(program, constants=constants, load=load)


def _packed(directory: Path, manifest: Manifest, program: Program) -> dict[str, Array] | None:
    """The weights in the folder by scope path, as far as a load program does not compute them."""
    if "weights" not in manifest:
        return None
    load, tensors = program.load, of_role(program, TensorRole.WEIGHT)
    if load is None or "weights" not in manifest["load"]:
        return _data(directory, manifest, "weights", tensors)
    own = [t for t in tensors if t.weight not in load.outputs]
    raw = of_role(load, TensorRole.WEIGHT)
    return {
        **_data(directory, manifest["load"], "weights", raw),
        **_data(directory, manifest, "weights", own),
    }


def _data(
    directory: Path, record: Manifest, kind: str, tensors: Sequence[Tensor]
) -> dict[str, Array]:
    """The arrays of a safetensors file of the bundle, in logical axes: constants by tensor name,
    weights by scope path."""
    if kind not in record:
        if tensors:
            raise failure("B004", f"`{directory}` has no data for its {kind}", help=AGAIN)
        return {}
    path = _checked_file(directory, record[kind]["file"], record[kind]["digest"])
    arrays = _load_file(path)
    for tensor in tensors:
        held = arrays.get(tensor.name)
        if held is None or (held.shape, held.dtype) != (stored_shape(tensor), tensor.dtype.numpy):
            message = f"`{path}` does not hold `{tensor.name}` as the manifest describes it"
            raise failure("B005", message, help=AGAIN)
    return {t.weight or t.name: unstored(arrays[t.name], t) for t in tensors}


def _load_file(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise failure("B005", f"`{path}` cannot be read: {error}", help=AGAIN) from error


__all__ = ["Bundle", "SdlError", "is_bundle", "read_bundle", "write_bundle"]
