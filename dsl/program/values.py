"""Host arrays to stored bytes and back, with the checks that a user's arrays need.

In: NumPy arrays and `Tensor`s. Out: the bytes that a device memory holds, or an array. Invariant:
`load(store(x, t), t) == x` for every array that `t.dtype` can hold exactly. Errors name the tensor,
both shapes and the `.sdl` line.

    store(np.zeros((1, 3, 4, 4), np.float32), tensor)     # with order (0, 2, 3, 1): NHWC bytes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np

from sdlc.graph.types import Array, DType, Span
from sdlc.language.diagnostics import Diagnostic, SdlError, did_you_mean
from sdlc.program.program import Program, Tensor
from sdlc.schedule.storage import stored_extents

MOST_SHOWN = 8


def stored_shape(tensor: Tensor) -> tuple[int, ...]:
    """The extents in storage order, outermost first; a block's elements last."""
    return stored_extents(tensor.shape, tensor.order, tensor.block)


def stored(array: Array, tensor: Tensor) -> Array:
    """`array` (of the tensor's logical shape) in storage order: converted, blocks padded with 0."""
    moved = array.transpose(tensor.order)
    block = tensor.block
    if block is not None:
        place = tensor.order.index(block.axis)
        tail = -moved.shape[place] % block.size
        if tail:
            moved = np.pad(moved, [(0, tail if d == place else 0) for d in range(moved.ndim)])
        *before, extent = moved.shape[: place + 1]
        split = (*before, extent // block.size, block.size, *moved.shape[place + 1 :])
        moved = np.moveaxis(moved.reshape(split), place + 1, -1)
    return np.ascontiguousarray(moved, tensor.dtype.numpy)


def store(array: Array, tensor: Tensor) -> bytes | memoryview:
    """`array` (of the tensor's logical shape) as stored bytes: permuted, converted, padded. Where
    it lies in memory so already, no copy is made."""
    made = stored(array, tensor)
    if made.nbytes == tensor.nbytes and made.nbytes:
        return made.reshape(-1).view(np.uint8).data
    data = made.tobytes()
    return data + bytes(tensor.nbytes - len(data))


def stored_pieces(array: Array, tensor: Tensor, most: int) -> Iterator[bytes | memoryview]:
    """What `store` gives, piece after piece of about `most` bytes, where it can be cut."""
    rows = tensor.shape[tensor.order[0]] if tensor.order else 0
    if tensor.block is not None or tensor.nbytes <= most or rows < 2:
        yield store(array, tensor)
        return
    moved = array.transpose(tensor.order)
    step = max(1, rows * most // tensor.nbytes)
    for start in range(0, rows, step):
        piece = np.ascontiguousarray(moved[start : start + step], tensor.dtype.numpy)
        yield piece.reshape(-1).view(np.uint8).data


def load(data: bytes, tensor: Tensor) -> Array:
    """The logical array that a tensor's bytes hold: a fresh, writable, row-major array."""
    shape = stored_shape(tensor)
    flat = np.frombuffer(data, tensor.dtype.numpy, count=prod(shape))
    return unstored(flat.reshape(shape), tensor).copy()


def unstored(array: Array, tensor: Tensor) -> Array:
    """An array in storage order, seen in logical axes."""
    block = tensor.block
    if block is not None:
        place = tensor.order.index(block.axis)
        moved = np.moveaxis(array, -1, place + 1)
        places = moved.shape[place] * block.size
        whole = (*moved.shape[:place], places, *moved.shape[place + 2 :])
        inside = (*(slice(None),) * place, slice(tensor.shape[block.axis]))
        array = moved.reshape(whole)[inside]
    return array.transpose([tensor.order.index(axis) for axis in range(len(tensor.order))])


def describe(tensor: Tensor) -> str:
    return shape_text(tensor.dtype.value, tensor.shape)


def shape_text(dtype: str, shape: Iterable[int]) -> str:
    return f"{dtype}[{', '.join(map(str, shape))}]"


# ---- inputs --------------------------------------------------------------------------------------


def check_inputs(program: Program, inputs: Mapping[str, object]) -> dict[str, Array]:
    """The run-time inputs, converted to the tensors' types.

    Raises SdlError (P003 unknown or missing name, P004 shape, P005 type) for all faults at once.
    """
    problems = list(_name_problems(program, inputs))
    arrays: dict[str, Array] = {}
    for name in program.inputs:
        if name in inputs:
            made = convert_input(inputs[name], program.tensors[name])
            if isinstance(made, Diagnostic):
                problems.append(made)
            else:
                arrays[name] = made
    if problems:
        raise located(problems)
    return arrays


def _name_problems(program: Program, inputs: Mapping[str, object]) -> Iterable[Diagnostic]:
    expected = ", ".join(f"{n}: {describe(program.tensors[n])}" for n in program.inputs)
    note = (("inputs", expected or "none"),)
    for name in inputs:
        if name not in program.inputs:
            help = did_you_mean(name, program.inputs, 3) or "give only the inputs listed above"
            yield Diagnostic(
                "P003", f"`{program.name}` has no input `{name}`", notes=note, help=help
            )
    for name in program.inputs:
        if name not in inputs:
            span = origin_span(program.tensors[name])
            message = f"input `{name}` of `{program.name}` is missing"
            yield Diagnostic("P003", message, span, notes=note, help=f"give an array for `{name}`")


def convert_input(value: object, tensor: Tensor) -> Array | Diagnostic:
    """`value` as an array of the tensor's type, or what is wrong with it."""
    array = np.asarray(value)
    wanted, got = describe(tensor), shape_text(str(array.dtype), array.shape)
    span = origin_span(tensor)
    if array.dtype.kind not in "biuf":
        message = f"input `{tensor.name}` holds {array.dtype}, which is no number"
        return Diagnostic("P005", message, span, help=f"give an array of numbers for {wanted}")
    if array.shape != tensor.shape:
        message = f"input `{tensor.name}` is {got}, but the program was compiled for {wanted}"
        help = f"give {wanted}, or compile for the shape at hand (--set or sizes=)"
        return Diagnostic("P004", message, span, help=help)
    if array.dtype.kind == "f" and not tensor.dtype.is_float:
        message = f"input `{tensor.name}` is {got}, but the program takes {wanted}"
        return Diagnostic("P005", message, span, help="convert the array to integers first")
    return _converted(array, tensor, span)


def _converted(array: Array, tensor: Tensor, span: Span | None) -> Array | Diagnostic:
    if tensor.dtype is DType.BOOL:
        flags: Array = (array != 0).astype(np.int32)
        return flags
    if overflows(array, tensor.dtype):
        message = f"input `{tensor.name}` has values that {tensor.dtype.value} cannot hold"
        return Diagnostic("P005", message, span, help=f"its values {range_text(array)}")
    with np.errstate(over="ignore"):
        made: Array = array.astype(tensor.dtype.numpy)
    return made


def overflows(array: Array, dtype: DType) -> bool:
    """Whether a finite value of `array` lies outside the range of `dtype`."""
    if array.size == 0 or dtype is DType.BOOL:
        return False
    if dtype is DType.I32:
        return bool(array.min() < -(2**31) or array.max() > 2**31 - 1)
    if array.dtype.itemsize <= dtype.itemsize and array.dtype.kind == "f":
        return False
    known = np.isfinite(array)
    finite = array if known.all() else array[known]  # no wide copy of a large weight
    ends = np.array([finite.min(), finite.max()] if finite.size else [0], np.float64)
    with np.errstate(over="ignore"):
        return bool(np.isinf(ends.astype(dtype.numpy)).any())


def range_text(array: Array) -> str:
    return f"lie between {array.min()} and {array.max()}"


# ---- messages ------------------------------------------------------------------------------------


def origin_span(tensor: Tensor) -> Span | None:
    return tensor.origin.span if tensor.origin else None


def located(problems: Iterable[Diagnostic], most: int = MOST_SHOWN) -> SdlError:
    """One error of the first `most` problems, with the sources that they point into."""
    found = list(problems)
    shown = found[:most]
    if len(found) > most:
        more = f"and {len(found) - most} more of the same kind"
        shown.append(Diagnostic(found[most].code, more, help="the first ones are shown above"))
    spans = [d.span for d in shown if d.span]
    return SdlError(tuple(shown), {s.file: source_text(s.file) for s in spans})


def source_text(file: str) -> str:
    """The text of a source file, or '' where it is no longer there (a bundle was shipped).
    `stdlib/…` is the installed library's."""
    from importlib.resources import files

    folder, _, name = file.rpartition("/")
    place = files("sdlc.stdlib") / name if folder == "stdlib" else Path(file)
    try:
        return place.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
