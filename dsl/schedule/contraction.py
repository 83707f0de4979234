"""Contractions, recognised by their axes.

In: a group. Out: `Contraction`, or None. A reduction is a contraction if it sums a product of two
factors: axes only in the left factor are M, only in the right one N, in both and reduced K, in both
and kept batch. Invariant: no operator's name is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, axes_of, reads_of
from sdlc.graph.node import Const, Input, Role
from sdlc.schedule.group import Group


@dataclass(frozen=True, slots=True)
class Contraction:
    """The factors and the classes of the axes, each in the group's order; `rights` are the right
    factors of all fields where several sums share the left one."""

    left: Expr
    right: Expr
    batch: tuple[Axis, ...]
    m: tuple[Axis, ...]
    n: tuple[Axis, ...]
    k: tuple[Axis, ...]
    rights: tuple[Expr, ...]

    @property
    def fields(self) -> int:
        """How many sums there are."""
        return len(self.rights)

    @property
    def right_values(self) -> int:
        """How many values the right factors are read from: parts of one have one address."""
        return len({frozenset((r.source, r.field) for r in reads_of(e)) for e in self.rights})

    @property
    def left_larger(self) -> bool:
        """Whether the left factor has at least as many elements as the right ones together."""
        rows, columns = (prod(a.extent for a in axes) for axes in (self.m, self.n))
        return rows >= columns * self.fields


def contraction(group: Group) -> Contraction | None:
    """The group as a contraction. Axes in neither factor count as batch.

    The factor that is known before the run (a weight or constant) is the right one. A sum of
    squares is none: its factors are one.
    """
    if group.monoid is None or not group.monoid.is_sums or constant_factor(group) is not None:
        return None
    factors = [_factors(lift) for lift in group.lift]
    if factors[0] is None:
        return None
    left, right = factors[0]
    a, b = axes_of(left), axes_of(right)
    if left is right or not reads_of(left) or not reads_of(right):
        return None
    for other in factors[1:]:
        if other is None or other[0] is not left or axes_of(other[1]) != b:
            return None
    return Contraction(
        left,
        right,
        tuple(x for x in group.axes if (x in a) == (x in b)),
        tuple(x for x in group.axes if x in a and x not in b),
        tuple(x for x in group.axes if x in b and x not in a),
        group.over,
        tuple(f[1] for f in factors if f is not None),
    )


def _factors(lift: Expr) -> tuple[Expr, Expr] | None:
    """The two factors of a product, the one that is known before the run last."""
    if not (isinstance(lift, Apply) and lift.op == "mul"):
        return None
    left, right = lift.args
    return (right, left) if is_static(left) and not is_static(right) else (left, right)


def is_static(expr: Expr) -> bool:
    """Whether everything that the expression reads is known when weights are loaded."""
    found = reads_of(expr)
    return bool(found) and all(
        isinstance(r.source, Const)
        or (isinstance(r.source, Input) and r.source.role is Role.WEIGHT)
        for r in found
    )


SMALL = 64
"""Elements of a constant matrix that may be written into the code."""

SHORT = 8
"""Terms of a sum that may be written out."""


def constant_factor(group: Group) -> Read | None:
    """The constant of a short sum that it weighs its terms with: a small matrix, read at axes of
    which the code is written out (a transform, not a contraction)."""
    if group.monoid is None or not group.monoid.is_sum:
        return None
    lift = group.lift[0]
    if prod(a.extent for a in group.over) > SHORT or not isinstance(lift, Apply):
        return None
    if lift.op != "mul":
        return None
    for factor in lift.args:
        if isinstance(factor, Read) and isinstance(factor.source, Const) and factor.fill is None:
            small = prod(factor.source.shape) <= SMALL
            if small and all(period(i) is not None for i in factor.indices):
                return factor
    return None


def period(index: Expr) -> tuple[Axis, int] | None:
    """An axis, and after how many of its indices this index repeats."""
    match index:
        case Index(axis=axis):
            return axis, axis.extent
        case Apply(op="mod", args=(Index(axis=axis), Literal(value=int(size)))):
            return axis, int(size)
    return None
