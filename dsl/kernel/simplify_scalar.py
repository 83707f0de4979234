"""Rules of logic, selection, floats, casts and vectors.

In: an expression whose operands are simplified. Out: an equal, simpler one, or None.
Invariant: a float rule is exact for every value, infinities and NaN included, but for the sign of a
zero (`x + 0 = x`); so `x * 0` and `x - x` stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    BOOL,
    Call,
    Cast,
    Expr,
    Extract,
    Literal,
    Type,
    Vector,
    call,
    operands,
)
from sdlc.kernel.simplify_integer import Context, truth

FOLDED = frozenset(SCALARS) - {
    *("pow", "exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "tan", "atan", "tanh"),
    *("erf", "f32", "f16", "i32"),
}
"""Operators whose value on literals is the same on every device (division of floats: to the
nearest), so they may be taken at compile time."""


def is_literal(expr: Expr, value: float) -> bool:
    return isinstance(expr, Literal) and expr.value == value


def folded(context: Context, expr: Call) -> Expr | None:
    """An operator on literals is a literal, unless it would not be finite."""
    values = [a for a in expr.args if isinstance(a, Literal)]
    if len(values) != len(expr.args) or expr.op not in FOLDED or expr.type.dtype is DType.F16:
        return None
    with np.errstate(all="ignore"):
        made = SCALARS[expr.op].evaluate(*(v.type.dtype.numpy.type(v.value) for v in values))
    if not np.isfinite(made):
        return None
    return literal(made, expr.type)


def literal(value: np.generic, kind: Type) -> Literal:
    match kind.dtype:
        case DType.BOOL:
            return Literal(bool(value), kind)
        case DType.I32:
            return Literal(int(value), kind)
        case _:
            return Literal(float(value), kind)


def conjunction(context: Context, expr: Call) -> Expr | None:
    """x and true = x; x and false = false; x and x = x; x and not x = false; the duals for or."""
    absorbing = expr.op == "or"
    left, right = expr.args
    for a, b in ((left, right), (right, left)):
        if isinstance(a, Literal):
            return a if bool(a.value) is absorbing else b
        if isinstance(b, Call) and b.op == "not" and b.args[0] is a:
            return truth(absorbing)
    terms = list(dict.fromkeys(flat(expr.op, left) + flat(expr.op, right)))
    made = terms[0]
    for term in terms[1:]:
        made = call(expr.op, made, term)
    return None if made is expr else made


def flat(op: str, expr: Expr) -> list[Expr]:
    if isinstance(expr, Call) and expr.op == op:
        return [t for a in expr.args for t in flat(op, a)]
    return [expr]


OPPOSITE = MappingProxyType(
    {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
)


def negation(context: Context, expr: Call) -> Expr | None:
    """not not x = x; not (a < b) = b <= a for integers (floats have NaN)."""
    inner = expr.args[0]
    if not isinstance(inner, Call):
        return None
    if inner.op == "not":
        return inner.args[0]
    if inner.op in OPPOSITE and all(a.type.dtype is DType.I32 for a in inner.args):
        return call(OPPOSITE[inner.op], *inner.args)
    return None


def selection(context: Context, expr: Call) -> Expr | None:
    """select of a constant condition, of equal arms, of a negated condition, of true and false."""
    condition, then, other = expr.args
    decided = constant(condition)
    if decided is not None:
        return spread(then if decided else other, expr.type.lanes)
    if then is other:
        return then
    if isinstance(condition, Call) and condition.op == "not":
        return call("select", condition.args[0], other, then)
    if expr.type == BOOL and is_literal(then, True) and is_literal(other, False):
        return condition
    return nested_selection(condition, then, other)


def constant(condition: Expr) -> bool | None:
    """What a condition is in every lane, if it is a literal in each and the same."""
    lanes = condition.parts if isinstance(condition, Vector) else (condition,)
    values = {bool(e.value) if isinstance(e, Literal) else None for e in lanes}
    return values.pop() if len(values) == 1 else None


def spread(value: Expr, lanes: int) -> Expr:
    """`value` in every one of `lanes` lanes."""
    return value if value.type.lanes == lanes else Vector((value,) * lanes)


def nested_selection(condition: Expr, then: Expr, other: Expr) -> Expr | None:
    """select(c, select(c, a, b), d) = select(c, a, d), and so for the other arm."""
    made_then, made_other = arm(then, condition, 1), arm(other, condition, 2)
    if made_then is then and made_other is other:
        return None
    return call("select", condition, made_then, made_other)


def arm(expr: Expr, condition: Expr, which: int) -> Expr:
    selects = isinstance(expr, Call) and expr.op == "select" and expr.args[0] is condition
    return operands(expr)[which] if selects else expr


def neutral_right(op: str, *values: float) -> Callable[[Context, Call], Expr | None]:
    """x op value = x, for floats."""

    def rule(context: Context, expr: Call) -> Expr | None:
        if not expr.type.dtype.is_float:
            return None
        return expr.args[0] if any(is_literal(expr.args[1], v) for v in values) else None

    rule.__doc__ = f"x {op} {values[0]} = x"
    return rule


def neutral_left(op: str, value: float) -> Callable[[Context, Call], Expr | None]:
    """value op x = x, for floats."""

    def rule(context: Context, expr: Call) -> Expr | None:
        if not expr.type.dtype.is_float:
            return None
        return expr.args[1] if is_literal(expr.args[0], value) else None

    rule.__doc__ = f"{value} {op} x = x"
    return rule


def double_negation(context: Context, expr: Call) -> Expr | None:
    """- - x = x"""
    inner = expr.args[0]
    return inner.args[0] if isinstance(inner, Call) and inner.op == "neg" else None


def minus_one(context: Context, expr: Call) -> Expr | None:
    """x * -1 = -x, for floats"""
    if not expr.type.dtype.is_float:
        return None
    for a, b in (expr.args, expr.args[::-1]):
        if is_literal(b, -1.0):
            return call("neg", a)
    return None


def idempotent(context: Context, expr: Call) -> Expr | None:
    """min(x, x) = x; max(x, x) = x"""
    return expr.args[0] if expr.args[0] is expr.args[1] else None


def fused(context: Context, expr: Call) -> Expr | None:
    """fma(a, b, c) = a * b + c for integers; fma(a, 1, c) = a + c."""
    a, b, c = expr.args
    if expr.type.dtype is DType.I32:
        return call("add", call("mul", a, b), c)
    if is_literal(b, 1.0):
        return call("add", a, c)
    return call("add", b, c) if is_literal(a, 1.0) else None


def as_cast(context: Context, expr: Call) -> Expr | None:
    """The conversions of the language are casts of the kernel."""
    return Cast(expr.args[0], DType(expr.op))


def cast_of_literal(context: Context, expr: Cast) -> Expr | None:
    value = expr.value
    if not isinstance(value, Literal) or expr.dtype is DType.F16 or value.type.dtype is DType.F16:
        return None
    if expr.dtype is DType.I32 and not -(2**31) <= value.value < 2**31:
        return None
    if expr.dtype is DType.F32:
        return Literal(float(np.float32(value.value)), Type(DType.F32, value.type.lanes))
    kind = Type(expr.dtype, value.type.lanes)
    return Literal(int(value.value) if expr.dtype is DType.I32 else bool(value.value), kind)


def cast_of_cast(context: Context, expr: Cast) -> Expr | None:
    """Cast to x's own type = x; a cast through a type that holds every value of x goes away."""
    value = expr.value
    if value.type.dtype is expr.dtype:
        return value
    if isinstance(value, Cast) and holds(context, value.value, value.dtype):
        return Cast(value.value, expr.dtype)
    return None


def holds(context: Context, value: Expr, dtype: DType) -> bool:
    """Whether `dtype` represents every value of `value`, and truth as 0 and 1."""
    match value.type.dtype, dtype:
        case (DType.F16, DType.F32) | (DType.BOOL, DType.I32 | DType.F32 | DType.F16):
            return True
        case DType.I32, DType.F32:
            low, high = context.bounds.interval(value)
            return low >= -(2**24) and high <= 2**24
    return False


def extracted(context: Context, expr: Extract) -> Expr | None:
    """Lanes of a vector made from its lanes, of a splat literal, of other extracted lanes."""
    value = expr.value
    if expr.count == value.type.lanes:
        return value
    match value:
        case Vector() if expr.count == 1:
            return value.parts[expr.first]
        case Vector():
            return Vector(value.parts[expr.first : expr.first + expr.count])
        case Literal():
            return Literal(value.value, Type(value.type.dtype, expr.count))
        case Extract():
            return Extract(value.value, value.first + expr.first, expr.count)
    return None


Rule = Callable[[Context, Call], Expr | None]

FLOAT_RULES: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "add": (neutral_right("+", 0.0), neutral_left("+", 0.0)),
        "sub": (neutral_right("-", 0.0),),
        "mul": (neutral_right("*", 1.0), neutral_left("*", 1.0), minus_one),
        "div": (neutral_right("/", 1.0),),
        "neg": (double_negation,),
        "min": (idempotent,),
        "max": (idempotent,),
        "fma": (fused,),
    }
)
