"""Matrix instructions that a device lacks, as loops, and what sub-groups exchange.

In: a kernel. Out: the kernel without the instructions that capabilities do not list; where they
list none for a sub-group, its work-items exchange values through local memory. Invariant: the
same products are summed in the accumulator's type; work-items hold what they held.

    c += a × b   →   every work-item stores its elements of a and b to local memory; barrier;
                     for k: c0 += a[row0, k] * b[k, column0]; …; barrier
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sdlc.graph.types import DType
from sdlc.kernel.fragments import place
from sdlc.kernel.intervals import Bounds
from sdlc.kernel.ir import (
    I32,
    Access,
    Assign,
    Barrier,
    Buffer,
    Cast,
    Exchange,
    Expr,
    Extract,
    For,
    Kernel,
    Let,
    Load,
    MatrixMultiply,
    Space,
    Stmt,
    Store,
    Var,
    WorkId,
    call,
    i32,
    statements,
)
from sdlc.kernel.rewrite import Fresh, map_statements, work_ranges
from sdlc.kernel.simplify import Simplifier
from sdlc.target import Capabilities, MatrixInstruction


def expand_matrices(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Products by instructions that are not to be had → loops over local memory."""
    missing = [
        s
        for s in statements(kernel.body)
        if isinstance(s, MatrixMultiply) and s.instruction not in caps.matrix
    ]
    whole = frozenset(i.lanes for i in caps.matrix)
    apart = any(isinstance(s, Exchange) and s.lanes not in whole for s in statements(kernel.body))
    if not missing and not apart:
        return kernel
    expanding = _Expanding(kernel, frozenset(s.instruction for s in missing), whole)
    body = map_statements(kernel.body, expanding.statement)
    return replace(kernel, body=body, arrays=(*kernel.arrays, *expanding.arrays))


@dataclass(slots=True)
class _Expanding:
    kernel: Kernel
    missing: frozenset[MatrixInstruction]
    whole: frozenset[int]
    fresh: Fresh = field(init=False)
    simplifier: Simplifier = field(init=False)
    held: dict[MatrixInstruction, tuple[Buffer, Buffer]] = field(default_factory=dict)
    exchanged: list[Buffer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.fresh = Fresh(self.kernel)
        self.simplifier = Simplifier(Bounds(work_ranges(self.kernel)))

    @property
    def arrays(self) -> tuple[Buffer, ...]:
        """The local arrays in which factors are exchanged."""
        return (*(array for pair in self.held.values() for array in pair), *self.exchanged)

    def statement(self, stmt: Stmt) -> tuple[Stmt, ...]:
        if isinstance(stmt, Exchange) and stmt.lanes not in self.whole:
            return self._exchanged(stmt)
        if not isinstance(stmt, MatrixMultiply) or stmt.instruction not in self.missing:
            return (stmt,)
        of = stmt.instruction
        left, right = self._arrays(of)
        number = self._number()
        subgroup = call("floordiv", number, i32(of.lanes))
        lane = call("mod", number, i32(of.lanes))
        stores: list[Stmt] = []
        for side, array, holding, width in (
            (stmt.left, left, of.left, of.k),
            (stmt.right, right, of.right, of.n),
        ):
            first = call("mul", subgroup, i32(array.size // self._subgroups(of)))
            for element, value in enumerate(_scalars(side)):
                row, column = place(holding, lane, element)
                stores.append(Store(array, self._at(first, row, column, width), value))
        return (*stores, Barrier(), self._loop(stmt, left, right, subgroup, lane), Barrier())

    def _exchanged(self, stmt: Exchange) -> tuple[Stmt, ...]:
        """Everybody's value in local memory, for the one whose number differs in a bit."""
        if not self.exchanged:
            name, size = self.fresh.name("exchanged"), self.kernel.work_items
            made = Buffer(name, DType.F32, size, Space.LOCAL, Access.READ_WRITE)
            self.exchanged.append(made)
        array, own, apart = self.exchanged[0], self._number(), i32(stmt.distance)
        bit = call("mod", call("floordiv", own, apart), i32(2))
        other = call("sub", call("add", own, apart), call("mul", bit, i32(2 * stmt.distance)))
        found = Let(stmt.var, Load(array, self.simplifier.visit(other)))
        return Store(array, own, stmt.value), Barrier(), found, Barrier()

    def _loop(
        self, stmt: MatrixMultiply, left: Buffer, right: Buffer, subgroup: Expr, lane: Expr
    ) -> For:
        """Every element of the result that a work-item holds, over k."""
        of = stmt.instruction
        var = Var(self.fresh.name("k_matrix"), I32)
        self.simplifier.bounds.ranges[var] = (0, of.k - 1)
        starts = [call("mul", subgroup, i32(n)) for n in (of.m * of.k, of.k * of.n)]
        kept = DType(of.accumulator)
        sums: list[Stmt] = []
        for element, into in enumerate(stmt.into):
            row, column = place(of.result, lane, element)
            a = Load(left, self._at(starts[0], row, var, of.k))
            b = Load(right, self._at(starts[1], var, column, of.n))
            product = call("mul", _widened(a, kept), _widened(b, kept))
            sums.append(Assign(into, call("add", into, product)))
        return For(var, of.k, tuple(sums), "k")

    def _at(self, first: Expr, row: Expr, column: Expr, width: int) -> Expr:
        index = call("add", call("mul", row, i32(width)), column)
        return self.simplifier.visit(call("add", first, index))

    def _arrays(self, of: MatrixInstruction) -> tuple[Buffer, Buffer]:
        if of not in self.held:
            made = [
                Buffer(
                    self.fresh.name(f"{name}_matrix"),
                    DType(of.inputs),
                    self._subgroups(of) * size,
                    Space.LOCAL,
                    Access.READ_WRITE,
                )
                for name, size in (("left", of.m * of.k), ("right", of.k * of.n))
            ]
            self.held[of] = made[0], made[1]
        return self.held[of]

    def _subgroups(self, of: MatrixInstruction) -> int:
        return self.kernel.work_items // of.lanes

    def _number(self) -> Expr:
        """A work-item's number in its work-group, dimension 0 the fastest."""
        total: Expr = i32(0)
        for dim in (2, 1, 0):
            total = call("add", call("mul", total, i32(self.kernel.group[dim])), _lane(dim))
        return self.simplifier.visit(total)


def _lane(dim: int) -> Expr:
    return WorkId("lane", dim)


def _scalars(side: tuple[Expr, ...]) -> list[Expr]:
    """The elements of a factor one by one."""
    return [e if e.type.lanes == 1 else Extract(e, n) for e in side for n in range(e.type.lanes)]


def _widened(value: Expr, dtype: DType) -> Expr:
    return value if value.type.dtype is dtype else Cast(value, dtype)
