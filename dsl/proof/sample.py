"""Large kernels checked at a few points: some work-groups, and the definition at what they write.

In: a graph and points of its outputs; a kernel and numbers of its work-groups. Out: a graph that
computes only those points; the arrays with what was written. Invariant: a sampled value is the
definition's own: nodes are instantiated at the indices at which they are needed, and nothing else
about them changes.

    at_points(graph, {"y": [[0, 5], [3, 1]]})     y[p] = the definition of y at point p
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from sdlc.graph.expr import Axis, Expr, Index, Read, apply, rebuild, substitute, walk
from sdlc.graph.node import Const, Graph, Map, Node, Reduce, topological
from sdlc.graph.rewrite import clamp, conjunction, in_range, is_view, read_through
from sdlc.graph.types import Array, DType
from sdlc.kernel.interpret import Compiler
from sdlc.kernel.interpret_memory import Cells, Lanes
from sdlc.kernel.ir import Access, Kernel
from sdlc.program.interpreted import Change, unchanged
from sdlc.program.program import Program, Tensor
from sdlc.program.values import stored

Points = npt.NDArray[np.int64]
"""[points, dimensions]: logical indices."""
GROUPS, POINTS = 4, 48
"""Work-groups that are interpreted of a large kernel, and elements of each output looked at."""
MOST_STEPS = 1 << 21
"""Steps of the interpreter (some seconds) that a sampled kernel takes at most where a device runs
it as well: work-items that are few and do much are long, however few work-groups are interpreted.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """The work-groups and, for every output of a one-kernel program, the points looked at. Without
    work-groups the kernel is too long to be interpreted."""

    groups: tuple[int, ...]
    points: Mapping[str, Points]

    def pick(self, results: Mapping[str, Array]) -> dict[str, Array]:
        """The looked-at elements of whole arrays."""
        return {name: results[name][tuple(at.T)] for name, at in self.points.items()}


class NotSampled(Exception):
    """A stage whose kernel has other work-groups than the sample was made for, or is too long."""


def at_points(graph: Graph, points: Mapping[str, Points]) -> Graph:
    """The graph with every output replaced by its values at `points[name]`."""
    outputs = tuple(
        (name, _column(node, field, points[name], _Instances()), 0)
        for name, node, field in graph.outputs
    )
    return Graph(graph.name, outputs, graph.inputs)


def _column(node: Node, field: int, points: Points, instances: _Instances) -> Map:
    axis = Axis("point", len(points))
    indices = tuple(
        Read(Const(column.astype(np.int32).tobytes(), (len(points),), DType.I32), (Index(axis),))
        for column in points.T
    )
    read = Read(node, indices, field)
    return Map((axis,), instances.expr(read), node.dtypes[field], node.origin)


class _Instances:
    """Nodes at the indices at which they are read."""

    def __init__(self) -> None:
        self._made: dict[tuple[Node, tuple[Expr, ...]], Map | Reduce] = {}

    def expr(self, expr: Expr) -> Expr:
        return rebuild(expr, self._change)

    def _change(self, expr: Expr) -> Expr | None:
        if not isinstance(expr, Read):
            return None
        indices = tuple(self.expr(i) for i in expr.indices)
        fill = None if expr.fill is None else self.expr(expr.fill)
        read = Read(expr.source, indices, expr.field, fill)
        match expr.source:
            case Map() as node if node.dtype is not DType.F16 or is_view(node.body):
                return self.expr(read_through(read, node))
            case Map() | Reduce() as node:
                return self._instanced(read, node)
            case _:
                return read

    def _instanced(self, read: Read, node: Map | Reduce) -> Expr:
        """An element of a reduction, or of a map that rounds what it stores."""
        if read.fill is None:
            return self._instance(node, read.indices, read.field)
        pairs = list(zip(read.indices, node.axes, strict=True))
        safe = tuple(clamp(i, a.extent) for i, a in pairs)
        value = self._instance(node, safe, read.field)
        if not pairs:
            return value
        inside = conjunction([in_range(i, a.extent) for i, a in pairs])
        return apply("select", inside, value, read.fill)

    def _instance(self, node: Map | Reduce, indices: tuple[Expr, ...], field: int) -> Read:
        key = (node, indices)
        free = {e.axis: None for e in walk(*indices) if isinstance(e, Index)}
        if key not in self._made and isinstance(node, Map):
            body = self.expr(substitute(node.body, dict(zip(node.axes, indices, strict=True))))
            self._made[key] = replace(node, axes=tuple(free), body=body)
        elif key not in self._made and isinstance(node, Reduce):
            number = len(self._made)
            over = {a: Axis(f"{a.name}'{number}", a.extent) for a in node.over}
            values: dict[Axis, Expr] = dict(zip(node.axes, indices, strict=True))
            values |= {a: Index(new) for a, new in over.items()}
            lift = tuple(self.expr(substitute(e, values)) for e in node.lift)
            self._made[key] = replace(node, axes=tuple(free), over=tuple(over.values()), lift=lift)
        return Read(self._made[key], tuple(Index(a) for a in free), field)


def work(graph: Graph) -> int:
    """Points at which a graph's expressions are evaluated."""
    total = 0
    for node in topological(graph):
        match node:
            case Map():
                total += prod(node.shape)
            case Reduce():
                total += prod(node.shape) * prod(a.extent for a in node.over)
    return total


# ---- some work-groups ----------------------------------------------------------------------------


def sample_of(program: Program, seed: int = 0, on_device: bool = False) -> Sample:
    """A sample of a one-kernel program: its first and last work-group, others, what they write.
    `on_device`: one runs the kernel too, so that it need not be interpreted if that is long."""
    (kernel,) = program.kernels.values()
    total = prod(kernel.grid)
    generator = np.random.default_rng(seed)
    if on_device and Compiler(kernel).steps > MOST_STEPS:
        return Sample((), {n: _anywhere(program.tensors[n], generator) for n in program.outputs})
    others = generator.integers(0, total, GROUPS - 2).tolist()
    groups = tuple(sorted({0, total - 1, *others}))
    blank = {n: np.zeros(program.tensors[n].shape) for n in program.inputs}
    points = {}
    for name, (_, written) in _interpreted(program, kernel, blank, groups).items():
        tensor = program.tensors[name]
        numbers = _numbers(tensor)[written]
        chosen = generator.permutation(numbers[numbers > 0] - 1)[:POINTS]
        points[name] = np.stack(np.unravel_index(np.sort(chosen), tensor.shape or (1,)), axis=1)
        points[name] = points[name][:, : len(tensor.shape)]
    return Sample(groups, points)


def _anywhere(tensor: Tensor, generator: np.random.Generator) -> Points:
    """Some elements of a tensor."""
    return np.stack([generator.integers(0, n, POINTS) for n in tensor.shape or (1,)], axis=1)[
        :, : len(tensor.shape)
    ]


def interpret_sample(
    program: Program, inputs: Mapping[str, Array], sample: Sample, change: Change = unchanged
) -> dict[str, Array]:
    """The sampled elements after `change`. Raises NotSampled where it makes other work-groups, or
    none are interpreted."""
    (kernel,) = program.kernels.values()
    if not sample.groups:
        raise NotSampled("it is too long")
    made = change(kernel)
    if (made.grid, made.group) != (kernel.grid, kernel.group):
        raise NotSampled(f"its launch was changed to {made.grid} groups of {made.group}")
    found = {}
    for name, (data, written) in _interpreted(program, made, inputs, sample.groups).items():
        tensor = program.tensors[name]
        whole = np.full(prod(tensor.shape) + 1, np.nan if tensor.dtype.is_float else 0, data.dtype)
        whole[_numbers(tensor)[written]] = data[written]
        found[name] = whole[1:].reshape(tensor.shape)
    return sample.pick(found)


def _numbers(tensor: Tensor) -> npt.NDArray[np.int64]:
    """For every cell in storage the number of its element, from 1 on; 0 for padding."""
    numbers = np.arange(1, prod(tensor.shape) + 1, dtype=np.int32).reshape(tensor.shape)
    return stored(numbers, replace(tensor, dtype=DType.I32)).reshape(-1).astype(np.int64)


def _interpreted(
    program: Program, kernel: Kernel, inputs: Mapping[str, Array], groups: Sequence[int]
) -> dict[str, tuple[Array, npt.NDArray[np.bool_]]]:
    """For every output its cells after some work-groups of the kernel, and which they wrote."""
    (dispatch,) = program.dispatches
    bound = dict(dispatch.bindings)
    given = {**inputs, **program.constants}
    machine = Compiler(kernel)
    none = Lanes.of(np.arange(0), prod(kernel.group))
    memory = {}
    for buffer in kernel.buffers:
        data = None
        if buffer.access is Access.READ:
            tensor = program.tensors[bound[buffer.name]]
            data = stored(given[tensor.name].reshape(tensor.shape), tensor).reshape(-1)
        memory[buffer.name] = Cells(buffer, none, data)
    with np.errstate(all="ignore"):
        machine.run(np.asarray(groups), memory)
    cells = {bound[name]: c for name, c in memory.items() if c.written is not None}
    return {name: (c.data, _written(c)) for name, c in cells.items()}


def _written(cells: Cells) -> npt.NDArray[np.bool_]:
    assert cells.written is not None
    return cells.written
