"""A program and its manifest: one to the other.

In: `Program` and its kernels' texts, or a manifest that has passed `bundle_schema.faults`. Out: the
manifest, or the program (without kernel IR) and the descriptions of its texts. Invariant:
`program_of(manifest_of(p, …))` runs like `p`; `contradictions` of what was written is empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, fields
from math import prod
from typing import Any

from sdlc.graph.hoist import MARK
from sdlc.graph.types import DType, Origin, Span
from sdlc.kernel.ir import MatrixMultiply, statements
from sdlc.program.bundle_schema import FORMAT, VERSION
from sdlc.program.device import KernelText
from sdlc.program.memory import LOAD, RUN, align, conflicts, has_overlaps, lifetimes_of
from sdlc.program.program import Dispatch, MemoryReport, Program, Tensor, TensorRole
from sdlc.program.values import stored_shape
from sdlc.schedule.storage import Block
from sdlc.target import Capabilities, MatrixInstruction

Manifest = dict[str, Any]


# ---- writing -------------------------------------------------------------------------------------


def manifest_of(
    program: Program,
    texts: Sequence[KernelText],
    files: Sequence[tuple[str, str]],
    caps: Capabilities,
    compiler: str,
) -> Manifest:
    """The manifest of `program`; `files` are the path and digest of each text."""
    made = {
        "format": FORMAT,
        "version": VERSION,
        "compiler": compiler,
        "name": program.name,
        "target": program.target,
        "precision": program.precision.value,
        "flop": program.flop,
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "requires": _requires(program, texts, caps),
        "memory": asdict(program.memory),
        "tensors": [_tensor_record(t) for t in program.tensors.values()],
        "kernels": [_kernel_record(t, *f) for t, f in zip(texts, files, strict=True)],
        "dispatches": [_dispatch_record(d, texts) for d in program.dispatches],
    }
    if program.load is not None:
        made["load"] = _load_record(program.load, texts)
    return made


def _load_record(load: Program, texts: Sequence[KernelText]) -> Manifest:
    return {
        "outputs": list(load.outputs),
        "flop": load.flop,
        "memory": asdict(load.memory),
        "tensors": [_tensor_record(t) for t in load.tensors.values()],
        "dispatches": [_dispatch_record(d, texts) for d in load.dispatches],
    }


def manifest_text(manifest: Manifest) -> str:
    """JSON for people too: one line a field, and in lists of records one line a record."""
    return _record_text(manifest, "") + "\n"


def _record_text(record: Manifest, indent: str) -> str:
    lines = []
    for name, value in record.items():
        text = json.dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            records = f",\n{indent}  ".join(json.dumps(each) for each in value)
            text = f"[\n{indent}  {records}\n{indent} ]"
        elif isinstance(value, dict) and "dispatches" in value:
            text = _record_text(value, f"{indent} ")
        lines.append(f"{indent} {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def _tensor_record(tensor: Tensor) -> Manifest:
    made: Manifest = {
        "name": tensor.name,
        "role": tensor.role.value,
        "dtype": tensor.dtype.value,
        "shape": list(tensor.shape),
        "order": list(tensor.order),
        "offset": tensor.offset,
        "nbytes": tensor.nbytes,
    }
    if tensor.block is not None:
        made["block"] = {"axis": tensor.block.axis, "size": tensor.block.size}
    if tensor.in_place_of:
        made["in_place_of"] = tensor.in_place_of
    if tensor.weight:
        made["weight"] = tensor.weight
    if tensor.origin and tensor.origin.definition:
        made["definition"] = tensor.origin.definition
    if tensor.origin and tensor.origin.span:
        made["source"] = str(tensor.origin.span)
    return made


def _kernel_record(text: KernelText, file: str, digest: str) -> Manifest:
    return {
        "name": text.name,
        "language": text.language,
        "file": file,
        "entry": text.entry,
        "parameters": list(text.parameters),
        "grid": list(text.grid),
        "group": list(text.group),
        "digest": digest,
    }


def _dispatch_record(dispatch: Dispatch, texts: Sequence[KernelText]) -> Manifest:
    text = next(t for t in texts if t.name == dispatch.kernel)
    bound = dict(dispatch.bindings)
    return {
        "kernel": dispatch.kernel,
        "label": dispatch.label,
        "flop": dispatch.flop,
        "grid": list(text.grid),
        "group": list(text.group),
        "bindings": [{"parameter": p, "tensor": bound[p]} for p in text.parameters],
    }


def _requires(program: Program, texts: Sequence[KernelText], caps: Capabilities) -> Manifest:
    f16 = any(t.dtype is DType.F16 for t in program.all_tensors)
    groups = [t.group for t in texts]
    packed = caps.packed_halves and all(t.language == "opencl" for t in texts)
    return {
        "languages": list(dict.fromkeys(t.language for t in texts)),
        "f16_storage": f16,
        "f16_arithmetic": f16 and caps.f16_arithmetic and not packed,
        "work_items": max((prod(g) for g in groups), default=0),
        "group": [max((g[d] for g in groups), default=0) for d in range(3)],
        "groups": max((n for t in texts for n in t.grid), default=0),
        "local_bytes": max((k.local_bytes for k in program.all_kernels), default=0),
        "storage_buffers": max((len(t.parameters) for t in texts), default=0),
        "binding_bytes": max((t.nbytes for t in program.all_tensors), default=0),
        "offset_alignment": caps.offset_alignment,
        "overlapping_bindings": has_overlaps(program),
        "matrix": [_matrix_record(of) for of in _instructions(program)],
    }


def _instructions(program: Program) -> list[MatrixInstruction]:
    """The matrix instructions of all kernels, each once."""
    every = (s for kernel in program.all_kernels for s in statements(kernel.body))
    found = {s.instruction.name: s.instruction for s in every if isinstance(s, MatrixMultiply)}
    return [found[name] for name in sorted(found)]


def _matrix_record(of: MatrixInstruction) -> Manifest:
    names = ("name", "m", "n", "k", "inputs", "accumulator", "lanes")
    return {name: getattr(of, name) for name in names}


# ---- reading -------------------------------------------------------------------------------------


def program_of(manifest: Manifest) -> Program:
    """The program of a valid manifest; it has no kernel IR and, yet, no constants."""
    tensors = {record["name"]: _tensor(record) for record in manifest["tensors"]}
    return Program(
        name=manifest["name"],
        target=manifest["target"],
        precision=DType(manifest["precision"]),
        tensors=tensors,
        inputs=tuple(manifest["inputs"]),
        outputs=tuple(manifest["outputs"]),
        kernels={},
        dispatches=tuple(_dispatch(record) for record in manifest["dispatches"]),
        memory=MemoryReport(**{f.name: manifest["memory"][f.name] for f in fields(MemoryReport)}),
        flop=manifest["flop"],
        load=program_of(_load_manifest(manifest)) if "load" in manifest else None,
    )


def _load_manifest(manifest: Manifest) -> Manifest:
    """The manifest of the load program as a program of its own."""
    shared = {name: manifest[name] for name in ("name", "target", "precision", "kernels")}
    return {**shared, "requires": manifest["requires"], "inputs": [], **manifest["load"]}


def text_of(record: Manifest, text: str) -> KernelText:
    x, y, z = record["grid"]
    a, b, c = record["group"]
    return KernelText(
        name=record["name"],
        language=record["language"],
        text=text,
        entry=record["entry"],
        parameters=tuple(record["parameters"]),
        grid=(x, y, z),
        group=(a, b, c),
    )


def _tensor(record: Manifest) -> Tensor:
    definition, span = record.get("definition", ""), _span(record.get("source", ""))
    origin = Origin(record["name"], definition, span) if definition or span else None
    return Tensor(
        name=record["name"],
        shape=tuple(record["shape"]),
        dtype=DType(record["dtype"]),
        order=tuple(record["order"]),
        role=TensorRole(record["role"]),
        nbytes=record["nbytes"],
        offset=record["offset"],
        weight=record.get("weight", ""),
        origin=origin,
        block=Block(**record["block"]) if "block" in record else None,
        in_place_of=record.get("in_place_of", ""),
    )


def _span(source: str) -> Span | None:
    file, _, rest = source.rpartition(":")
    file, _, line = file.rpartition(":")
    if not (file and line.isdecimal() and rest.isdecimal()):
        return None
    return Span(file, int(line), int(rest), int(line), int(rest) + 1)


def _dispatch(record: Manifest) -> Dispatch:
    bindings = tuple((b["parameter"], b["tensor"]) for b in record["bindings"])
    return Dispatch(record["kernel"], bindings, record["label"], record.get("flop", 0))


# ---- what a schema cannot say --------------------------------------------------------------------


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Where a manifest of the right form contradicts itself, in words."""
    yield from _program_faults(manifest, RUN)
    if "load" in manifest:
        for fault in _program_faults(_load_manifest(manifest), LOAD):
            yield f"load: {fault}"
    yield from _load_faults(manifest)


def _program_faults(manifest: Manifest, arena: Set[TensorRole]) -> Iterator[str]:
    """`arena` are the roles that live in the arena."""
    yield from _name_faults(manifest)
    for record in manifest["tensors"]:
        yield from _tensor_faults(record)
        if record["offset"] and TensorRole(record["role"]) not in arena:
            yield f"tensor {record['name']!r}: it has an offset, but does not live in the arena"
    names = {record["name"] for record in manifest["tensors"]}
    known = [d for d in manifest["dispatches"] if _tensors_of(d) <= names]
    for number, record in enumerate(manifest["dispatches"]):
        yield from _dispatch_faults(number, record, manifest, names)
    if len(known) == len(manifest["dispatches"]) and len(names) == len(manifest["tensors"]):
        yield from _arena_faults(manifest, arena)


def _load_faults(manifest: Manifest) -> Iterator[str]:
    """Where what the load program gives is not what the program takes."""
    alike = ("shape", "dtype", "order", "block")
    computed = manifest.get("load", {"tensors": []})["tensors"]
    outputs = {t["name"]: t for t in computed if t["role"] == "output"}
    taken = {t["weight"]: t for t in manifest["tensors"] if t.get("weight")}
    for name, given in outputs.items():
        if name not in taken:
            yield f"load gives {name!r}, which is no weight"
        elif any(given.get(key) != taken[name].get(key) for key in alike):
            yield f"load gives {name!r} in another form than its readers want"
    for name in taken:
        if name.startswith(MARK) and name not in outputs:
            yield f"weight {name!r} is computed by no load program"


def _tensors_of(dispatch: Manifest) -> set[str]:
    return {b["tensor"] for b in dispatch["bindings"]}


def _name_faults(manifest: Manifest) -> Iterator[str]:
    roles: dict[str, str] = {}
    for record in manifest["tensors"]:
        if record["name"] in roles:
            yield f"tensor {record['name']!r} is there twice"
        roles[record["name"]] = record["role"]
    for role, listed in (("input", manifest["inputs"]), ("output", manifest["outputs"])):
        if len(set(listed)) != len(listed):
            yield f"{role}s repeats a name"
        for name in listed:
            if roles.get(name) != role:
                yield f"{role}s names {name!r}, which is no tensor with that role"
        for name in sorted({n for n, r in roles.items() if r == role} - set(listed)):
            yield f"tensor {name!r} is an {role}, but {role}s does not list it"
    kernels = [(k["name"], k["language"]) for k in manifest["kernels"]]
    if len(set(kernels)) != len(kernels):
        yield "a kernel is there twice in one language"


def _tensor_faults(record: Manifest) -> Iterator[str]:
    name = f"tensor {record['name']!r}"
    if sorted(record["order"]) != list(range(len(record["shape"]))):
        yield f"{name}: order {record['order']} does not permute its axes"
        return
    if record.get("block", {"axis": 0})["axis"] >= max(len(record["shape"]), 1):
        yield f"{name}: its block is of an axis that it does not have"
        return
    if record["nbytes"] < prod(stored_shape(_tensor(record))) * DType(record["dtype"]).itemsize:
        yield f"{name}: nbytes {record['nbytes']} is too small for its shape"
    if record["role"] == "weight" and not record.get("weight"):
        yield f"{name}: a weight without the name to load it by"


def _dispatch_faults(
    number: int, record: Manifest, manifest: Manifest, names: set[str]
) -> Iterator[str]:
    where = f"dispatches[{number}]"
    for tensor in sorted(_tensors_of(record) - names):
        yield f"{where} binds {tensor!r}, which is no tensor"
    texts = [k for k in manifest["kernels"] if k["name"] == record["kernel"]]
    languages = {k["language"] for k in texts}
    for language in manifest["requires"]["languages"]:
        if language not in languages:
            yield f"{where}: kernel {record['kernel']!r} has no {language} text"
    bound = [b["parameter"] for b in record["bindings"]]
    for text in texts:
        if bound != text["parameters"]:
            yield f"{where}: its bindings are not the parameters of {text['file']}"
    if texts and (record["grid"], record["group"]) != (texts[0]["grid"], texts[0]["group"]):
        yield f"{where}: grid or group differs from that of {texts[0]['file']}"


def _arena_faults(manifest: Manifest, roles: Set[TensorRole]) -> Iterator[str]:
    program = program_of({name: value for name, value in manifest.items() if name != "load"})
    arena = program.memory.arena
    lives = lifetimes_of(program.tensors, program.dispatches, roles)
    for life in lives:
        tensor = program.tensors[life.name]
        if tensor.offset + tensor.nbytes > align(arena, 4):
            yield f"tensor {life.name!r} ends beyond the arena of {arena} bytes"
    offsets = {life.name: program.tensors[life.name].offset for life in lives}
    for a, b in conflicts(lives, offsets, program.tensors):
        yield f"tensors {a!r} and {b!r} are live at the same time and overlap in the arena"


def lacks(requires: Mapping[str, Any], caps: Capabilities) -> Iterator[tuple[str, str]]:
    """What a device with `caps` lacks for a bundle: (what, needed and had)."""
    limits = (
        ("work-items of a work-group", requires["work_items"], caps.max_work_items),
        *(
            (f"work-items of a work-group in dimension {d}", requires["group"][d], most)
            for d, most in enumerate(caps.max_group)
        ),
        ("work-groups in one dimension", requires["groups"], caps.max_groups),
        ("bytes of local memory", requires["local_bytes"], caps.local_bytes),
        ("buffers of one kernel", requires["storage_buffers"], caps.max_storage_buffers),
        ("bytes of one binding", requires["binding_bytes"], caps.max_binding),
    )
    for what, needed, had in limits:
        if needed > had:
            yield what, f"needs {needed:,}, the device has {had:,}"
    for flag in ("f16_storage", "f16_arithmetic", "overlapping_bindings"):
        if requires[flag] and not getattr(caps, flag):
            yield flag.replace("_", " "), "needed, but not supported by the device"
    known = {of.name for of in caps.matrix}
    for of in requires.get("matrix", ()):
        if of["name"] not in known:
            shape = " x ".join(str(of[n]) for n in "mnk")
            listed = ", ".join(sorted(known)) or "none"
            means = f"{shape}, {of['inputs']}, by sub-groups of {of['lanes']}"
            yield f"matrix instruction {of['name']}", f"needed ({means}), the device has {listed}"
