"""Intervals of integer expressions: the proof that an index is in range.

In: i32 expressions of the graph and what is known about their parts. Out: inclusive intervals that
hold every value. Invariant: sound (a value never lies outside), not always tight. Sums are brought
into linear form first, so `i - i` is 0 and `i - i / 4 * 4` is `i % 4`.

    interval(i * 2 + j - 1, FULL)      (-1, 2 * n + m - 4)   for i < n, j < m
    refine(i < 5, True, FULL)          what is known where the condition holds
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

from sdlc.graph.expr import Apply, Expr, Index, Literal
from sdlc.graph.types import DType

Interval = tuple[int, int]

ANYTHING: Interval = (-(2**31), 2**31 - 1)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Bounds of subexpressions beyond what their form says; `dead` where nothing is reached."""

    bounds: Mapping[Expr, Interval] = field(default_factory=dict)
    dead: bool = False


FULL = Ranges()
DEAD = Ranges(dead=True)


@dataclass(frozen=True, slots=True)
class Linear:
    """`sum of coefficient * atom + constant`, without zero coefficients."""

    terms: Mapping[Expr, int]
    constant: int

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        terms = dict(self.terms)
        for atom, coefficient in other.terms.items():
            total = terms.pop(atom, 0) + factor * coefficient
            if total:
                terms[atom] = total
        return Linear(terms, self.constant + factor * other.constant)


def interval(expr: Expr, ranges: Ranges = FULL) -> Interval:
    """An inclusive interval that holds every value of an i32 expression."""
    return _Solver(ranges).interval(expr)


def inside(expr: Expr, extent: int, ranges: Ranges) -> bool:
    """Whether `0 <= expr < extent` at every point that is reached."""
    if ranges.dead:
        return True
    low, high = interval(expr, ranges)
    return low >= 0 and high < extent


def linear(expr: Expr) -> Linear:
    """The linear form over atoms: axes and everything that is not a sum or a multiple."""
    return _Solver(FULL).linear(expr)


@dataclass(frozen=True, slots=True)
class _Solver:
    """One question about one set of ranges; shared subexpressions are answered once."""

    ranges: Ranges
    forms: dict[Expr, Linear] = field(default_factory=dict)
    intervals: dict[Expr, Interval] = field(default_factory=dict)

    def linear(self, expr: Expr) -> Linear:
        if expr not in self.forms:
            self.forms[expr] = self._linear(expr)
        return self.forms[expr]

    def _linear(self, expr: Expr) -> Linear:
        match expr:
            case Literal(value=value, dtype=DType.I32):
                return Linear({}, int(value))
            case Apply(op="add", args=(a, b)):
                return self.linear(a).plus(self.linear(b))
            case Apply(op="sub", args=(a, b)):
                return self.linear(a).plus(self.linear(b), -1)
            case Apply(op="neg", args=(a,)):
                return Linear({}, 0).plus(self.linear(a), -1)
            case (
                Apply(op="mul", args=(a, Literal() as b))
                | Apply(op="mul", args=(Literal() as b, a))
            ):
                return Linear({}, 0).plus(self.linear(a), int(b.value))
        return Linear({expr: 1}, 0)

    def interval(self, expr: Expr) -> Interval:
        if expr not in self.intervals:
            low, high = self.of_form(_fold_remainders(self.linear(expr)))
            known = self.ranges.bounds.get(expr, (low, high))
            self.intervals[expr] = (max(low, known[0]), min(high, known[1]))
        return self.intervals[expr]

    def of_form(self, form: Linear) -> Interval:
        low = high = form.constant
        for atom, coefficient in form.terms.items():
            a, b = self.atom(atom)
            low += min(coefficient * a, coefficient * b)
            high += max(coefficient * a, coefficient * b)
        return low, high

    def atom(self, atom: Expr) -> Interval:
        low, high = self._structural(atom)
        known = self.ranges.bounds.get(atom)
        return (low, high) if known is None else (max(low, known[0]), min(high, known[1]))

    def _structural(self, atom: Expr) -> Interval:
        match atom:
            case Index():
                return (0, atom.axis.extent - 1)
            case Apply(op="select", args=(condition, then, otherwise)):
                return self._select(condition, then, otherwise)
            case Apply() if all(a.dtype is DType.I32 for a in atom.args):
                return _applied(atom.op, tuple(self.interval(a) for a in atom.args))
        return ANYTHING

    def _select(self, condition: Expr, then: Expr, otherwise: Expr) -> Interval:
        arms = [
            (then, refine(condition, True, self.ranges)),
            (otherwise, refine(condition, False, self.ranges)),
        ]
        reached = [interval(value, known) for value, known in arms if not known.dead]
        return hull(reached) if reached else self.interval(then)


def _fold_remainders(form: Linear) -> Linear:
    """`k*x - k*c*(x / c)` becomes `k*(x % c)`, whose interval is smaller."""
    for atom, coefficient in form.terms.items():
        match atom:
            case Apply(op="floordiv", args=(x, Literal(value=c))) if c > 0:
                inner = linear(x)
                if not inner.terms or coefficient % int(c):
                    continue
                factor = -coefficient // int(c)
                if all(form.terms.get(a) == factor * k for a, k in inner.terms.items()):
                    rest = form.plus(inner, -factor).plus(Linear({atom: 1}, 0), -coefficient)
                    return rest.plus(Linear({Apply("mod", atom.args): 1}, 0), factor)
    return form


def _applied(op: str, args: tuple[Interval, ...]) -> Interval:
    match op, args:
        case "mul", (a, b):
            return _corners(x * y for x, y in product(a, b))
        case "min", (a, b):
            return (min(a[0], b[0]), min(a[1], b[1]))
        case "max", (a, b):
            return (max(a[0], b[0]), max(a[1], b[1]))
        case "abs", ((low, high),):
            least = 0 if low <= 0 <= high else min(abs(low), abs(high))
            return (least, max(abs(low), abs(high)))
        case "floordiv", (a, b) if b[0] > 0 or b[1] < 0:
            return _corners(x // y for x, y in product(a, b))
        case "mod", (a, (c, d)) if c == d and c > 0:
            same_period = a[0] // c == a[1] // c
            return (a[0] % c, a[1] % c) if same_period else (0, c - 1)
        case "mod", (_, (c, d)) if c > 0:
            return (0, d - 1)
        case "neg", ((low, high),):
            return (-high, -low)
    return ANYTHING


def _corners(values: object) -> Interval:
    corners = list(values)  # type: ignore[call-overload]
    return (min(corners), max(corners))


def hull(intervals: list[Interval]) -> Interval:
    """The smallest interval around several (at least one)."""
    return (min(low for low, _ in intervals), max(high for _, high in intervals))


# ---- conditions --------------------------------------------------------------------------------

_NEGATED = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


def refine(condition: Expr, truth: bool, ranges: Ranges) -> Ranges:
    """What is known where `condition` is `truth`; `dead` where it never is."""
    if ranges.dead:
        return ranges
    match condition, truth:
        case Literal(value=value), _:
            return ranges if bool(value) is truth else DEAD
        case Apply(op="not", args=(a,)), _:
            return refine(a, not truth, ranges)
        case (Apply(op="and", args=(a, b)), True) | (Apply(op="or", args=(a, b)), False):
            return refine(b, truth, refine(a, truth, ranges))
        case Apply(op=op, args=(a, b)), _ if op in _NEGATED and a.dtype is b.dtype is DType.I32:
            return _compare(op if truth else _NEGATED[op], a, b, ranges)
    return ranges


def decide(condition: Expr, ranges: Ranges) -> bool | None:
    """The value of a condition, where intervals tell it."""
    if refine(condition, True, ranges).dead:
        return False
    if refine(condition, False, ranges).dead:
        return True
    return None


def _compare(op: str, a: Expr, b: Expr, ranges: Ranges) -> Ranges:
    difference = linear(a).plus(linear(b), -1)
    negated = Linear({}, 0).plus(difference, -1)
    one = Linear({}, 1)
    match op:
        case "lt":
            return at_most_zero(difference.plus(one), ranges)
        case "le":
            return at_most_zero(difference, ranges)
        case "gt":
            return at_most_zero(negated.plus(one), ranges)
        case "ge":
            return at_most_zero(negated, ranges)
        case "eq":
            return at_most_zero(negated, at_most_zero(difference, ranges))
    low, high = _Solver(ranges).of_form(difference)
    return DEAD if low == high == 0 else ranges


def outside(expr: Expr, extent: int, ranges: Ranges) -> Ranges:
    """What is known where `expr` is not in `0 … extent - 1`: something if only one side is open."""
    if ranges.dead:
        return ranges
    low, high = interval(expr, ranges)
    form = linear(expr)
    if low >= 0:  # too large: extent - expr <= 0
        return at_most_zero(Linear({}, extent).plus(form, -1), ranges)
    if high < extent:  # negative: expr + 1 <= 0
        return at_most_zero(form.plus(Linear({}, 1)), ranges)
    return ranges


def at_most_zero(form: Linear, ranges: Ranges) -> Ranges:
    """Every atom's bound that follows from `form <= 0`."""
    if ranges.dead:
        return ranges
    solver = _Solver(ranges)
    low, _ = solver.of_form(form)
    if low > 0:
        return DEAD
    bounds = dict(ranges.bounds)
    for atom, k in form.terms.items():
        a, b = solver.atom(atom)
        slack = -(low - (k * a if k > 0 else k * b))  # k * atom <= slack
        if k > 0:
            b = min(b, slack // k)
        else:
            a = max(a, -(slack // -k))
        bounds[atom] = (a, b)
    return Ranges(bounds)
