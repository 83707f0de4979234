"""Rules of integer index algebra: sums, quotients, remainders, comparisons.

In: an expression whose operands are simplified. Out: an equal, simpler one, or None where the rule
does not apply. Invariant: a rule never makes an expression that another rule turns back.
Every rule is one equation; `c`, `g`, `m` are positive literals, `q` and `r` linear forms.
"""

from __future__ import annotations

from math import gcd
from typing import Protocol

from sdlc.kernel.intervals import Bounds, Interval, constant_of
from sdlc.kernel.ir import BOOL, I32, Call, Expr, Literal, call, i32
from sdlc.kernel.linear import Linear, combine, linear
from sdlc.kernel.simplify_forms import Order


class Context(Protocol):
    """What rules may ask: ranges, order, and to simplify what they make."""

    @property
    def bounds(self) -> Bounds: ...

    @property
    def order(self) -> Order: ...

    def visit(self, expr: Expr) -> Expr: ...


def truth(value: bool) -> Literal:
    return Literal(value, BOOL)


def fixed(context: Context, expr: Call) -> Expr | None:
    """An integer with one possible value is that value."""
    if expr.type != I32:
        return None
    low, high = context.bounds.interval(expr)
    return i32(low) if low == high else None


def canonical_sum(context: Context, form: Linear) -> Expr:
    """Sums in canonical order, quotients and remainders of one value put together again."""
    while len(form[0]) > 1:
        better = recombine(context, form)
        if better is None:
            break
        form = better
    return context.order.sum_of(form)


def recombine(context: Context, form: Linear) -> Linear | None:
    """k * (x mod c) + k * c * (x floordiv c)              = k * x
    k * (x mod c) + k * c * ((x floordiv c) mod m)  = k * (x mod (c * m))"""
    for atom, k in form[0].items():
        if not isinstance(atom, Call) or atom.op != "mod":
            continue
        x, c = atom.args[0], constant_of(atom.args[1])
        if c is None:
            continue
        high = context.visit(call("floordiv", x, i32(c)))
        for other, coefficient in form[0].items():
            if coefficient != k * c:
                continue
            rest = combine(form, ({atom: 1}, 0), -k)
            if other is high:
                rest = combine(rest, ({other: 1}, 0), -coefficient)
                return combine(rest, linear(x), k)
            if isinstance(other, Call) and other.op == "mod" and other.args[0] is high:
                rest = combine(rest, ({other: 1}, 0), -coefficient)
                whole = context.visit(call("mod", x, call("mul", i32(c), other.args[1])))
                return combine(rest, linear(whole), k)
    return None


def canonical_product(context: Context, expr: Call) -> Expr | None:
    """Constant factors move outwards; the factors of an atom are ordered."""
    if expr.type != I32:
        return None
    constant, factors = 1, list[Expr]()
    for argument in expr.args:
        terms, rest = linear(argument)
        if len(terms) == 1 and not rest:
            ((argument, coefficient),) = terms.items()
            constant *= coefficient
        factors += flat_factors(argument)
    product, *others = sorted(factors, key=context.order.key)
    for factor in others:
        product = call("mul", product, factor)
    return context.order.sum_of(({product: constant}, 0))


def flat_factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Call) and expr.op == "mul" and constant_of(expr.args[1]) is None:
        return [f for a in expr.args for f in flat_factors(a)]
    return [expr]


def split(form: Linear, g: int) -> tuple[Linear, Linear]:
    """`form` as g * high + low, the constant in low."""
    high = {a: c // g for a, c in form[0].items() if c % g == 0}
    low = {a: c for a, c in form[0].items() if c % g}
    return (high, 0), (low, form[1])


def digits(context: Context, form: Linear, g: int) -> tuple[Linear, Linear]:
    """`form` as g * high + low, where the least value of low lies in 0 … g - 1."""
    (high, _), low = split(form, g)
    shift = normal_shift(context, low, g)
    return (high, shift), combine(low, ({}, g), -shift)


def candidates(form: Linear, c: int) -> list[int]:
    """Common divisors of `c` with coefficients, large first: where a sum may fall apart."""
    found = {gcd(k, c) for k in form[0].values()} | ({c} if not form[0] else set())
    return sorted((g for g in found if g > 1), reverse=True)


def quotient_parts(context: Context, expr: Call) -> tuple[Linear, int] | None:
    c = constant_of(expr.args[1])
    if expr.type != I32 or c is None or c <= 0:
        return None
    return linear(expr.args[0]), c


def normal_shift(context: Context, form: Linear, c: int) -> int:
    """How many times `c` to take from a sum so that its least value lies in 0 … c - 1."""
    low = context.bounds.of_linear(form)[0]
    return low // c if -(2**30) < low < 2**30 else 0


def divide(context: Context, expr: Call) -> Expr | None:
    """(c * q + r) floordiv c = q + r floordiv c
    (g * q + r) floordiv (g * m) = q floordiv m    where 0 <= r < g"""
    parts = quotient_parts(context, expr)
    if parts is None:
        return None
    form, c = parts
    whole, rest = split(form, c)
    shift = normal_shift(context, rest, c)
    rest = combine(rest, ({}, c), -shift)
    for g in candidates(rest, c):
        high, low = digits(context, rest, g)
        if inside(context.bounds.of_linear(low), g):
            inner = call("floordiv", context.order.sum_of(high), i32(c // g))
            return with_whole(context, whole, shift, context.visit(inner))
    if inside(context.bounds.of_linear(rest), c):
        return context.order.sum_of(combine(whole, ({}, shift)))
    inner = call("floordiv", context.order.sum_of(rest), i32(c))
    if inner is expr:
        return None
    return with_whole(context, whole, shift, context.visit(inner))


def inside(found: Interval, g: int) -> bool:
    return found[0] >= 0 and found[1] < g


def with_whole(context: Context, whole: Linear, shift: int, rest: Expr) -> Expr:
    total = combine(combine(whole, ({}, shift)), linear(rest))
    return context.order.sum_of(total)


def divide_quotient(context: Context, expr: Call) -> Expr | None:
    """(x floordiv a) floordiv b = x floordiv (a * b)
    (x mod (c * m)) floordiv c = (x floordiv c) mod m"""
    inner, c = expr.args[0], constant_of(expr.args[1])
    if c is None or c <= 0 or not isinstance(inner, Call) or expr.type != I32:
        return None
    d = constant_of(inner.args[-1])
    if d is None or d <= 0:
        return None
    if inner.op == "floordiv":
        return call("floordiv", inner.args[0], i32(c * d))
    if inner.op == "mod" and d % c == 0:
        return call("mod", call("floordiv", inner.args[0], i32(c)), i32(d // c))
    return None


def remainder(context: Context, expr: Call) -> Expr | None:
    """(c * q + r) mod c = r mod c
    (g * q + r) mod (g * m) = g * (q mod m) + r    where 0 <= r < g"""
    parts = quotient_parts(context, expr)
    if parts is None:
        return None
    form, c = parts
    _, rest = split(unwrapped(context, form, c), c)
    rest = combine(rest, ({}, c), -normal_shift(context, rest, c))
    if inside(context.bounds.of_linear(rest), c):
        return context.order.sum_of(rest)
    for g in candidates(rest, c):
        high, low = digits(context, rest, g)
        if g < c and inside(context.bounds.of_linear(low), g):
            inner = context.visit(call("mod", context.order.sum_of(high), i32(c // g)))
            return context.order.sum_of(combine(low, linear(inner), g))
    made = call("mod", context.order.sum_of(rest), i32(c))
    return None if made is expr else made


def unwrapped(context: Context, form: Linear, c: int) -> Linear:
    """k * (y mod m) + r is congruent to k * y + r modulo c, where c divides k * m."""
    for atom, k in tuple(form[0].items()):
        if isinstance(atom, Call) and atom.op == "mod":
            m = constant_of(atom.args[1])
            if m is not None and m > 0 and k * m % c == 0:
                form = combine(form, ({atom: 1}, 0), -k)
                form = combine(form, linear(atom.args[0]), k)
    return form


def difference(context: Context, expr: Call) -> tuple[Linear, Interval] | None:
    """The operands' difference and its range, where they are i32 scalars."""
    left, right = expr.args
    if left.type != I32 or right.type != I32:
        return None
    form = combine(linear(left), linear(right), -1)
    return form, context.bounds.of_linear(form)


def extremum(context: Context, expr: Call) -> Expr | None:
    """min and max decided by ranges, of constants merged, and in order."""
    found = difference(context, expr)
    if found is None:
        return None
    low, high = found[1]
    left, right = expr.args
    smaller = expr.op == "min"
    if high <= 0:
        return left if smaller else right
    if low >= 0:
        return right if smaller else left
    ordered = sorted(expr.args, key=context.order.key)
    constant, inner = constant_of(ordered[0]), ordered[1]
    if constant is not None:
        # A constant reads best on the right, and two of them are one.
        if isinstance(inner, Call) and inner.op == expr.op:
            other = constant_of(inner.args[1])
            if other is not None:
                best = min(constant, other) if smaller else max(constant, other)
                return call(expr.op, inner.args[0], i32(best))
        ordered = [inner, ordered[0]]
    made = call(expr.op, *ordered)
    return None if made is expr else made


def less(context: Context, expr: Call) -> Expr | None:
    """Integer lt, le, gt, ge, decided by ranges or in one form.

    g * q + r < n = q < ceil((n - r) / g), where that does not depend on r."""
    if expr.op in ("gt", "ge"):
        return call("lt" if expr.op == "gt" else "le", expr.args[1], expr.args[0])
    found = difference(context, expr)
    if found is None:
        return None
    form = found[0] if expr.op == "lt" else combine(found[0], ({}, -1))
    low, high = context.bounds.of_linear(form)
    if high < 0 or low >= 0:
        return truth(high < 0)
    made = comparison(context, tightened(context, form))
    return None if made is expr else made


def tightened(context: Context, form: Linear) -> Linear:
    """A form that is negative exactly where `form` is, with the smallest coefficients."""
    divisors = sorted({abs(c) for c in form[0].values()}, reverse=True)
    for g in (*divisors, gcd(*divisors)):
        high, low = split(form, g)
        if g > 1 and high[0]:
            first, last = ((-end - 1) // g for end in context.bounds.of_linear(low))
            if first == last:
                return high[0], -first - 1
    return form


def comparison(context: Context, form: Linear) -> Expr:
    """form < 0 without negative terms: positives < negatives + n, or n <= negatives."""
    left = ({a: c for a, c in form[0].items() if c > 0}, 0)
    right = ({a: -c for a, c in form[0].items() if c < 0}, -form[1])
    if not left[0]:
        return call("le", i32(form[1] + 1), context.order.sum_of((right[0], 0)))
    if right[0] and right[1] < 0:
        left, right = (left[0], -right[1]), (right[0], 0)
    return call("lt", context.order.sum_of(left), context.order.sum_of(right))


def equality(context: Context, expr: Call) -> Expr | None:
    """Integer eq and ne, decided by ranges or divisibility, in one form."""
    found = difference(context, expr)
    if found is None:
        return None
    form, (low, high) = found
    equal = expr.op == "eq"
    if low == high == 0:
        return truth(equal)
    divisor = gcd(*form[0].values())
    if low > 0 or high < 0 or (divisor and form[1] % divisor):
        return truth(not equal)
    terms = {a: c // divisor for a, c in form[0].items()}
    if min(terms.items(), key=lambda t: context.order.key(t[0]))[1] < 0:
        terms, constant = {a: -c for a, c in terms.items()}, -form[1] // divisor
    else:
        constant = form[1] // divisor
    left = ({a: c for a, c in terms.items() if c > 0}, 0)
    right = ({a: -c for a, c in terms.items() if c < 0}, -constant)
    made = call(expr.op, context.order.sum_of(left), context.order.sum_of(right))
    return None if made is expr else made
