"""Sizes of an entry that its inputs bind: `b` and `n` of `x: T[b, n]` from an array's shape.

In: the entry's definition, arrays by parameter name. Out: sizes for `elaborate.build`. Invariant:
only names that stand alone as a dimension are bound; what an expression needs is left to `build`,
which reports what is missing or does not agree.

    sizes_of(definition of `op f(x: T[*b, n])`, {"x": np.zeros((2, 3, 5))})   {"b": (2, 3), "n": 5}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from sdlc.graph.types import Array
from sdlc.language.diagnostics import Diagnostic, SdlError
from sdlc.language.syntax import Config, Definition, Module, Name, Parameter, Spread, TensorType

Size = int | tuple[int, ...]


def entry_of(module: Module, entry: str | None) -> Definition | None:
    """The definition that `entry` names; for None the only model, else the only op or block."""
    found = [d for d in module.definitions if isinstance(d, Definition)]
    if entry is not None:
        return next((d for d in found if d.name == entry), None)
    models = [d for d in found if d.kind == "model"]
    chosen = models or found
    return chosen[0] if len(chosen) == 1 else None


def size_names(definition: Definition) -> tuple[str, ...]:
    """The names that the types of the inputs leave open."""
    known = {p.name for p in definition.parameters}
    known |= {s.name for s in definition.body if isinstance(s, Config)}
    names = (
        dimension.id
        for _, type_ in _tensors(definition)
        for dimension in type_.dimensions
        if isinstance(dimension, (Name, Spread))
    )
    return tuple(dict.fromkeys(n for n in names if n not in known))


def sizes_of(definition: Definition, arrays: Mapping[str, object]) -> dict[str, Size]:
    """The sizes that `arrays` bind. Raises SdlError (P003) for an input without an array, (P004)
    for an array of the wrong rank and for two arrays that do not agree."""
    sizes: dict[str, Size] = {}
    problems: list[Diagnostic] = []
    for parameter, type_ in _tensors(definition):
        if parameter.name in arrays:
            array = np.asarray(arrays[parameter.name])
            problems += _bind(parameter, type_, array, sizes)
        elif parameter.default is None and not type_.optional:
            message = f"input `{parameter.name}` of `{definition.name}` is missing"
            help = f"give an array for `{parameter.name}`"
            problems.append(Diagnostic("P003", message, parameter.span, help=help))
    if problems:
        span = definition.header
        raise SdlError(tuple(problems), {span.file: _text(span.file)})
    wanted = size_names(definition)
    return {name: size for name, size in sizes.items() if name in wanted}


def _tensors(definition: Definition) -> Iterator[tuple[Parameter, TensorType]]:
    for parameter in definition.parameters:
        if isinstance(parameter.type, TensorType) and not parameter.attribute:
            yield parameter, parameter.type


def _bind(
    parameter: Parameter, type_: TensorType, array: Array, sizes: dict[str, Size]
) -> Iterator[Diagnostic]:
    shape = array.shape
    spreads = sum(isinstance(d, Spread) for d in type_.dimensions)
    free = len(shape) - (len(type_.dimensions) - spreads)
    if free < 0 or spreads > 1 or (free > 0 and not spreads):
        rank = len(type_.dimensions) - spreads
        wanted = f"at least {rank}" if spreads else f"{rank}"
        message = f"input `{parameter.name}` has {len(shape)} axes, not {wanted}"
        help = f"its shape is {list(shape)}; the parameter's type is underlined"
        yield Diagnostic("P004", message, parameter.type.span, help=help)
        return
    at = 0
    for dimension in type_.dimensions:
        taken = free if isinstance(dimension, Spread) else 1
        size: Size = shape[at : at + taken] if isinstance(dimension, Spread) else shape[at]
        at += taken
        if not isinstance(dimension, (Name, Spread)):
            continue
        if sizes.setdefault(dimension.id, size) != size:
            message = f"size `{dimension.id}` is {sizes[dimension.id]} and {size}"
            help = f"`{parameter.name}` has the shape {list(shape)}: the inputs must agree"
            yield Diagnostic("P004", message, dimension.span, help=help)


def _text(file: str) -> str:
    from sdlc.program.values import source_text

    return source_text(file)
