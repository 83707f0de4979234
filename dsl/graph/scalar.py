"""The scalar operators: one row each, with its arity, typing, cost and meaning in NumPy.

In: nothing. Out: `SCALARS`, read by the front end (names and typing), the reference and the
interpreter (meaning) and the cost model. The spelling in OpenCL C and WGSL stands in the printers.
Invariant: a name that is not in the table is not an operator of any level.
Example: `SCALARS["add"].evaluate(1, 2) == 3`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf
from types import MappingProxyType
from typing import Any

import numpy as np

from sdlc.graph.types import DType


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar operator.

    `typing` is `same` (operands agree, result is theirs), `bool` (operands agree, result is bool),
    `float` (operands and result are f32), `logic` (bool to bool), `select` (bool, then two that
    agree) or the name of the type that it converts to. `cost` is in FLOP.
    """

    name: str
    arity: int
    typing: str
    cost: int
    evaluate: Callable[..., Any]
    callable_by_name: bool = False


def _floor_div(a: Any, b: Any) -> Any:
    return np.floor_divide(a, np.where(np.equal(b, 0), 1, b))


def _floor_mod(a: Any, b: Any) -> Any:
    return np.mod(a, np.where(np.equal(b, 0), 1, b))


def _erf(a: Any) -> Any:
    a = np.asarray(a)
    return np.vectorize(erf, otypes=[np.float64])(a).astype(a.dtype)


_ROWS = (
    Scalar("add", 2, "same", 1, np.add),
    Scalar("sub", 2, "same", 1, np.subtract),
    Scalar("mul", 2, "same", 1, np.multiply),
    Scalar("div", 2, "float", 4, np.divide),
    Scalar("floordiv", 2, "same", 4, _floor_div),
    Scalar("mod", 2, "same", 4, _floor_mod),
    Scalar("neg", 1, "same", 1, np.negative),
    Scalar("min", 2, "same", 1, np.minimum, True),
    Scalar("max", 2, "same", 1, np.maximum, True),
    Scalar("abs", 1, "same", 1, np.abs, True),
    Scalar("pow", 2, "float", 16, np.power, True),
    Scalar("exp", 1, "float", 8, np.exp, True),
    Scalar("exp2", 1, "float", 8, np.exp2, True),
    Scalar("log", 1, "float", 8, np.log, True),
    Scalar("log2", 1, "float", 8, np.log2, True),
    Scalar("sqrt", 1, "float", 4, np.sqrt, True),
    Scalar("rsqrt", 1, "float", 4, lambda a: 1.0 / np.sqrt(a), True),
    Scalar("sin", 1, "float", 8, np.sin, True),
    Scalar("cos", 1, "float", 8, np.cos, True),
    Scalar("tan", 1, "float", 8, np.tan, True),
    Scalar("atan", 1, "float", 8, np.arctan, True),
    Scalar("tanh", 1, "float", 8, np.tanh, True),
    Scalar("erf", 1, "float", 16, _erf, True),
    Scalar("floor", 1, "float", 1, np.floor, True),
    Scalar("ceil", 1, "float", 1, np.ceil, True),
    Scalar("round", 1, "float", 1, np.rint, True),
    Scalar("fma", 3, "same", 2, lambda a, b, c: a * b + c),
    Scalar("lt", 2, "bool", 1, np.less),
    Scalar("le", 2, "bool", 1, np.less_equal),
    Scalar("gt", 2, "bool", 1, np.greater),
    Scalar("ge", 2, "bool", 1, np.greater_equal),
    Scalar("eq", 2, "bool", 1, np.equal),
    Scalar("ne", 2, "bool", 1, np.not_equal),
    Scalar("and", 2, "logic", 1, np.logical_and),
    Scalar("or", 2, "logic", 1, np.logical_or),
    Scalar("not", 1, "logic", 1, np.logical_not),
    Scalar("select", 3, "select", 1, np.where),
    Scalar("f32", 1, "f32", 0, lambda a: a, True),
    Scalar("f16", 1, "f16", 0, lambda a: a, True),
    Scalar("i32", 1, "i32", 0, np.trunc, True),
)

SCALARS = MappingProxyType({row.name: row for row in _ROWS})


def result_type(name: str, operands: tuple[DType, ...]) -> DType:
    """The type of `name` applied to operands of these types.

    `select(cond, then, else)` is the then-value's type; conversions are their own name's.
    """
    typing = SCALARS[name].typing
    match typing:
        case "bool" | "logic":
            return DType.BOOL
        case "float":
            return DType.F32
        case "same":
            return operands[0]
        case "select":
            return operands[1]
        case _:
            return DType(typing)
