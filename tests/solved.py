"""Compile-time values of the language, solved for names: a second reading of what elaboration does.

In: an expression of a signature, values of names. Out: its value, or `Unsolved`. Example: the
dimension `2 * n` with `n = 3` is 6.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sdlc.graph.types import LOWEST
from sdlc.language.syntax import (
    Binary,
    Call,
    Conditional,
    Expression,
    Name,
    Number,
    String,
    Unary,
)


class Unsolved(Exception):
    """These draws do not fit the definition."""


_INTEGER: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
    "%": operator.mod,
    "^": operator.pow,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_CONSTANTS = {"true": True, "false": False, "none": None, "pi": np.pi, "lowest": LOWEST}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}


def solve(expression: Expression, names: Mapping[str, Any]) -> Any:
    """The value of a dimension, default or guard. Raises Unsolved where it has none."""
    match expression:
        case Number():
            return expression.value
        case String():
            return expression.value
        case Name(id):
            if id in names:
                return names[id]
            if id in _CONSTANTS:
                return _CONSTANTS[id]
        case Unary("-", operand):
            return -solve(operand, names)
        case Unary("not", operand):
            return not solve(operand, names)
        case Binary("and", left, right):
            return solve(left, names) and solve(right, names)
        case Binary("or", left, right):
            return solve(left, names) or solve(right, names)
        case Binary(op, left, right) if op in _INTEGER:
            return _arithmetic(op, solve(left, names), solve(right, names))
        case Conditional(condition, then, otherwise):
            return solve(then if solve(condition, names) else otherwise, names)
        case Call(function, arguments) if function in _FUNCTIONS:
            return _FUNCTIONS[function](*(solve(a, names) for a in arguments))
    raise Unsolved


def _arithmetic(op: str, left: Any, right: Any) -> Any:
    try:
        if op == "/" and not (isinstance(left, int) and isinstance(right, int)):
            return left / right
        return _INTEGER[op](left, right)
    except (ZeroDivisionError, TypeError) as error:
        raise Unsolved from error
