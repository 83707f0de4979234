"""Level 3 to level 4: a group and its nest become a kernel.

In: a group (what), a nest (where), the storage of every value. Out: a `Kernel`. Invariant: for any
legal nest the kernel computes the group's definition; every stage is filled before it is read, with
barriers around what work-items share.

    group and lane ids; output loops { stages; reduced loops { stages; … } stores }
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from sdlc.graph.node import Const, Node
from sdlc.graph.types import DType, Origin
from sdlc.kernel import ir as k
from sdlc.kernel.emit import Emitter
from sdlc.kernel.intervals import Bounds
from sdlc.kernel.lower_names import (
    Names,
    Ranges,
    form_value,
    loop_names,
    loops_of,
    names_of,
    stage_names,
)
from sdlc.kernel.lower_part import Part, Value, Work
from sdlc.kernel.lower_spread import spread
from sdlc.kernel.simplify import Simplifier
from sdlc.kernel.translate import Held, Storage
from sdlc.schedule.contraction import constant_factor
from sdlc.schedule.distributed import Digit, own_elements
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Kind, Nest, Place, Staged
from sdlc.schedule.sharing import layout

__all__ = ["loop_names", "lower"]

TOGETHER = 4
"""States that work-items combine at once beside matrix instructions, where barriers cost most of
what a work-group takes for its statistics. Elsewhere local memory is what there is little of."""

SPACES = {
    Place.LOCAL: k.Space.LOCAL,
    Place.PRIVATE: k.Space.PRIVATE,
    Place.DISTRIBUTED: k.Space.PRIVATE,
}


def lower(group: Group, nest: Nest, storage: dict[Value, Storage], name: str) -> k.Kernel:
    """The kernel of a group under a nest.

    `storage` has an entry for every value that the group reads from memory or stores there.
    """
    ranges: Ranges = {}
    loops = loops_of(nest, ranges)
    inner = {s.value: loops_of(s.nest, ranges, f"{s.value}/") for s in nest.stages}
    every = dict(loops)
    for value, own in inner.items():
        every |= {f"{value}/{key}": e for key, e in own.items()}
    simplifier = Simplifier(Bounds(ranges))
    lanes = tuple(nest.size(Kind.LANE, d) for d in range(3))
    size = (lanes[0], lanes[1], lanes[2])
    buffers = {s.buffer.name for s in storage.values()}
    work = Work(Emitter(frozenset(buffers | loop_names(nest))), simplifier, storage, {}, [], size)
    work.constants = _constants(group, storage)
    work.together = TOGETHER if nest.multiplies else 1
    work.subgroup = nest.subgroup
    staging = _Staging(group, nest, work)
    for stage in nest.stages:
        staging.prepare(stage, inner[stage.value], every)
    root = Part(work, group, nest, names_of(nest, loops, ranges))
    staging.emit("")
    root.run(staging.emit)
    return _kernel(group, nest, work, storage, name)


class _Staging:
    """The stages of a kernel: their arrays, and their statements at each loop."""

    def __init__(self, group: Group, nest: Nest, work: Work) -> None:
        self.parts = {g.name: g for g in group.inner}
        self.nest, self.work = nest, work
        self.names: dict[str, Names] = {}

    def prepare(self, stage: Staged, loops: dict[str, k.Expr], every: Mapping[str, k.Expr]) -> None:
        """The arrays of a stage, and the names of its axes."""
        group, work = self.parts[stage.value], self.work
        visit = work.simplifier.visit
        first = {
            axis: visit(form_value(form, every))
            for axis, form in zip(group.axes, stage.region.first, strict=True)
        }
        self.names[stage.value] = stage_names(stage, group.axes, first, loops, work.simplifier)
        strides, size = layout(stage, group.axes)
        digits: tuple[Digit, ...] | None = None
        if stage.place is Place.DISTRIBUTED:
            digits, size = own_elements(stage, group.axes)
        for output in group.stores:
            dtype = output.node.dtypes[output.field]
            raw = dtype is not DType.F16 or self.nest.multiplies
            kept = dtype if raw else DType.F32
            array = self._array(stage, kept, size)
            start = tuple(first[a] for a in group.axes)
            held = Held(array, start, strides, stage.region.steps, digits)
            work.held[(output.node, output.field)] = held

    def _array(self, stage: Staged, dtype: DType, size: int) -> k.Buffer:
        """An array of its own, or that of the stage whose place this one takes."""
        replaced = self._replaced(stage)
        if replaced is not None:
            return self.work.held[replaced].buffer
        return self.work.array(f"{stage.value}_kept", dtype, size, SPACES[stage.place])

    def _replaced(self, stage: Staged) -> Value | None:
        """The value of which a stage takes the place."""
        for other in self.nest.stages:
            if other.shares == stage.value:
                (output,) = self.parts[other.value].stores
                return output.node, output.field
        return None

    def emit(self, at: str) -> None:
        """The stages in the body of loop `at`, each after what it reads. A work-group of one shares
        nothing, so nothing waits there (PoCL's compiler fails at some such barriers)."""
        stages = [s for s in self.nest.stages if s.at == at]
        several = prod(self.work.group_size) > 1
        shared = [s.value for s in stages if s.place is Place.LOCAL and several]
        if at and shared:
            self.work.emit.add(k.Barrier())  # what the last pass left is still being read
        written: set[Value] = set()
        read: set[Value] = set()
        for stage in stages:
            group = self.parts[stage.value]
            reads = {(r.source, r.field) for r in group.reads}
            if shared and (written & reads or self._replaced(stage) in read):
                self.work.emit.add(k.Barrier())
                written, read = set(), set()
            self._fill(stage, group)
            read |= reads
            if stage.value in shared:
                written |= {(s.node, s.field) for s in group.stores}
        if written:
            self.work.emit.add(k.Barrier())

    def _fill(self, stage: Staged, group: Group) -> None:
        names = self.names[stage.value]
        if stage.spread:
            spread(self.work, stage, group, names)
        else:
            part = Part(self.work, group, stage.nest, names, f"{stage.value}/")
            # Idle work-items must not even read where others write over what they read.
            apart = part.busy is not None and self._replaced(stage) is not None
            if apart:
                self.work.emit.branch()
            part.run(lambda _: None)
            if apart and part.busy is not None:
                self.work.emit.merge(part.busy)


def _constants(group: Group, storage: Mapping[Value, Storage]) -> dict[str, tuple[float, ...]]:
    """The small constants that the parts weigh their terms with, in storage order, by buffer."""
    found: dict[str, tuple[float, ...]] = {}
    for part in group.parts:
        factor = constant_factor(part)
        if factor is not None and isinstance(factor.source, Const):
            held = storage[(factor.source, 0)]
            flat = factor.source.array.transpose(held.order).reshape(-1)
            found[held.buffer.name] = tuple(float(v) for v in flat)
    return found


def _loaded(body: tuple[k.Stmt, ...]) -> set[str]:
    """The names of the buffers that are read."""
    return {
        e.buffer.name
        for stmt in k.statements(body)
        for e in k.walk(*k.statement_expressions(stmt))
        if isinstance(e, k.Load)
    }


def _kernel(
    group: Group, nest: Nest, work: Work, storage: dict[Value, Storage], name: str
) -> k.Kernel:
    stored: list[tuple[Node, int]] = [(s.node, s.field) for s in group.stores]
    body = work.emit.body()
    folded = work.constants.keys() - (_loaded(body) if work.constants else set())
    values = (*group.operands, *stored)
    buffers = [storage[v].buffer for v in values if storage[v].buffer.name not in folded]
    grid = tuple(nest.size(Kind.GROUP, d) for d in range(3))
    origins = tuple(dict.fromkeys(Origin(o.name, o.definition, o.span) for o in group.origins))
    return k.Kernel(
        name,
        tuple(dict.fromkeys(buffers)),
        tuple(work.arrays),
        body,
        (grid[0], grid[1], grid[2]),
        work.group_size,
        str(nest),
        origins,
    )
