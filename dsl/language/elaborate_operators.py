"""Operators on values of every kind: compile-time values, scalars of a statement, whole tensors.

In: evaluated operands with their spans. Out: a value. Invariant: operands of unlike kinds give an
error that names both; nothing is broadcast except a number or a tensor of rank 0.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from sdlc.graph.expr import Axis, Expr, Literal, Read, substitute
from sdlc.graph.node import Input, Map, Reduce
from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType, Origin, Span
from sdlc.language.elaborate_scalar import (
    Number,
    common,
    convert,
    evaluate_static,
    is_finite,
    literal,
    make,
)
from sdlc.language.ranges import ANYTHING, decide
from sdlc.language.scope import FIXED_TYPES, Env, fresh_axis, indices
from sdlc.language.values import (
    Elementwise,
    RecordField,
    RecordPoint,
    Tensor,
    Value,
    WholeTensor,
    describe,
    field_names,
    is_expression,
    is_number,
    is_static,
    is_tensor,
    show,
    type_text,
)


@dataclass(frozen=True, slots=True)
class Operand:
    value: Value
    span: Span


COMPARISONS = MappingProxyType(
    {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
)
ARITHMETIC = MappingProxyType(
    {"+": "add", "-": "sub", "*": "mul", "/": "div", "%": "mod", "^": "pow"}
)
_PYTHON = MappingProxyType(
    {
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
    }
)
_STATIC_HELP = MappingProxyType(
    {
        "and": "both operands must be booleans, as comparisons are",
        "or": "both operands must be booleans, as comparisons are",
        "not": "the operand must be a boolean, as comparisons are",
        "in": "write `x in list`",
        "+": "`+` adds numbers, and joins two lists or two strings",
    }
)


# ---- entry points ------------------------------------------------------------------------------


def operate(env: Env, op: str, operands: Sequence[Operand], span: Span) -> Value:
    """A unary or binary operator of the language on evaluated operands."""
    values = tuple(o.value for o in operands)
    if op in ("==", "!=") and None in values:
        return (values[0] is values[1]) is (op == "==")
    if all(is_static(v) for v in values):
        return _static(env, op, values, span)
    return lift(env, operands, span, lambda args: combine(env, op, args, span))


def call_scalar(env: Env, name: str, operands: Sequence[Operand], span: Span) -> Value:
    """A function of the scalar table by its name."""
    row = SCALARS[name]
    if len(operands) != row.arity:
        wanted = "1 operand" if row.arity == 1 else f"{row.arity} operands"
        raise env.fail(
            "E024",
            f"`{name}` takes {wanted}, not {len(operands)}",
            span,
            help=f"call it as `{name}({', '.join('abc'[: row.arity])})`",
        )
    if all(is_number(o.value) for o in operands):
        return _static_call(env, name, [o.value for o in operands if is_number(o.value)], span)
    return lift(env, operands, span, lambda args: _named(env, name, args, span))


def choose(env: Env, condition: Expr, then: Operand, otherwise: Operand, span: Span) -> Expr:
    """`if condition then … else …` at one point of a statement."""
    arms = (scalar(env, then), scalar(env, otherwise))
    if (arms[0].dtype is DType.BOOL) != (arms[1].dtype is DType.BOOL):
        found = f"{describe(then.value)}, otherwise {describe(otherwise.value)}"
        raise env.fail(
            "E030",
            "the two values of an `if` differ in type",
            span,
            f"this is {found}",
            help="both must be numbers, or both booleans",
        )
    return make("select", condition, *common(arms))


def scalar(env: Env, operand: Operand) -> Expr:
    """An operand as an expression at one point of the statement."""
    value = operand.value
    if is_expression(value):
        return value
    if isinstance(value, (bool, int, float)):
        if isinstance(value, int) and not ANYTHING[0] <= value <= ANYTHING[1]:
            raise env.fail(
                "E030",
                f"{value} does not fit an i32",
                operand.span,
                help="integers are 32 bits wide; write a float, as in `1e10`",
            )
        return literal(value)
    if isinstance(value, Tensor) and value.shape == ():
        return value.at(())
    raise _not_a_scalar(env, operand)


def _not_a_scalar(env: Env, operand: Operand) -> Exception:
    value, text = operand.value, env.text(operand.span)
    advice = "numbers, sizes, axes and elements of tensors are numbers"
    if is_tensor(value):
        names = ", ".join("ijklmnpq"[: len(value.shape)])
        advice = f"index it, as in `{text if text.isidentifier() else 'x'}[{names}]`"
    elif isinstance(value, RecordField):
        advice = f"index it, as in `{text}[…]`"
    elif isinstance(value, RecordPoint):
        names = " or ".join(f"`s.{n}[…]`" for n in field_names(value.monoid))
        advice = f"read a field of it: {names}"
    elif value is None:
        advice = f"test it first: `if {text} != none …`"
    return env.fail(
        "E030", "a number is needed here", operand.span, f"this is {describe(value)}", help=advice
    )


# ---- scalars of a statement --------------------------------------------------------------------


def combine(env: Env, op: str, args: Sequence[Expr], span: Span) -> Expr:
    """An operator of the language on expressions, converted to fit."""
    if op in ("and", "or", "not"):
        if any(a.dtype is not DType.BOOL for a in args):
            raise _type_error(env, op, args, span, "a comparison makes a boolean: `x > 0`")
        return make(op, *args)
    booleans = [a.dtype is DType.BOOL for a in args]
    if any(booleans) and not (op in ("==", "!=") and all(booleans)):
        raise _type_error(env, op, args, span, "`if c then 1 else 0` makes a number of a boolean")
    if op in COMPARISONS:
        made = make(COMPARISONS[op], *common(tuple(args)))
        known = decide(made, env.ranges)
        return made if known is None else literal(known)
    if len(args) == 1:
        return make("neg", args[0])
    return _arithmetic(op, *common(tuple(args)))


def _arithmetic(op: str, a: Expr, b: Expr) -> Expr:
    integers = a.dtype is DType.I32
    match op:
        case "/":
            return make("floordiv" if integers else "div", a, b)
        case "%" if not integers:
            return make("sub", a, make("mul", make("floor", make("div", a, b)), b))
        case "^" if integers and not (isinstance(b, Literal) and b.value in (1, 2, 3)):
            return make("pow", convert(a, DType.F32), convert(b, DType.F32))
    return make(ARITHMETIC[op], a, b)


def _named(env: Env, name: str, args: Sequence[Expr], span: Span) -> Expr:
    typing = SCALARS[name].typing
    if any(a.dtype is DType.BOOL for a in args):
        raise _type_error(env, name, args, span, "`if c then 1 else 0` makes a number of a boolean")
    if typing == "float":
        return make(name, *(convert(a, DType.F32) for a in args))
    if typing == "same":
        return make(name, *common(tuple(args)))
    if name == "f16":
        return make(name, convert(args[0], DType.F32))
    return make(name, *args)


def _type_error(env: Env, op: str, args: Sequence[Expr], span: Span, advice: str) -> Exception:
    types = " and ".join(a.dtype.value for a in args)
    return env.fail("E030", f"`{op}` does not apply to {types}", span, f"{types} here", help=advice)


# ---- whole tensors -----------------------------------------------------------------------------


def lift(
    env: Env, operands: Sequence[Operand], span: Span, build: Callable[[Sequence[Expr]], Expr]
) -> Value:
    """`build` at one point in index notation; at every point of equal shapes for whole tensors."""
    if env.scalar:
        return build([scalar(env, o) for o in operands])
    wholes = [Operand(as_whole(o.value), o.span) for o in operands]
    shaped = [o for o in wholes if is_tensor(o.value) and o.value.shape]
    axes = elementwise_axes(env, shaped, span)
    body = build([_point(env, o, axes) for o in wholes])
    tensors = [o.value for o in wholes if is_tensor(o.value)]
    return Elementwise(axes, body, storage(body, tensors))


def elementwise_axes(env: Env, shaped: Sequence[Operand], span: Span) -> tuple[Axis, ...]:
    """The axes of an elementwise expression; an error where shapes differ."""
    if not shaped:
        return ()
    first = shaped[0]
    assert is_tensor(first.value)
    for other in shaped[1:]:
        assert is_tensor(other.value)
        if other.value.shape != first.value.shape:
            left, right = env.text(first.span), env.text(other.span)
            raise env.fail(
                "E027",
                "the shapes of whole tensors differ",
                span,
                f"`{left}` is {_type(first.value)}, `{right}` is {_type(other.value)}",
                help="nothing is broadcast unless it is written: `y[i, j] = a[i, j] + b[j]`",
            )
    return axes_of(env, first.value)


def _type(value: WholeTensor) -> str:
    return type_text(value.dtype, value.shape)


def axes_of(env: Env, value: WholeTensor) -> tuple[Axis, ...]:
    """Axes for an elementwise reader of a tensor, named as where it was made."""
    if isinstance(value, Elementwise):
        return value.axes
    node = value.node
    if isinstance(node, (Map, Reduce)):
        return node.axes
    names = env.session.axis_names.get(node, ()) if isinstance(node, Input) else ()
    axes: list[Axis] = []
    for position, extent in enumerate(value.shape):
        name = names[position] if position < len(names) else f"i{position}"
        axes.append(fresh_axis(name, extent, axes))
    return tuple(axes)


def _point(env: Env, operand: Operand, axes: tuple[Axis, ...]) -> Expr:
    value = operand.value
    if is_tensor(value):
        return at_point(value, indices(axes) if value.shape else ())
    return scalar(env, operand)


def at_point(value: WholeTensor, where: tuple[Expr, ...]) -> Expr:
    """One element of a whole tensor."""
    if isinstance(value, Tensor):
        return value.at(where)
    return substitute(value.body, dict(zip(value.axes, where, strict=True)))


def as_whole(value: Value) -> Value:
    """A record's field without indices is a tensor."""
    if isinstance(value, RecordField):
        axes = value.record.node.axes
        body = value.pick(value.record.at(indices(axes)))
        return Elementwise(axes, body, body.dtype)
    return value


def storage(body: Expr, tensors: Sequence[WholeTensor]) -> DType:
    """How an elementwise result is stored: as its widest float operand."""
    if body.dtype is not DType.F32:
        return body.dtype
    floats = {t.dtype for t in tensors if t.dtype.is_float}
    return DType.F16 if floats == {DType.F16} else DType.F32


def node_of(
    env: Env,
    value: WholeTensor,
    name: str,
    span: Span,
    declared: tuple[DType, str] | None = None,
) -> Tensor:
    """A whole tensor as a node's output: itself, or a new `Map`. `declared` is its type, and that
    as it is written, if it is not its own."""
    wanted, element = declared or (value.dtype, "")
    if isinstance(value, Tensor):
        if value.dtype is wanted:
            return value
        axes = axes_of(env, value)
        value = Elementwise(axes, value.at(indices(axes)), wanted)
    stored = env.frame.stored(wanted, element)
    if _moves_wide(value.body) and wanted.is_float and element not in FIXED_TYPES:
        stored = DType.F32
    same = _identity(value)
    stands = env.frame.session.of_rule and same is not None and isinstance(same.node, Input)
    if same is not None and not stands and same.dtype is stored:
        return replace(same, element=wanted)
    return map_of(env, value, stored, env.frame.origin(name, span))


def map_of(env: Env, value: Elementwise, stored: DType, origin: Origin) -> Tensor:
    """A new `Map` of an elementwise tensor, stored so."""
    wide = stored is DType.F32 and (env.frame.wide or _moves_wide(value.body))
    made = Map(value.axes, convert(value.body, value.dtype), stored, origin, wide)
    return Tensor(made, 0, value.dtype)


def _moves_wide(body: Expr) -> bool:
    """Whether an element is merely one of a tensor that is not to be rounded."""
    return isinstance(body, Read) and isinstance(body.source, Map | Reduce) and body.source.wide


def _identity(value: Elementwise) -> Tensor | None:
    """The tensor that an expression merely repeats."""
    match value.body:
        case Read(source=source, indices=where, field=field, fill=None):
            if where == indices(value.axes) and source.shape == value.shape:
                return Tensor(source, field)
    return None


# ---- compile-time values -----------------------------------------------------------------------


def _static(env: Env, op: str, values: tuple[Value, ...], span: Span) -> Value:
    match op, values:
        case (("and" | "or" | "not"), _) if all(isinstance(v, bool) for v in values):
            if op == "not":
                return not values[0]
            return all(values) if op == "and" else any(values)
        case "==", (a, b):
            return _equal(a, b)
        case "!=", (a, b):
            return not _equal(a, b)
        case "+", (tuple(a), tuple(b)):
            return a + b
        case "+", (str(a), str(b)):
            return a + b
        case "in", (a, tuple(b)):
            return any(_equal(a, v) for v in b)
        case "-", (a,) if is_number(a):
            return -a
        case _, (a, b) if is_number(a) and is_number(b):
            return _numbers(env, op, a, b, span)
    found = " and ".join(describe(v) for v in values)
    raise env.fail(
        "E030",
        f"`{op}` does not apply to {found}",
        span,
        help=_STATIC_HELP.get(op, "both operands must be numbers"),
    )


def _equal(a: Value, b: Value) -> bool:
    """Equality that separates booleans from numbers."""
    return isinstance(a, bool) is isinstance(b, bool) and a == b


def _numbers(env: Env, op: str, a: int | float, b: int | float, span: Span) -> Value:
    if op in _PYTHON:
        result: Value = _PYTHON[op](a, b)
        return result
    integers = isinstance(a, int) and isinstance(b, int)
    try:
        match op:
            case "/":
                return a // b if integers else a / b
            case "%":
                return a % b
            case "^" if isinstance(a, int) and isinstance(b, int) and b >= 0:
                return int(a**b) if abs(a) <= 1 or b < 64 else float(a) ** b
            case "^":
                power = float(a) ** b
                if isinstance(power, float):
                    return power
    except (ZeroDivisionError, OverflowError):
        pass
    raise env.fail(
        "E041",
        f"`{show(a)} {op} {show(b)}` has no value",
        span,
        "computed when the program is built",
        help="check the values that it is computed from",
    )


def _static_call(env: Env, name: str, values: list[Number], span: Span) -> Value:
    row = SCALARS[name]
    if name == "i32":
        return int(values[0])
    if name in ("f32", "f16"):
        return float(values[0])
    if row.typing == "float" or not all(isinstance(v, int) for v in values):
        values = [float(v) for v in values]
    try:
        result = evaluate_static(name, values)
    except (ValueError, OverflowError, ZeroDivisionError):
        result = float("nan")
    if not is_finite(result):
        shown = ", ".join(show(v) for v in values)
        raise env.fail(
            "E041",
            f"`{name}({shown})` has no value",
            span,
            "computed when the program is built",
            help="check the values that it is computed from",
        )
    number: Value = result
    return number
