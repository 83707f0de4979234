"""The schema of `manifest.json`, as data, and a validator for the part of JSON Schema it uses.

In: a parsed JSON value. Out: the faults found, each with its path. Invariant: docs/bundle.md shows
exactly this schema (a test compares them). Fields that the schema does not name are ignored, so
that a later compiler may add some within one version.

    faults({"format": "zip"})   ->   ["format is 'zip', not one of 'sdlc-bundle'", …]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

FORMAT = "sdlc-bundle"
VERSION = 2
MANIFEST = "manifest.json"

Schema = Mapping[str, Any]


def _integer(doc: str, minimum: int = 0) -> Schema:
    return {"type": "integer", "minimum": minimum, "description": doc}


def _text(doc: str, pattern: str = "") -> Schema:
    made = {"type": "string", "description": doc}
    return {**made, "pattern": pattern} if pattern else made


def _flag(doc: str) -> Schema:
    return {"type": "boolean", "description": doc}


def _one_of(doc: str, *values: object) -> Schema:
    return {"enum": list(values), "description": doc}


def _list(doc: str, items: Schema, length: int | None = None) -> Schema:
    made = {"type": "array", "items": items, "description": doc}
    return made if length is None else {**made, "minItems": length, "maxItems": length}


def _record(doc: str, optional: tuple[str, ...] = (), **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "description": doc,
        "required": required,
        "properties": properties,
    }


_EXTENT = {"type": "integer", "minimum": 0}
_NAME = {"type": "string"}
_PLAIN_FILE = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?$"
_SHA256 = r"^[0-9a-f]{64}$"

_TENSOR = _record(
    "A stored value.",
    optional=("block", "in_place_of", "weight", "definition", "source"),
    name=_text("Unique in the bundle; never a path."),
    role=_one_of(
        "Where it lives: a memory of its own (input, output), a memory of weights, or the arena.",
        "input",
        "output",
        "weight",
        "constant",
        "temporary",
    ),
    dtype=_one_of("Element type; `bool` is a 32-bit 0 or 1.", "f32", "f16", "i32", "bool"),
    shape=_list("Extents of the logical axes.", _EXTENT),
    order=_list("Logical axes from the outermost in storage to the innermost.", _EXTENT),
    block=_record(
        "One axis is stored in blocks: the number of the block at the axis's place in `order`, the "
        "elements of a block innermost of all, the last block padded with zeros.",
        axis=_integer("The logical axis."),
        size=_integer("Elements of a block.", 1),
    ),
    offset=_integer(
        "A temporary's place in the arena, in bytes; 0 for the other roles. In `load` also "
        "the place of a weight or constant."
    ),
    nbytes=_integer("Bytes to reserve: at least those of all elements."),
    in_place_of=_text(
        "The temporary whose place it may take: the dispatch that writes it is the last to read "
        "that one, each element only for the element that replaces it."
    ),
    weight=_text(
        "A weight's name in the model's weight files (its scope path), or, beginning with `~`, the "
        "output of `load` that it is."
    ),
    definition=_text("The definition that it was declared in."),
    source=_text("Where it was declared: `file:line:column`."),
)

_KERNEL = _record(
    "One kernel in one language.",
    name=_text("What dispatches call it by; the same in every language."),
    language=_text("`opencl` (OpenCL C) or `wgsl`."),
    file=_text("Its text, relative to the bundle.", _PLAIN_FILE),
    entry=_text("The name of its function."),
    parameters=_list("Its buffers in binding order: argument or binding 0, 1, 2, …", _NAME),
    grid=_list("Work-groups in each dimension.", _integer("", 1), 3),
    group=_list("Work-items of a work-group in each dimension.", _integer("", 1), 3),
    digest=_text("SHA-256 of the file.", _SHA256),
)

_BINDING = _record(
    "A tensor for a parameter.",
    parameter=_text("A parameter of the kernel."),
    tensor=_text("The tensor bound to it, whole."),
)

_DISPATCH = _record(
    "One launch. Launches run in order, each after the memory effects of the one before.",
    optional=("flop",),
    kernel=_text("The kernel's name."),
    label=_text("What it computes, for profiles; may be empty."),
    flop=_integer("Its floating-point operations, for profiles."),
    grid=_list("Work-groups in each dimension, as in the kernel.", _integer("", 1), 3),
    group=_list("Work-items of a work-group, as in the kernel.", _integer("", 1), 3),
    bindings=_list("One for each parameter, in the kernel's order.", _BINDING),
)

_MATRIX = _record(
    "A matrix instruction: a sub-group adds left (m x k) times right (k x n) to m x n sums.",
    name=_text("Which it is: what the target's table calls it."),
    m=_integer("Rows of the result.", 1),
    n=_integer("Columns of the result.", 1),
    k=_integer("Products of one sum.", 1),
    inputs=_text("Type of both factors."),
    accumulator=_text("Type of the sums."),
    lanes=_integer("Work-items of the sub-group, with consecutive numbers.", 1),
)

_REQUIRES = _record(
    "What a device must have: the most that any kernel uses.",
    optional=("matrix",),
    languages=_list("Languages in which the kernels are given; one is enough.", _NAME),
    f16_storage=_flag("Kernels load and store 16-bit floats."),
    f16_arithmetic=_flag("Kernels may compute in 16-bit floats."),
    work_items=_integer("Work-items of one work-group."),
    group=_list("Work-items of a work-group in each dimension.", _EXTENT, 3),
    groups=_integer("Work-groups in one dimension."),
    local_bytes=_integer("Bytes of local (work-group) memory."),
    storage_buffers=_integer("Buffers bound by one kernel."),
    binding_bytes=_integer("Bytes of the largest bound tensor."),
    offset_alignment=_integer("All offsets in the arena are multiples of this.", 1),
    overlapping_bindings=_flag("Launches read and write the same bytes through two bindings."),
    matrix=_list(
        "Matrix instructions, as inline assembly; where one is, so are exchanges of values "
        "within its sub-groups. Nothing else relies on them.",
        _MATRIX,
    ),
)

_MEMORY = _record(
    "Bytes of memory.",
    arena=_integer("To allocate for the temporaries."),
    naive=_integer("The temporaries, were each in a place of its own."),
    lower_bound=_integer("The most that is live at once."),
    weights=_integer("Weights and constants as stored."),
)

_DATA = _record(
    "A safetensors file: names are tensors' names, shapes are in storage order.",
    file=_text("Relative to the bundle.", _PLAIN_FILE),
    digest=_text("SHA-256 of the file.", _SHA256),
)

_LOAD = _record(
    "What is computed once, when weights are loaded.",
    optional=("constants", "weights"),
    outputs=_list("The weights of the program that it computes.", _NAME),
    flop=_integer("Its floating-point operations."),
    memory=_MEMORY,
    tensors=_list("Every tensor that its dispatches bind, in an arena of its own.", _TENSOR),
    dispatches=_list("Its launches, in order.", _DISPATCH),
    constants=_DATA,
    weights=_DATA,
)

SCHEMA: Schema = MappingProxyType(
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "manifest.json of an sdlc bundle",
        **_record(
            "A compiled program.",
            optional=("load", "constants", "weights"),
            format=_one_of("What this file is.", FORMAT),
            version=_one_of("Version of this schema.", VERSION),
            compiler=_text("Version of the compiler that wrote the bundle."),
            name=_text("The program's name."),
            target=_text("The target that it was compiled for."),
            precision=_one_of("Storage type of its floats.", "f32", "f16"),
            flop=_integer("Floating-point operations of one run."),
            inputs=_list("Names of the tensors to write before a run, in order.", _NAME),
            outputs=_list("Names of the tensors to read after a run, in order.", _NAME),
            requires=_REQUIRES,
            memory=_MEMORY,
            tensors=_list("Every tensor that a dispatch binds.", _TENSOR),
            kernels=_list("Every kernel, in each of the languages.", _KERNEL),
            dispatches=_list("The launches of one run, in order.", _DISPATCH),
            load=_LOAD,
            constants=_DATA,
            weights=_DATA,
        ),
    }
)


def faults(value: object, schema: Schema = SCHEMA, path: str = "") -> Iterator[str]:
    """Where `value` departs from `schema`, in words."""
    if "enum" in schema:
        if not any(type(value) is type(v) and value == v for v in schema["enum"]):
            allowed = ", ".join(repr(v) for v in schema["enum"])
            yield f"{path or 'it'} is {value!r}, not one of {allowed}"
        return
    if not _has_type(value, schema["type"]):
        yield f"{path or 'it'} is {_kind(value)}, not {schema['type']}"
        return
    match value:
        case dict():
            yield from _record_faults(value, schema, path)
        case list():
            yield from _list_faults(value, schema, path)
        case str() if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
            yield f"{path} is {value!r}, which does not have the form {schema['pattern']}"
        case int() if value < schema.get("minimum", value):
            yield f"{path} is {value}, less than {schema['minimum']}"


def _record_faults(value: dict[str, object], schema: Schema, path: str) -> Iterator[str]:
    dot = f"{path}." if path else ""
    for name in schema["required"]:
        if name not in value:
            yield f"{dot}{name} is missing"
    for name, inner in schema["properties"].items():
        if name in value:
            yield from faults(value[name], inner, f"{dot}{name}")


def _list_faults(value: list[object], schema: Schema, path: str) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{path} has {len(value)} items, not {schema['minItems']}"
    for i, item in enumerate(value):
        yield from faults(item, schema["items"], f"{path}[{i}]")


_TYPES: Mapping[str, type] = MappingProxyType(
    {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
)


def _has_type(value: object, name: str) -> bool:
    return isinstance(value, _TYPES[name]) and (name == "boolean") == isinstance(value, bool)


def _kind(value: object) -> str:
    names = {kind: name for name, kind in _TYPES.items()}
    return names.get(type(value), "null" if value is None else type(value).__name__)
