"""Kernels executed with NumPy, all work-groups and lanes in lock-step: the sanitizer of level 4.

In: a kernel and the flat arrays of its buffers. Out: the arrays it wrote. Invariant: the result is
what any device would compute that rounds f32 arithmetic correctly, or `Trap` is raised: for an
access out of bounds, a read of a cell that was never written, two lanes on one cell in one phase,
a barrier that only some lanes of a group reach. A value is an array [groups, lanes], with a last
axis for the lanes of a vector; an axis along which it does not vary has length one.

    interpret(kernel, {"x": x})["out"]

The body is compiled to closures first. An expression that reads neither memory nor a mutable
variable is computed once, in the innermost loop whose variables it uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import Array, DType
from sdlc.kernel.interpret_matrix import exchanged, multiplied
from sdlc.kernel.interpret_memory import Cells, Fail, Indices, Lanes, Mask, Trap, Values, cleared
from sdlc.kernel.ir import (
    Access,
    Assign,
    Barrier,
    Call,
    Cast,
    Declare,
    Exchange,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    MatrixMultiply,
    Space,
    Stmt,
    Store,
    Var,
    Vector,
    WorkId,
    operands,
)
from sdlc.kernel.show import show_statement

__all__ = ["Trap", "interpret"]

CHUNK_LANES, CHUNK_CELLS = 1 << 15, 1 << 22


@dataclass(slots=True)
class State:
    """One chunk of lanes while it runs: `values` by slot, `mask` of active lanes (None: all)."""

    values: list[Any]
    memory: Mapping[str, Cells]
    shape: tuple[int, int]
    mask: Mask = None


Op = Callable[[State], None]


@dataclass(slots=True)
class Scope:
    """The code of one body, and how often it runs."""

    depth: int
    times: int = 1
    code: list[Op] = field(default_factory=list)


def interpret(kernel: Kernel, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Run `kernel`; returns every buffer that it may write, flat. Where it wrote nothing there is
    NaN, or zero if the array that was given for a buffer is zero there.

    `arrays` holds a flat array of `buffer.size` elements for each buffer that is read (bools as
    i32). Raises `Trap`, or `ValueError` for arrays that do not fit the kernel.
    """
    machine = Compiler(kernel)
    lanes = prod(kernel.group)
    none = Lanes.of(np.arange(0), lanes)
    memory = {b.name: Cells(b, none, _initial(b, arrays)) for b in kernel.buffers}
    total, step = prod(kernel.grid), _chunk(kernel)
    with np.errstate(all="ignore"):
        for first in range(0, total, step):
            machine.run(np.arange(first, min(first + step, total)), memory)
    return {b.name: memory[b.name].data for b in kernel.buffers if b.access is not Access.READ}


def _initial(buffer: Any, arrays: Mapping[str, Array]) -> Array | None:
    """The array that a buffer begins with; None: nothing is written yet."""
    given = arrays.get(buffer.name)
    if given is None:
        if buffer.access is Access.READ:
            raise ValueError(f"no array for the buffer {buffer.name}")
        return None
    if given.shape != (buffer.size,) or given.dtype != buffer.dtype.numpy:
        raise ValueError(
            f"{buffer.name} is {buffer.dtype.value}[{buffer.size}], not {given.dtype}{given.shape}"
        )
    if buffer.access is Access.WRITE:
        return cleared(given, buffer.dtype)
    return given if buffer.access is Access.READ else given.copy()


def _chunk(kernel: Kernel) -> int:
    """How many work-groups run together, so that their memory stays small."""
    copies = {Space.LOCAL: 1, Space.PRIVATE: kernel.work_items}
    cells = sum(a.size * copies[a.space] for a in kernel.arrays)
    return max(1, min(CHUNK_LANES // kernel.work_items, CHUNK_CELLS // max(1, cells)))


class Compiler:
    """A kernel as closures over slots; `steps` is how many of them a run calls at most. `_places`
    says in which slot, and from which loop depth on, the value of an expression stands."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.count = 0
        self.steps = 0
        self._places: dict[Expr, tuple[int, int]] = {}
        self._constants: list[tuple[int, Values]] = []
        self._ids: list[tuple[int, WorkId]] = []
        self._mutable: dict[Expr, int] = {}
        self._scopes = [Scope(0)]
        self._body(kernel.body)
        self.code = self._scopes[0].code

    def run(self, groups: Indices, memory: Mapping[str, Cells]) -> None:
        """Run the work-groups of these numbers side by side."""
        lanes = Lanes.of(groups, self.kernel.work_items)
        for cells in memory.values():
            cells.move_to(lanes)
        local = {a.name: Cells(a, lanes) for a in self.kernel.arrays}
        state = State([None] * self.count, {**memory, **local}, lanes.shape)
        for slot, value in self._constants:
            state.values[slot] = value
        for slot, expr in self._ids:
            state.values[slot] = self._work_id(expr, groups)
        for op in self.code:
            op(state)

    def _work_id(self, expr: WorkId, groups: Indices) -> Values:
        """Work-groups and lanes are numbered with dimension 0 fastest."""
        if expr.kind == "group":
            numbers = groups[:, None]
            size = self.kernel.grid
        else:
            numbers = np.arange(self.kernel.work_items)[None, :]
            size = self.kernel.group
        return (numbers // prod(size[: expr.dim]) % size[expr.dim]).astype(np.int32)

    def _slot(self) -> int:
        self.count += 1
        return self.count - 1

    def _emit(self, depth: int, op: Op) -> None:
        self._scopes[depth].code.append(op)
        self.steps += self._scopes[depth].times

    @property
    def _depth(self) -> int:
        return len(self._scopes) - 1

    # Statements

    def _body(self, body: tuple[Stmt, ...]) -> None:
        for stmt in body:
            self._statement(stmt)

    def _statement(self, stmt: Stmt) -> None:
        values = _Values(self, stmt)
        match stmt:
            case Let():
                self._let(stmt, values)
            case Declare():
                self._mutable[stmt.var] = self._slot()
                self._emit(self._depth, _move(values.slot(stmt.value), self._mutable[stmt.var]))
            case Assign():
                slot = self._mutable[stmt.var]
                self._emit(self._depth, _assign(values.slot(stmt.value), slot))
            case Store():
                guard = None if stmt.guard is None else values.slot(stmt.guard)
                index, value = values.slot(stmt.index), values.slot(stmt.value)
                self._emit(self._depth, _store(stmt, index, value, guard, values.fail))
            case For():
                slot = self._slot()
                code = self._inner(stmt.body, stmt.var, slot, stmt.extent)
                until = None
                if stmt.until is not None:
                    place, end = map(values.slot, stmt.until)
                    until = _counts(place, end, values.fail)
                self._emit(self._depth, _loop(stmt.extent, slot, code, until))
            case If():
                condition = values.slot(stmt.condition)
                self._emit(self._depth, _branch(condition, self._inner(stmt.body)))
            case Barrier():
                self._emit(self._depth, _barrier(values.fail))
            case Exchange():
                self._exchange(stmt, values)
            case MatrixMultiply():
                into = [self._mutable[v] for v in stmt.into]
                left, right = ([values.slot(e) for e in s] for s in (stmt.left, stmt.right))
                op = multiplied(stmt.instruction, into, left, right)
                self._emit(self._depth, _together(op, stmt.instruction.lanes, values.fail))

    def _exchange(self, stmt: Exchange, values: _Values) -> None:
        value, slot = values.slot(stmt.value), self._slot()
        op = _together(exchanged(stmt.distance, value, slot), stmt.lanes, values.fail)
        self._emit(self._depth, op)
        self._places[stmt.var] = (slot, self._depth)

    def _let(self, stmt: Let, values: _Values) -> None:
        slot, depth = values.place(stmt.value)
        if stmt.value in self._mutable:
            copy = self._slot()
            self._emit(self._depth, _move(slot, copy))
            slot = copy
        self._places[stmt.var] = (slot, min(depth, self._depth))

    def _inner(
        self, body: tuple[Stmt, ...], var: Var | None = None, slot: int = 0, extent: int = 1
    ) -> list[Op]:
        self._scopes.append(Scope(len(self._scopes), self._scopes[-1].times * extent))
        if var is not None:
            self._places[var] = (slot, self._depth)
        self._body(body)
        return self._scopes.pop().code


class _Values:
    """The expressions of one statement: those that read memory or mutable variables are computed
    here and forgotten after it, the others as far outside as their variables allow."""

    def __init__(self, compiler: Compiler, stmt: Stmt) -> None:
        self.compiler = compiler
        self.stmt = stmt
        self._here: dict[Expr, int] = {}

    def fail(self, what: str) -> Exception:
        return Trap(f"{self.compiler.kernel.name}: {what}\n  in: {show_statement(self.stmt)}")

    def slot(self, expr: Expr) -> int:
        return self.place(expr)[0]

    def place(self, expr: Expr) -> tuple[int, int]:
        """The slot of an expression's value, and the depth from which on it stays."""
        compiler = self.compiler
        if expr in compiler._places:
            return compiler._places[expr]
        if expr in compiler._mutable:
            return compiler._mutable[expr], _HERE
        if expr in self._here:
            return self._here[expr], _HERE
        if isinstance(expr, Var):
            raise self.fail(f"{expr.name} is not defined")
        slot = compiler._slot()
        parts = [self.place(o) for o in operands(expr)]
        depth = max((d for _, d in parts), default=0)
        if isinstance(expr, Load):
            depth = _HERE
        match expr:
            case WorkId():
                compiler._ids.append((slot, expr))
            case Literal():
                compiler._constants.append((slot, _literal(expr)))
            case _:
                op = _operation(expr, slot, [s for s, _ in parts], self.fail)
                compiler._emit(min(depth, compiler._depth), op)
        if depth == _HERE:
            self._here[expr] = slot
            return slot, _HERE
        compiler._places[expr] = (slot, depth)
        return slot, depth


_HERE = 1 << 30


def _literal(expr: Literal) -> Values:
    shape = (1, 1) if expr.type.lanes == 1 else (1, 1, expr.type.lanes)
    return np.full(shape, expr.value, _numpy(expr.type.dtype))


def _numpy(dtype: DType) -> np.dtype[Any]:
    """The type of values in flight: a bool is a bool; only in memory it is a 32-bit number."""
    return np.dtype(np.bool_) if dtype is DType.BOOL else dtype.numpy


def _operation(expr: Expr, slot: int, args: list[int], fail: Fail) -> Op:
    match expr:
        case Call():
            return _call(expr, slot, args)
        case Cast():
            return _cast(expr, slot, args[0])
        case Load():
            return _load(expr, slot, args[0], fail)
        case Vector():
            return _vector(slot, args)
        case Extract():
            return _extract(expr, slot, args[0])
        case _:
            raise fail(f"not an expression: {expr!r}")


def _call(expr: Call, slot: int, args: list[int]) -> Op:
    """Elementwise; a scalar operand of a vector operation gets a last axis. What f16 operands give
    is computed in f32, which is wide enough that rounding its result to f16 is the only rounding
    that counts (Figueroa, "When is double rounding innocuous?", 1995)."""
    evaluate, dtype = SCALARS[expr.op].evaluate, _numpy(expr.type.dtype)
    halves = any(a.type.dtype is DType.F16 for a in expr.args)
    widen = tuple(expr.type.lanes > 1 and a.type.lanes == 1 for a in expr.args)

    def run(state: State) -> None:
        given = [state.values[a] for a in args]
        if halves:
            given = [g.astype(np.float32) if g.dtype == np.float16 else g for g in given]
        if any(widen):
            given = [g[..., None] if w else g for g, w in zip(given, widen, strict=True)]
        made = evaluate(*given)
        state.values[slot] = made if made.dtype == dtype else made.astype(dtype)

    return run


def _cast(expr: Cast, slot: int, value: int) -> Op:
    source, dtype = expr.value.type.dtype, _numpy(expr.dtype)

    def truncate(state: State) -> None:
        # What no i32 holds is the nearest that one does; NaN is zero.
        wide = np.nan_to_num(state.values[value].astype(np.float64), nan=0.0)
        state.values[slot] = np.clip(np.trunc(wide), -(2.0**31), 2.0**31 - 1).astype(np.int32)

    def run(state: State) -> None:
        state.values[slot] = state.values[value].astype(dtype)

    return truncate if source.is_float and expr.dtype is DType.I32 else run


def _load(expr: Load, slot: int, index: int, fail: Fail) -> Op:
    name, lanes = expr.buffer.name, expr.lanes
    is_bool = expr.buffer.dtype is DType.BOOL

    def run(state: State) -> None:
        found = state.memory[name].load(state.values[index], lanes, state.mask, fail)
        state.values[slot] = found != 0 if is_bool else found

    return run


def _vector(slot: int, parts: list[int]) -> Op:
    def run(state: State) -> None:
        given = np.broadcast_arrays(*(state.values[p] for p in parts))
        state.values[slot] = np.stack(given, axis=-1)

    return run


def _extract(expr: Extract, slot: int, value: int) -> Op:
    lanes = slice(expr.first, expr.first + expr.count)

    def run(state: State) -> None:
        state.values[slot] = state.values[value][..., lanes]

    def run_one(state: State) -> None:
        state.values[slot] = state.values[value][..., expr.first]

    return run_one if expr.count == 1 else run


def _move(value: int, slot: int) -> Op:
    def run(state: State) -> None:
        state.values[slot] = state.values[value]

    return run


def _assign(value: int, slot: int) -> Op:
    def run(state: State) -> None:
        made = state.values[value]
        if state.mask is not None:
            mask = state.mask if made.ndim == 2 else state.mask[..., None]
            made = np.where(mask, made, state.values[slot])
        state.values[slot] = made

    return run


def _store(stmt: Store, index: int, value: int, guard: int | None, fail: Fail) -> Op:
    name, dtype = stmt.buffer.name, stmt.buffer.dtype.numpy

    def run(state: State) -> None:
        mask = state.mask
        if guard is not None:
            mask = _both(mask, state.values[guard])
        made = state.values[value].astype(dtype, copy=False)
        state.memory[name].store(state.values[index], made, mask, fail)

    return run


def _both(mask: Mask, condition: Values) -> Mask:
    return condition if mask is None else mask & condition


def _loop(
    extent: int, slot: int, code: list[Op], until: Callable[[State, bool], None] | None
) -> Op:
    def run(state: State) -> None:
        for i in range(extent):
            if until is not None:
                until(state, True)
            state.values[slot] = np.full((1, 1), i, np.int32)
            for op in code:
                op(state)
        if until is not None:
            until(state, False)

    return run


def _counts(
    place: int, end: int, fail: Callable[[str], Exception]
) -> Callable[[State, bool], None]:
    """Whether a loop's place says that it goes on exactly where it does."""

    def check(state: State, goes_on: bool) -> None:
        below = state.values[place] < state.values[end]
        wrong = below != goes_on
        if (wrong if state.mask is None else wrong & state.mask).any():
            raise fail(f"the loop {'ends' if goes_on else 'goes on'} by its place")

    return check


def _branch(condition: int, code: list[Op]) -> Op:
    def run(state: State) -> None:
        outer = state.mask
        state.mask = _both(outer, state.values[condition])
        if state.mask is None or state.mask.any():
            for op in code:
                op(state)
        state.mask = outer

    return run


def _together(op: Op, size: int, fail: Fail) -> Op:
    """`op` by whole sub-groups, of which none may be reached by some of its lanes only."""

    def run(state: State) -> None:
        if state.mask is not None:
            mask = np.broadcast_to(state.mask, state.shape).reshape(-1, size)
            if (mask.any(axis=1) != mask.all(axis=1)).any():
                raise fail("an instruction that only some lanes of a sub-group reach")
        op(state)

    return run


def _barrier(fail: Fail) -> Op:
    def run(state: State) -> None:
        groups: Values = np.ones(state.shape[0], np.bool_)
        if state.mask is not None:
            mask = np.broadcast_to(state.mask, state.shape)
            groups = np.asarray(mask.any(axis=1))
            if (groups != mask.all(axis=1)).any():
                raise fail("a barrier that only some work-items of a work-group reach")
        for cells in state.memory.values():
            if cells.buffer.space is Space.LOCAL:
                cells.forget_phase(groups)

    return run
