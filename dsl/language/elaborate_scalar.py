"""Scalar expressions, made small at birth: constants folded, neutral elements dropped.

In: an operator's name and operands whose types already fit. Out: an expression with the same value.
Invariant: types are kept; nothing is folded that could change a value beyond the sign of a zero
(`x * 0` of floats stays, an overflow is not folded).

    make("add", x, i32(0)) is x
    make("floordiv", Index(i), i32(8)) == i32(0)      for i < 8
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from sdlc.graph.expr import Apply, Expr, Literal
from sdlc.graph.scalar import SCALARS, result_type
from sdlc.graph.types import DType
from sdlc.language.ranges import ANYTHING, interval

Number = int | float | bool


def literal(value: Number) -> Literal:
    """The literal of a compile-time number, of its own type."""
    if isinstance(value, bool):
        return Literal(value, DType.BOOL)
    return Literal(value, DType.I32 if isinstance(value, int) else DType.F32)


def convert(expr: Expr, dtype: DType) -> Expr:
    """An i32 as f32; anything else is as it is."""
    if expr.dtype is DType.I32 and dtype.is_float:
        if isinstance(expr, Literal):
            return Literal(float(expr.value), DType.F32)
        return Apply("f32", (expr,))
    return expr


def common(args: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Numbers of one type: f32 if one of them is."""
    if any(a.dtype is DType.F32 for a in args):
        return tuple(convert(a, DType.F32) for a in args)
    return args


def make(op: str, *args: Expr) -> Expr:
    """`op` applied to operands of fitting types, simplified."""
    values = [a.value for a in args if isinstance(a, Literal)]
    if len(values) == len(args):
        folded = _fold(op, args, values)
        if folded is not None:
            return folded
    simple = _simple(op, args)
    return Apply(op, args) if simple is None else simple


def _fold(op: str, args: tuple[Expr, ...], values: list[Number]) -> Expr | None:
    dtype = result_type(op, tuple(a.dtype for a in args))
    if op == "f16" or (op in ("div", "floordiv", "mod") and values[1] == 0):
        return None
    value = evaluate_static(op, values)
    if dtype is DType.BOOL:
        return Literal(bool(value), DType.BOOL)
    if dtype is DType.I32:
        fits = ANYTHING[0] <= value <= ANYTHING[1]
        return Literal(int(value), DType.I32) if fits else None
    return Literal(float(value), DType.F32) if abs(value) < 3.4e38 else None


def evaluate_static(op: str, values: list[Number]) -> Any:
    """An operator of the table on Python numbers: integers stay exact, floats are f64."""
    exact = {"add": int.__add__, "sub": int.__sub__, "mul": int.__mul__}
    if op in exact and all(isinstance(v, int) for v in values):
        return exact[op](int(values[0]), int(values[1]))
    with np.errstate(all="ignore"):
        result = SCALARS[op].evaluate(*values)
    result = result.item() if isinstance(result, (np.generic, np.ndarray)) else result
    return result


def _is(expr: Expr, value: float) -> bool:
    return isinstance(expr, Literal) and not isinstance(expr.value, bool) and expr.value == value


def _truth(expr: Expr) -> bool | None:
    is_known = isinstance(expr, Literal) and expr.dtype is DType.BOOL
    return bool(expr.value) if is_known and isinstance(expr, Literal) else None


def _simple(op: str, args: tuple[Expr, ...]) -> Expr | None:
    """A smaller expression of the same value, if one is known."""
    match op, args:
        case "add", (a, b):
            return b if _is(a, 0) else a if _is(b, 0) else None
        case "sub", (a, b):
            return a if _is(b, 0) else make("neg", b) if _is(a, 0) else _same_difference(a, b)
        case "mul", (a, b):
            return _product(a, b)
        case "div", (a, b) if _is(b, 1):
            return a
        case "neg", (Apply(op="neg", args=(a,)),):
            return a
        case (("floordiv" | "mod" | "min" | "max"), (a, b)) if a.dtype is DType.I32:
            return _by_interval(op, a, b)
        case "pow", (a, b):
            return _power(a, b)
        case "select", (condition, a, b):
            truth = _truth(condition)
            return a if truth is True or a is b else b if truth is False else None
        case (("f32" | "i32"), (a,)) if a.dtype.value == op:
            return a
    return _logic(op, args)


def _logic(op: str, args: tuple[Expr, ...]) -> Expr | None:
    match op, args:
        case "not", (Apply(op="not", args=(a,)),):
            return a
        case (("and" | "or"), (a, b)):
            for one, other in ((a, b), (b, a)):
                truth = _truth(one)
                if truth is not None:
                    return other if truth is (op == "and") else one
    return None


def _same_difference(a: Expr, b: Expr) -> Expr | None:
    return Literal(0, DType.I32) if a is b and a.dtype is DType.I32 else None


def _product(a: Expr, b: Expr) -> Expr | None:
    for one, other in ((a, b), (b, a)):
        if _is(one, 1):
            return other
        if _is(one, 0) and one.dtype is DType.I32:
            return one
    return None


def _by_interval(op: str, a: Expr, b: Expr) -> Expr | None:
    """Quotients, remainders and bounds that the operands' intervals decide."""
    low, high = interval(a)
    if op in ("min", "max"):
        other_low, other_high = interval(b)
        if high <= other_low:
            return a if op == "min" else b
        return (b if op == "min" else a) if other_high <= low else None
    if not isinstance(b, Literal) or b.value <= 0:
        return None
    divisor = int(b.value)
    quotient = low // divisor
    if quotient == high // divisor:
        if op == "floordiv":
            return Literal(quotient, DType.I32)
        return make("sub", a, Literal(quotient * divisor, DType.I32))
    return a if divisor == 1 and op == "floordiv" else None


def _power(a: Expr, b: Expr) -> Expr | None:
    """Small constant powers without `pow`, which is slow and undefined for negative bases."""
    if not isinstance(b, Literal):
        return None
    match float(b.value):
        case 1.0:
            return a
        case 2.0:
            return Apply("mul", (a, a))
        case 3.0:
            return Apply("mul", (Apply("mul", (a, a)), a))
        case 4.0:
            return Apply("mul", (Apply("mul", (a, a)), Apply("mul", (a, a))))
        case 0.5:
            return Apply("sqrt", (a,))
        case -0.5:
            return Apply("rsqrt", (a,))
        case -1.0:
            return Apply("div", (Literal(1.0, DType.F32), a))
    return None


def is_finite(value: Number) -> bool:
    return isfinite(value)
