"""Level 2 executed: what a graph means, in plain NumPy.

In: a graph, arrays for its inputs and weights, a mode. Out: the named results as arrays.
Invariant: every node is evaluated by its definition, one after another, with nothing taken from a
later level; a tensor is released after its last reader.

    evaluate(graph, {"x": x}, {}, Mode.F64)["out"]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from sdlc.graph.node import Const, Graph, Input, Map, Node, Reduce, Role, sources, topological
from sdlc.graph.reference_expr import Arithmetic, Doubt, Order, Rounding, Scope, boxes
from sdlc.graph.reference_reduce import POINTS, as_product, contract, fold
from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import Diagnostic, SdlError

Tensors = dict[tuple[Node, int], Array]


class Mode(Enum):
    """All f64 and nothing rounded; all f32; f32 with f16 tensors rounded on store."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"


@dataclass(frozen=True, slots=True)
class Options:
    """`contractions`: sums of products as matrix products; the others: see
    `reference_expr.Arithmetic`."""

    contractions: bool = True
    rounding: Rounding | None = None
    order: Order | None = None
    doubt: Doubt | None = None


DEFAULT = Options()


def evaluate(
    graph: Graph,
    inputs: Mapping[str, npt.ArrayLike],
    weights: Mapping[str, npt.ArrayLike],
    mode: Mode,
    options: Options = DEFAULT,
) -> dict[str, Array]:
    """The graph's outputs by name: f64 arrays in mode F64, else of each output's host dtype (f32
    for f16 outputs in mode F32; i32 and bool are int32 in every mode).

    Raises SdlError for a missing, mis-shaped or mis-typed input or weight, AssertionError for a
    read out of range that has no `else`.
    """
    real = np.float64 if mode is Mode.F64 or options.rounding else np.float32
    chosen = (options.rounding, options.order, options.doubt)
    arithmetic = Arithmetic(np.dtype(real), mode is Mode.F16, *chosen)
    for given in graph.inputs:
        _check(given, inputs)
    nodes = tuple(topological(graph))
    waiting = Counter(source for node in nodes for source in sources(node))
    waiting.update(node for _, node, _ in graph.outputs)
    tensors: Tensors = {}
    for node in nodes:
        arrays = inputs if isinstance(node, Input) and node.role is Role.INPUT else weights
        with np.errstate(all="ignore"):
            values = _evaluate_node(node, tensors, arrays, arithmetic, options)
        tensors.update({(node, field): value for field, value in enumerate(values)})
        _release(node, tensors, waiting)
    return {
        name: _to_host(tensors[node, field], node.dtypes[field], mode)
        for name, node, field in graph.outputs
    }


def _evaluate_node(
    node: Node,
    tensors: Tensors,
    arrays: Mapping[str, npt.ArrayLike],
    arithmetic: Arithmetic,
    options: Options,
) -> list[Array]:
    match node:
        case Input():
            return [arithmetic.store(_check(node, arrays), node.dtype)]
        case Const():
            return [arithmetic.store(node.array, node.dtype)]
        case Map():
            return [_map(node, tensors, arithmetic)]
        case Reduce():
            factors = as_product(node) if options.contractions else None
            if factors is None or arithmetic.rounding is not None:
                fields = fold(node, tensors, arithmetic, describe(node))
            else:
                fields = contract(node, factors, tensors, arithmetic, describe(node))
            stored = zip(fields, node.dtypes, strict=True)
            return [arithmetic.store(value, dtype) for value, dtype in stored]


def _map(node: Map, tensors: Tensors, arithmetic: Arithmetic) -> Array:
    result: Array | None = None
    for box in boxes(node.axes, POINTS):
        value = Scope(box, tensors, arithmetic, describe(node)).evaluate(node.body)
        stored = arithmetic.store(value, node.dtype)
        if result is None:
            result = np.empty(node.shape, stored.dtype)
        result[box.slices] = stored
    assert result is not None
    return result


def _release(node: Node, tensors: Tensors, waiting: Counter[Node]) -> None:
    """Drops the tensors whose last reader was `node`."""
    for source in sources(node):
        waiting[source] -= 1
        if not waiting[source]:
            for field in range(len(source.dtypes)):
                tensors.pop((source, field), None)


def _to_host(value: Array, dtype: DType, mode: Mode) -> Array:
    if not dtype.is_float:
        return value.astype(np.int32)
    if mode is Mode.F64 or value.dtype == np.float64:
        return value.astype(np.float64)
    return value.astype(np.float16 if mode is Mode.F16 and dtype is DType.F16 else np.float32)


def _check(node: Input, arrays: Mapping[str, npt.ArrayLike]) -> Array:
    """The array given for an input or weight, or an error that names it."""
    if node.name not in arrays:
        given = ", ".join(sorted(arrays)) or "none"
        raise _wrong(node, "R001", f"missing {node.role.value} `{node.name}`", f"given: {given}")
    array = np.asarray(arrays[node.name])
    if array.shape != node.shape:
        message = f"{node.role.value} `{node.name}` has the wrong shape"
        shapes = f"given {list(array.shape)}, declared {list(node.shape)}"
        raise _wrong(node, "R002", message, shapes)
    if (array.dtype.kind == "f") != node.dtype.is_float or array.dtype.kind not in "fiub":
        message = f"{node.role.value} `{node.name}` has the wrong element type"
        raise _wrong(node, "R003", message, f"given {array.dtype}, declared {node.dtype!r}")
    return array


def _wrong(node: Input, code: str, message: str, fact: str) -> SdlError:
    declared = f"{node.dtype!r}[{', '.join(map(str, node.shape))}]"
    help = f"pass an array for `{node.name}: {declared}`"
    span = node.origin.span
    return SdlError(
        (Diagnostic(code, message, span, "declared here", (("fact", fact),), help),), {}
    )


def describe(node: Node) -> str:
    """A node's name and place, for messages."""
    origin = node.origin
    place = f" ({origin.span})" if origin.span else ""
    inside = f" of {origin.definition}" if origin.definition else ""
    return f"{origin.name}{inside}{place}"
