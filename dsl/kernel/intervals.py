"""Ranges and linear forms of integer expressions.

In: i32 expressions and the ranges of their variables. Out: `Bounds`, which answers with intervals
(inclusive) and linear forms, under facts such as a guard. Invariant: every value that the
expression can take lies in its interval. Integers are taken not to overflow 32 bits: an expression
that could is unknown (`INT32`), and `verify` refuses it as an index.

    Bounds({x: (0, 7)}).interval(x * 4 + 3)                       (3, 31)
    Bounds({x: (0, 7)}).assuming(x < 5).interval(x * 4 + 3)       (3, 19)
    linear((x + y) * 4 - y)                                       ({x: 4, y: 3}, 0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from sdlc.graph.types import DType
from sdlc.kernel.ir import I32, Call, Cast, Expr, Extract, Literal, Load, Vector
from sdlc.kernel.linear import Linear, combine, linear, scale

Interval = tuple[int, int]
Ranges = Mapping[Expr, Interval]

INT32: Interval = (-(2**31), 2**31 - 1)
"""The interval of an integer of which nothing is known."""


def interval(expr: Expr, ranges: Ranges) -> Interval | None:
    """The inclusive range of an integer expression; None for a float or where nothing is known."""
    if expr.type.dtype not in (DType.I32, DType.BOOL):
        return None
    found = Bounds(ranges).interval(expr)
    return None if found == INT32 else found


def constant_of(expr: Expr) -> int | None:
    """The value of an integer literal, else None."""
    return expr.form[1] if isinstance(expr, Literal) and expr.form is not None else None


class Bounds:
    """Intervals and linear forms of expressions, remembered per expression.

    `ranges` maps variables (or any expression) to what is known of them; `facts` are linear forms
    known to be at most zero.
    """

    def __init__(self, ranges: Ranges, facts: Iterable[Linear] = ()) -> None:
        self.ranges = dict(ranges)
        self.facts = tuple(facts)
        # Facts are combined with ranges that do not rest on facts, so that the search ends.
        self._plain = Bounds(ranges) if self.facts else self
        self._intervals: dict[Expr, Interval] = {}

    def assuming(self, condition: Expr, truth: bool = True) -> Bounds:
        """These bounds where `condition` is known to hold (or not to hold)."""
        facts = self.facts_of(condition, truth)
        if not facts:
            return self
        ranges = dict(self.ranges)
        for terms, constant in facts:
            least = self._without_facts((terms, constant))[0]
            for atom, coefficient in terms.items():
                low, high = ranges.get(atom) or self.interval(atom)
                rest = least - coefficient * self.interval(atom)[coefficient < 0]
                if coefficient > 0:
                    high = min(high, -rest // coefficient)
                else:
                    low = max(low, -(rest // coefficient))
                ranges[atom] = (min(low, high), high)
                self._narrow_dividend(ranges, atom)
        return Bounds(ranges, (*self.facts, *(f for f in facts if len(f[0]) > 1)))

    def _narrow_dividend(self, ranges: dict[Expr, Interval], atom: Expr) -> None:
        """What is known of a quotient says how far goes what is divided."""
        if not (isinstance(atom, Call) and atom.op == "floordiv" and atom.args[0] in ranges):
            return
        of, by = atom.args[0], constant_of(atom.args[1])
        if by is None or by < 1:
            return
        (low, high), (least, most) = ranges[of], ranges[atom]
        high = min(high, most * by + by - 1) if most >= 0 else high
        low = max(low, least * by) if least > 0 else low
        ranges[of] = (min(low, high), high)

    def facts_of(self, condition: Expr, truth: bool = True) -> list[Linear]:
        """What a condition says, as linear forms that are at most zero."""
        if not isinstance(condition, Call):
            return []
        op, args = condition.op, condition.args
        if op == "not":
            return self.facts_of(args[0], not truth)
        if op == ("and" if truth else "or"):
            return [f for a in args for f in self.facts_of(a, truth)]
        if any(a.type != I32 for a in args):
            return []
        if not truth:
            op = _NEGATED.get(op, op)
        sides = [linear(a) for a in args]
        return [
            combine(combine(sides[i], sides[1 - i], -1), ({}, 1), offset)
            for i, offset in _AT_MOST_ZERO.get(op, ())
        ]

    def interval(self, expr: Expr) -> Interval:
        """The inclusive range of an i32 or bool expression, of all its lanes."""
        found = self._intervals.get(expr)
        if found is None:
            found = self._intervals[expr] = self._interval_of(expr)
        return found

    def _interval_of(self, expr: Expr) -> Interval:
        if expr.form is not None:
            return _in_int32(self.of_linear(expr.form))
        known = self._without_own_facts(expr)
        return self._with_facts(linear(expr), known) if self.facts else known

    def _without_own_facts(self, atom: Expr) -> Interval:
        known = self.ranges.get(atom)
        if known is not None:
            return known
        return BOOLEAN if atom.type.dtype is DType.BOOL else _in_int32(self._structural(atom))

    def _structural(self, expr: Expr) -> Interval:
        match expr:
            case Literal():
                return int(expr.value), int(expr.value)
            case Call(op="select"):
                then = self.assuming(expr.args[0]).interval(expr.args[1])
                other = self.assuming(expr.args[0], False).interval(expr.args[2])
                return _union(then, other)
            case Call() if expr.op in _OPERATORS:
                return _OPERATORS[expr.op](*(self.interval(a) for a in expr.args))
            case Cast() if expr.value.type.dtype in (DType.BOOL, DType.I32):
                return self.interval(expr.value)
            case Vector():
                found = [self.interval(p) for p in expr.parts]
                return min(f[0] for f in found), max(f[1] for f in found)
            case Extract():
                return self.interval(expr.value)
            case Load():
                return INT32
        return INT32

    def of_linear(self, form: Linear) -> Interval:
        """The range of a linear form (its atoms within 32 bits, the sum unbounded)."""
        found = self._without_facts(form)
        return self._with_facts(form, found) if self.facts else found

    def _without_facts(self, form: Linear) -> Interval:
        low = high = form[1]
        for atom, coefficient in form[0].items():
            ends = self.interval(atom)
            low += coefficient * ends[coefficient < 0]
            high += coefficient * ends[coefficient > 0]
        return low, high

    def _with_facts(self, form: Linear, found: Interval) -> Interval:
        low = -self._upper(scale(form, -1), -found[0])
        return low, self._upper(form, found[1])

    def _upper(self, form: Linear, best: int) -> int:
        """An upper bound of `form`: a fact f <= 0 gives form <= form - k * f for every k > 0, so
        try the k that cancel an atom and keep what helps."""
        for fact in self.facts:
            for k in sorted(_cancelling(form, fact)):
                rest = combine(form, fact, -k)
                bound = self._plain.of_linear(rest)[1]
                if bound < best:
                    form, best = rest, bound
                    break
        return best


BOOLEAN: Interval = (0, 1)


def _cancelling(form: Linear, fact: Linear) -> set[int]:
    """The positive factors k for which form - k * fact loses an atom."""
    return {
        form[0][atom] // c
        for atom, c in fact[0].items()
        if atom in form[0] and form[0][atom] * c > 0 and form[0][atom] % c == 0
    }


def _in_int32(found: Interval) -> Interval:
    """Values that could leave 32 bits are unknown."""
    return found if INT32[0] <= found[0] and found[1] <= INT32[1] else INT32


def _union(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])


def _corners(operator: Callable[[int, int], int]) -> Callable[[Interval, Interval], Interval]:
    """The interval of an operator that is monotonic in each operand."""

    def ends(a: Interval, b: Interval) -> Interval:
        values = [operator(x, y) for x in a for y in b]
        return min(values), max(values)

    return ends


def _floordiv(a: Interval, b: Interval) -> Interval:
    if b[0] > 0:
        return _FLOORDIV_CORNERS(a, b)
    # A divisor of zero leaves the dividend; others only shrink its magnitude (or flip it).
    far = max(abs(a[0]), abs(a[1]))
    return -far - 1, far + 1


def _mod(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0:
        return min(b[0] + 1, 0), max(b[1] - 1, 0)
    if a[0] >= 0 and a[1] < b[0]:
        return a
    if b[0] == b[1] and a[0] // b[0] == a[1] // b[0]:
        return a[0] % b[0], a[1] % b[0]
    return 0, min(b[1] - 1, a[1]) if a[0] >= 0 else b[1] - 1


def _abs(a: Interval) -> Interval:
    ends = sorted((abs(a[0]), abs(a[1])))
    return (0 if a[0] <= 0 <= a[1] else ends[0]), ends[1]


def _min(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), min(a[1], b[1])


def _max(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), max(a[1], b[1])


_FLOORDIV_CORNERS = _corners(lambda x, y: x // y)
_PRODUCT = _corners(lambda x, y: x * y)

_OPERATORS: Mapping[str, Callable[..., Interval]] = MappingProxyType(
    {
        "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
        "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
        "neg": lambda a: (-a[1], -a[0]),
        "mul": _PRODUCT,
        "fma": lambda a, b, c: (_PRODUCT(a, b)[0] + c[0], _PRODUCT(a, b)[1] + c[1]),
        "floordiv": _floordiv,
        "mod": _mod,
        "min": _min,
        "max": _max,
        "abs": _abs,
    }
)

_NEGATED = MappingProxyType(
    {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
)

# Operator to (which side is the smaller, the offset that makes "smaller - larger + offset <= 0").
_AT_MOST_ZERO: Mapping[str, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        "lt": ((0, 1),),
        "le": ((0, 0),),
        "gt": ((1, 1),),
        "ge": ((1, 0),),
        "eq": ((0, 0), (1, 0)),
    }
)
