"""Private arrays whose cells are all known become locals.

In: a kernel. Out: the kernel without private arrays that are only accessed at constant indices,
each cell a local. Invariant: every read gives the value that the cell would hold; a cell that is
written once, where all who read it see it, is a name, any other a variable. Halves are single
cells: what is read of several is a vector of them.

    float mean_kept[1];  mean_kept[0] = mean;  … x - mean_kept[0]
    const float mean_kept = mean;              … x - mean_kept

A stage that computes one value for a work-item, as the statistics of a row, is such an array.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Assign,
    Barrier,
    Buffer,
    Declare,
    Exchange,
    Expr,
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
    Type,
    Var,
    Vector,
    statement_expressions,
    statements,
    walk,
    with_factors,
)
from sdlc.kernel.rewrite import expressions, rebuild
from sdlc.kernel.simplify import simplify_kernel

Cell = tuple[int, int]
"""The first element and the lanes of an access."""


def promote_arrays(kernel: Kernel, halves: bool = False) -> Kernel:
    """`kernel` with such arrays as locals, simplified; `halves`: variables can hold them."""
    private = [
        a
        for a in kernel.arrays
        if a.space is Space.PRIVATE and (halves or a.dtype is not DType.F16)
    ]
    cells = _cells(kernel, frozenset(private)) if private else {}
    if not cells:
        return kernel
    promoting = _Promoting(_variables(kernel, cells))
    body = promoting.whole(kernel.body)
    arrays = tuple(a for a in kernel.arrays if a not in cells)
    return simplify_kernel(replace(kernel, arrays=arrays, body=body))


def _cells(kernel: Kernel, arrays: frozenset[Buffer]) -> dict[Buffer, frozenset[Cell]]:
    """The cells of each array that are accessed; not of one where some access is elsewhere, guarded
    or across cells."""
    found: dict[Buffer, set[Cell]] = {}
    elsewhere: set[Buffer] = set()

    def note(array: Buffer, index: Expr, lanes: int) -> None:
        if isinstance(index, Literal) and array.dtype is DType.F16:
            found.setdefault(array, set()).update((int(index.value) + n, 1) for n in range(lanes))
        elif isinstance(index, Literal):
            found.setdefault(array, set()).add((int(index.value), lanes))
        else:
            elsewhere.add(array)

    for stmt in statements(kernel.body):
        if isinstance(stmt, Store) and stmt.buffer in arrays:
            note(stmt.buffer, stmt.index, stmt.value.type.lanes)
            wide = stmt.buffer.dtype is DType.F16 and stmt.value.type.lanes > 1
            if stmt.guard is not None or wide:
                elsewhere.add(stmt.buffer)
    for e in expressions(kernel):
        if isinstance(e, Load) and e.buffer in arrays:
            note(e.buffer, e.index, e.lanes)
    kept = [a for a in kernel.arrays if a in found and a not in elsewhere]
    return {array: frozenset(found[array]) for array in kept if _are_apart(found[array])}


def _are_apart(cells: set[Cell]) -> bool:
    covered = [n for first, lanes in cells for n in range(first, first + lanes)]
    return len(set(covered)) == len(covered)


def _variables(
    kernel: Kernel, cells: dict[Buffer, frozenset[Cell]]
) -> dict[tuple[Buffer, Cell], Var]:
    """A local for each cell, named after its array."""
    named = (
        s.var.name for s in statements(kernel.body) if isinstance(s, (Let, Declare, Exchange, For))
    )
    taken = {*named, *(b.name for b in (*kernel.buffers, *kernel.arrays)) - cells.keys()}
    made = {}
    for array, found in cells.items():
        taken.discard(array.name)
        for number, cell in enumerate(sorted(found)):
            name = f"{array.name}{number or ''}"
            while name in taken:
                number += 1
                name = f"{array.name}{number}"
            taken.add(name)
            made[array, cell] = Var(name, Type(array.dtype, cell[1]))
    return made


@dataclass(frozen=True, slots=True)
class _Promoting:
    """`made` are expressions with locals for loads."""

    variables: dict[tuple[Buffer, Cell], Var]
    made: dict[Expr, Expr] = field(default_factory=dict)

    def whole(self, body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """The body with names where a cell is written once and seen by all, else variables."""
        names = {self._stored(stmt) for stmt in _seen_by_all(body, self._stored, self._read)}
        variables = [var for var in self.variables.values() if var not in names]
        declared = [
            Declare(v, Literal(0 if v.type.dtype is DType.I32 else 0.0, v.type)) for v in variables
        ]
        return (*declared, *self._body(body, names))

    def _stored(self, stmt: Stmt) -> Var | None:
        """The local that a store becomes."""
        if not isinstance(stmt, Store) or not isinstance(stmt.index, Literal):
            return None
        return self.variables.get((stmt.buffer, (int(stmt.index.value), stmt.value.type.lanes)))

    def _local(self, e: Expr) -> Expr:
        """The local, or several of them, that a load becomes; any other expression stays."""
        if not isinstance(e, Load) or not isinstance(e.index, Literal):
            return e
        first = int(e.index.value)
        if e.buffer.dtype is DType.F16 and e.lanes > 1:
            cells = [self.variables.get((e.buffer, (first + n, 1))) for n in range(e.lanes)]
            parts = tuple(c for c in cells if c is not None)
            return Vector(parts) if len(parts) == e.lanes else e
        return self.variables.get((e.buffer, (first, e.lanes)), e)

    def _read(self, stmt: Stmt) -> set[Expr]:
        """The locals that a statement itself reads."""
        held = walk(*statement_expressions(stmt))
        made = (found for e in held if (found := self._local(e)) is not e)
        return {v for found in made for v in (found.operands or (found,))}

    def _body(self, body: tuple[Stmt, ...], names: set[Var | None]) -> tuple[Stmt, ...]:
        made: list[Stmt] = []
        for stmt in body:
            var = self._stored(stmt)
            if isinstance(stmt, Store) and var is not None:
                made.append((Let if var in names else Assign)(var, self._changed(stmt.value)))
            else:
                made.append(self._statement(stmt, names))
        return tuple(made)

    def _statement(self, stmt: Stmt, names: set[Var | None]) -> Stmt:
        match stmt:
            case Let() | Declare() | Assign() | Exchange():
                return replace(stmt, value=self._changed(stmt.value))
            case Store():
                guard = None if stmt.guard is None else self._changed(stmt.guard)
                return Store(
                    stmt.buffer, self._changed(stmt.index), self._changed(stmt.value), guard
                )
            case For():
                return replace(stmt, body=self._body(stmt.body, names))
            case If():
                inner = self._body(stmt.body, names)
                return If(self._changed(stmt.condition), inner)
            case MatrixMultiply():
                return with_factors(stmt, self._changed)
            case Barrier():
                return stmt

    def _changed(self, expr: Expr) -> Expr:
        return rebuild(expr, self._local, self.made)


def _seen_by_all(
    body: tuple[Stmt, ...],
    stored: Callable[[Stmt], Var | None],
    read: Callable[[Stmt], set[Expr]],
) -> Iterator[Stmt]:
    """The stores that are the only one to their cell, before all that read it and beside or around
    them: what reads the cell stands behind the store, and not behind the end of its body."""
    every = list(statements(body))
    stores = Counter(stored(stmt) for stmt in every)
    reads: dict[Expr, list[int]] = {}
    for number, stmt in enumerate(every):
        for var in read(stmt):
            reads.setdefault(var, []).append(number)

    def visit(body: tuple[Stmt, ...], first: int) -> Iterator[Stmt]:
        end = first + _count(body)
        for stmt in body:
            if isinstance(stmt, (For, If)):
                yield from visit(stmt.body, first + 1)
            first += _count((stmt,))
            var = stored(stmt)
            if var is not None and stores[var] == 1:
                places = reads.get(var, [])
                if not places or (first <= places[0] and places[-1] < end):
                    yield stmt

    return visit(body, 0)


def _count(body: tuple[Stmt, ...]) -> int:
    return sum(1 for _ in statements(body))
