"""One group of a kernel, or one stage of it, as statements.

In: a group, its nest, what its axes are called, where its results go. Out: statements through the
kernel's one emitter. Invariant: for any legal nest the statements compute the group's definition;
points beyond an inexact axis are neither stored nor combined. One path serves all:

    output loops {
      stages
      accumulators = identity                      one a point of the register tile
      reduced loops { stages; accumulator = combine(accumulator, lift) }
      fold of vector lanes; tree over work-items
      stores
    }
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from sdlc.graph.expr import Expr, Slot, axes_of, walk
from sdlc.graph.node import Monoid, Node
from sdlc.graph.types import DType
from sdlc.kernel import ir as k
from sdlc.kernel.emit import Emitter
from sdlc.kernel.lower_fold import Folding, combined, identity, splat
from sdlc.kernel.lower_matrix import Multiplying
from sdlc.kernel.lower_names import LANE, Names, loop_var
from sdlc.kernel.simplify import Simplifier
from sdlc.kernel.translate import Held, Scope, Storage, translate
from sdlc.kernel.vectorize import Copies, contiguous, depends, replaced, vectorize
from sdlc.schedule.contraction import constant_factor, contraction
from sdlc.schedule.group import Group, Output
from sdlc.schedule.nest import Kind, Loop, Nest

Value = tuple[Node, int]
Point = dict[k.Expr, k.Expr]
Slots = Mapping[tuple[int, int], k.Expr]
Stages = Callable[[str], None]
"""Emits the stages that stand in the body of a loop (`""`: outside all loops)."""


@dataclass(slots=True)
class Work:
    """What all parts of one kernel share."""

    emit: Emitter
    simplifier: Simplifier
    storage: Mapping[Value, Storage]
    held: dict[Value, Held]
    arrays: list[k.Buffer]
    group_size: tuple[int, int, int]
    constants: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Small constants in storage order, by buffer; known elements are written into the code."""
    copies: Copies = field(default_factory=Copies)

    subgroup: int = 0
    """Work-items, along dimension 0, that exchange values without local memory; 0: none."""

    together: int = 1
    """States of a work-item that are combined with those of others at once."""
    shared: dict[tuple[str, int], k.Buffer] = field(default_factory=dict)
    """Local arrays in which work-items combine states, by name and size: used again and again."""

    def shared_array(self, name: str, dtype: DType, size: int) -> k.Buffer:
        """A local array to combine states in."""
        if (name, size) not in self.shared:
            self.shared[name, size] = self.array(name, dtype, size, k.Space.LOCAL)
        return self.shared[name, size]

    def folded(self, expr: k.Expr) -> k.Expr:
        """The expression with known elements of constants as literals."""
        known: dict[k.Expr, k.Expr] = {
            e: k.f32(self.constants[e.buffer.name][int(e.index.value)])
            for e in k.walk(expr)
            if isinstance(e, k.Load)
            and e.buffer.name in self.constants
            and isinstance(e.index, k.Literal)
        }
        return self.simplifier.visit(replaced(expr, known)) if known else expr

    def array(self, stem: str, dtype: DType, size: int, space: k.Space) -> k.Buffer:
        """A new array of the kernel."""
        name = self.emit.fresh(stem, k.I32).name
        made = k.Buffer(name, dtype, size, space, k.Access.READ_WRITE)
        self.arrays.append(made)
        return made


@dataclass(frozen=True, slots=True)
class _Form:
    """A store of one output, before the point of the register tile is known: `symbols` stand for
    the results of the reduction."""

    symbols: Mapping[tuple[int, int], k.Var]
    buffer: k.Buffer
    index: k.Expr
    value: k.Expr
    guard: k.Expr


class Part:
    """Emits one group under its nest. `prefix` names its loops apart from other parts'."""

    def __init__(
        self, work: Work, group: Group, nest: Nest, names: Names, prefix: str = ""
    ) -> None:
        self.work, self.group, self.nest, self.names = work, group, nest, names
        self.prefix = prefix
        self.emit, self.simplify = work.emit, work.simplifier.visit
        vector = [lp for lp in nest.loops if lp.kind is Kind.VECTOR]
        self.vector = vector[0] if vector else None
        self.width = self.vector.extent if self.vector else 1
        self.vector_reduces = self.vector is not None and nest.is_reduced(self.vector)
        self.tile = self.points(reduced=False)
        self.made_wide: dict[k.Expr, k.Expr] = {}
        factor = constant_factor(group)
        self.periodic = frozenset({(factor.source, factor.field)} if factor is not None else ())
        self.shared = tuple(lp for lp in nest.loops if lp.kind is Kind.LANE and nest.is_reduced(lp))

    def run(self, stages: Stages) -> None:
        """Emits everything."""
        loops = [lp for lp in self.nest.loops if lp.kind is Kind.SERIAL]
        inner = [lp for lp in loops if self.nest.is_reduced(lp)]
        staged = {s.at for s in self.nest.stages}
        outer = [lp for lp in loops if lp not in inner]
        if self.nest.matrix is not None:
            # What is stored beside an instruction's results, which fill the registers, is loaded
            # behind the reduction where no loop of one pass stands around it.
            outer = [lp for lp in outer if lp.extent > 1 or lp.name in staged]
        if all(lp.extent == 1 and lp.name not in staged for lp in inner):
            inner = []
        for loop in outer:
            self.open(loop)
            stages(loop.name)
        results = self._reduced(inner, stages) if self.group.monoid else [{} for _ in self.tile]
        self.store(results)
        for loop in reversed(outer):
            self.close(loop)

    def open(self, loop: Loop) -> None:
        var = self.names.loops[loop.name]
        assert isinstance(var, k.Var)
        self.emit.open(var)

    def close(self, loop: Loop) -> None:
        self.emit.close(loop.extent, loop.axis.name)

    def points(self, reduced: bool) -> list[Point]:
        """The copies that unrolled loops ask for, as values of their variables."""
        loops = [
            lp
            for lp in self.nest.loops
            if lp.kind is Kind.UNROLL and self.nest.is_reduced(lp) is reduced
        ]
        return [
            {loop_var(lp, self.prefix): k.i32(n) for lp, n in zip(loops, choice, strict=True)}
            for choice in product(*(range(lp.extent) for lp in loops))
        ]

    # ---- expressions

    def scalar(self, expr: Expr, slots: Slots) -> k.Expr:
        """A graph expression for one lane of one point, loop variables free."""
        names, work = self.names, self.work
        scope = Scope(
            names.axes, slots, work.storage, work.held, names.raw, self.periodic, self.width
        )
        return self.simplify(translate(expr, scope))

    def at(self, expr: k.Expr, point: Point) -> k.Expr:
        """The expression at a point of the register tile."""
        made = expr
        if point:
            made = self.work.simplifier.shifted(expr, point) or self.simplify(
                self.work.copies.at(expr, point)
            )
        return self.work.folded(made) if self.work.constants else made

    def wide(self, expr: k.Expr) -> k.Expr:
        if self.vector is None:
            return expr
        return vectorize(expr, LANE, self.width, self.work.simplifier, self.made_wide)

    # ---- reduction

    def _reduced(self, loops: list[Loop], stages: Stages) -> list[Slots]:
        """Emits the reduction; gives the results of every tile point as slots."""
        monoid = self.group.monoid
        assert monoid is not None
        matrix = self.nest.matrix
        steps = matrix is not None or (len(self.tile) > 1 and not self.work.constants)
        if not loops and not self.shared and not self.vector_reduces and not steps:
            return self._written_out(monoid)
        accumulators = self._accumulators(monoid)
        for loop in loops:
            self.open(loop)
            stages(loop.name)
        if matrix is None:
            self._accumulate(monoid, accumulators)
        else:
            Multiplying(self, matrix).emit(accumulators)
        for loop in reversed(loops):
            self.close(loop)
        folding = Folding(self.work, self.nest, self.names, self.shared)
        results: list[list[k.Expr]] = [list(a) for a in accumulators]
        if self.vector_reduces:
            results = [folding.lanes(monoid, a, self.width) for a in results]
        if self.shared:
            results = folding.trees(monoid, results)
        return [{(0, f): v for f, v in enumerate(a)} for a in results]

    def _written_out(self, monoid: Monoid) -> list[Slots]:
        """The results of a reduction without loops, as expressions; terms that a constant 0 weighs
        are left out of sums."""
        lift = [self.guarded(self.scalar(e, {}), f) for f, e in enumerate(self.group.lift)]
        values: list[k.Expr] = []
        for point in self.tile:
            state: list[k.Expr] = []
            for copy in self.points(reduced=True):
                terms = [self.wide(self.at(e, {**copy, **point})) for e in lift]
                if monoid.is_sum and is_zero_product(terms[0]):
                    continue
                state = combined(monoid, state, terms) if state else terms
            if not state:
                state = [identity(f.identity, f.dtype) for f in monoid.fields]
            values += [splat(v, v.type.lanes) for v in state]
        made = iter(self.emit.prepare(values))
        fields = range(len(monoid.fields))
        return [
            {
                (0, f): self.emit.bind(self.emit.fresh("total", v.type), self.emit.settle(v))
                for f in fields
                for v in [next(made)]
            }
            for _ in self.tile
        ]

    def _accumulators(self, monoid: Monoid) -> list[tuple[k.Var, ...]]:
        """The state of every tile point. A field that does not depend on some of the tile's loops
        is one variable for all points that differ in those alone."""
        made: dict[tuple[int, frozenset[tuple[k.Expr, k.Expr]]], k.Var] = {}
        states = []
        for point in self.tile:
            state = []
            for f, of in enumerate(monoid.fields):
                varies = self._varies(f)
                key = f, frozenset((v, n) for v, n in point.items() if v in varies)
                if key not in made:
                    width = self.width if LANE in varies else 1
                    var = self.emit.fresh(f"total_{of.name}", k.Type(of.dtype, width))
                    self.emit.declare(var, splat(identity(of.identity, of.dtype), width))
                    made[key] = var
                state.append(made[key])
            states.append(tuple(state))
        return states

    def _varies(self, field: int) -> frozenset[k.Expr]:
        """The loop variables of the tile and the vector that a field of the state depends on."""
        monoid = self.group.monoid
        assert monoid is not None
        loops = [lp for lp in self.nest.loops if lp.kind in (Kind.UNROLL, Kind.VECTOR)]
        if self.shared or self.vector_reduces or len(monoid.fields) == 1:
            return frozenset(loop_var(lp, self.prefix) for lp in loops)
        fields = {field}
        while (
            more := {
                e.field for f in fields for e in walk(monoid.combine[f]) if isinstance(e, Slot)
            }
            - fields
        ):
            fields |= more
        axes = axes_of(*(self.group.lift[f] for f in fields))
        return frozenset(loop_var(lp, self.prefix) for lp in loops if lp.axis in axes)

    def _accumulate(self, monoid: Monoid, states: list[tuple[k.Var, ...]]) -> None:
        lift = [self.guarded(self.scalar(e, {}), f) for f, e in enumerate(self.group.lift)]
        rounds: list[dict[k.Var, k.Expr]] = []
        for copies in self._rounds(monoid, lift):
            made: dict[k.Var, k.Expr] = {}
            for point, state in zip(self.tile, states, strict=True):
                if all(var in made for var in state):
                    continue
                terms = [[self.wide(self.at(e, {**c, **point})) for e in lift] for c in copies]
                folded = self._folded(monoid, terms)
                made.update(zip(state, combined(monoid, state, folded), strict=True))
            rounds.append(made)
        if self.vector is None and len(rounds) > 1 and monoid.is_separate and not self.prefix:
            rounds = self._row_by_row(rounds, states)
        prepared = iter(self.emit.prepare(v for made in rounds for v in made.values()))
        for made in rounds:
            self._assign({var: next(prepared) for var in made}, monoid.is_separate)

    def _row_by_row(
        self, rounds: list[dict[k.Var, k.Expr]], states: list[tuple[k.Var, ...]]
    ) -> list[dict[k.Var, k.Expr]]:
        """The steps of a tile of scalars, those of one row after the other's: what is read of a row
        is then needed no longer, while vectors of one step serve all rows."""
        form = contraction(self.group)
        axes = frozenset(self.group.axes) if form is None else axes_of(form.left)
        moving = {loop_var(lp, self.prefix) for lp in self.nest.loops if lp.axis in axes}
        rows: dict[frozenset[tuple[k.Expr, k.Expr]], list[k.Var]] = {}
        for point, state in zip(self.tile, states, strict=True):
            row = frozenset((v, n) for v, n in point.items() if v in moving)
            rows.setdefault(row, []).extend(state)
        return [{v: made[v] for v in row if v in made} for row in rows.values() for made in rounds]

    def _rounds(self, monoid: Monoid, lift: Sequence[k.Expr]) -> list[list[Point]]:
        """The copies of a step that are folded before they meet the state: all of them, where
        something is known of every term (that it counts one), else one after the other."""
        copies = self.points(reduced=True)
        known = any(isinstance(e, k.Literal) for e in lift)
        return [copies] if known and not monoid.is_separate else [[c] for c in copies]

    def _folded(self, monoid: Monoid, terms: list[list[k.Expr]]) -> list[k.Expr]:
        """Terms combined by halves."""
        while len(terms) > 1:
            pairs = zip(terms[::2], terms[1::2], strict=False)
            rest = terms[len(terms) // 2 * 2 :]
            made = [[self.simplify(e) for e in combined(monoid, a, b)] for a, b in pairs]
            terms = made + rest
        return terms[0]

    def _assign(self, values: Mapping[k.Var, k.Expr], separate: bool) -> None:
        """New values of a state; all are of the old one, so unless fields are separate none is
        assigned before all are known."""
        if separate:
            for var, value in values.items():
                self.emit.assign(var, self.emit.settle(value))
            return
        fresh = {
            var: self.emit.bind(self.emit.fresh("next", var.type), self.emit.settle(value))
            for var, value in values.items()
        }
        for var, value in fresh.items():
            self.emit.assign(var, value)

    def guarded(self, value: k.Expr, field: int) -> k.Expr:
        """`value`, or the identity beyond the extent of an inexact reduced axis."""
        assert self.group.monoid is not None
        of = self.group.monoid.fields[field]
        for axis in self.group.over:
            if axis in self.names.inside:
                kept = self.names.inside[axis]
                value = k.call("select", kept, value, identity(of.identity, of.dtype))
        return value

    # ---- stores

    def store(self, results: Sequence[Slots]) -> None:
        jobs: list[k.Store] = []
        forms: dict[object, _Form] = {}
        for point, slots in zip(self.tile, results, strict=True):
            kinds = tuple((key, v.type.dtype) for key, v in slots.items())
            for number, output in enumerate(self.group.stores):
                if (number, kinds) not in forms:
                    forms[(number, kinds)] = self._form(output, slots)
                jobs += self._stores(forms[(number, kinds)], point, slots)
        self.emit_stores(jobs)

    def emit_stores(self, jobs: Sequence[k.Store]) -> None:
        values = [e for job in jobs for e in (job.index, job.value, job.guard) if e is not None]
        made = iter(self.emit.prepare(values))
        for job in jobs:
            index, value = self.emit.settle(next(made)), self.emit.settle(next(made))
            guard = None if job.guard is None else self.emit.settle(next(made))
            self.emit.add(k.Store(job.buffer, index, value, guard))

    def _form(self, output: Output, slots: Slots) -> _Form:
        symbols = {key: k.Var(f"slot{key[1]}", k.Type(v.type.dtype)) for key, v in slots.items()}
        value = self.scalar(output.value, symbols)
        buffer, flat = self._target(output)
        return _Form(symbols, buffer, self.simplify(flat), value, self._store_guard(buffer))

    def _stores(self, form: _Form, point: Point, slots: Slots) -> list[k.Store]:
        buffer = form.buffer
        value, index = self.at(form.value, point), self.at(form.index, point)
        guard = self.at(form.guard, point)
        results: Point = {form.symbols[key]: v for key, v in slots.items()}
        if self.vector is None or self.vector_reduces:
            return [stored(buffer, index, replaced(value, results), guard)]
        return self._vector_stores(buffer, index, value, guard, results)

    def _target(self, output: Output) -> tuple[k.Buffer, k.Expr]:
        """The buffer that an output goes to, and the element number."""
        exact = Scope(self.names.raw, {}, {})
        indices = tuple(translate(i, exact) for i in output.indices)
        held = self.work.held.get((output.node, output.field))
        if held is not None:
            return held.buffer, held.flat(indices)
        storage = self.work.storage[(output.node, output.field)]
        return storage.buffer, storage.flat(indices)

    def _vector_stores(
        self,
        buffer: k.Buffer,
        index: k.Expr,
        value: k.Expr,
        guard: k.Expr,
        results: Point,
    ) -> list[k.Store]:
        """One vector store where lanes are consecutive and all inside, else one a lane."""
        wide = replaced(self.wide(value), results)
        varies = depends(guard, frozenset({LANE}))
        if contiguous(index, LANE) and not varies:
            start = self.at(index, {LANE: k.i32(0)})
            return [stored(buffer, start, splat(wide, self.width), guard)]
        made = []
        for number in range(self.width):
            one = k.Extract(wide, number) if wide.type.lanes > 1 else wide
            here: Point = {LANE: k.i32(number)}
            kept = self.at(guard, here) if varies else guard
            made.append(stored(buffer, self.at(index, here), one, kept))
        return made

    @property
    def busy(self) -> k.Expr | None:
        """Which work-items a stage keeps busy; None if all."""
        busy: k.Expr | None = None
        for dim, size in enumerate(self.work.group_size):
            own = self.nest.size(Kind.LANE, dim)
            if self.prefix and own < size:
                inside = k.call("lt", k.WorkId("lane", dim), k.i32(own))
                busy = inside if busy is None else k.call("and", busy, inside)
        return busy

    def _store_guard(self, buffer: k.Buffer) -> k.Expr:
        """Whether a point is inside every inexact axis, and this lane is the one that stores: each
        keeps its own copy of what is private."""
        guard: k.Expr = k.Literal(True, k.BOOL)
        if buffer.space is k.Space.PRIVATE:
            return guard
        for axis in self.group.axes:
            if axis in self.names.inside:
                guard = k.call("and", guard, self.names.inside[axis])
        for loop in self.shared:
            guard = k.call("and", guard, k.call("eq", self.names.loops[loop.name], k.i32(0)))
        if self.busy is not None:
            guard = k.call("and", guard, self.busy)
        return self.simplify(guard)


def stored(buffer: k.Buffer, index: k.Expr, value: k.Expr, guard: k.Expr) -> k.Store:
    """A store; a guard that always holds is dropped."""
    kept = None if isinstance(guard, k.Literal) and guard.value else guard
    if value.type.dtype is not buffer.dtype:
        value = k.Cast(value, buffer.dtype)
    return k.Store(buffer, index, value, kept)


def is_zero_product(value: k.Expr) -> bool:
    """Whether a term is a product with a constant 0."""
    return (
        isinstance(value, k.Call)
        and value.op == "mul"
        and any(isinstance(a, k.Literal) and a.value == 0 for a in value.args)
    )
