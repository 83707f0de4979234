"""The value of an expression, by its kind.

In: an expression and the `Env` where it stands. Out: a `Value`. Invariant: a condition that is
known when the program is built selects a branch, and the other is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import assert_never

from sdlc.graph.expr import Expr, Index, Literal, walk
from sdlc.graph.scalar import SCALARS
from sdlc.graph.types import DType
from sdlc.language.diagnostics import did_you_mean, plural
from sdlc.language.elaborate_names import value_of_name
from sdlc.language.elaborate_operators import (
    Operand,
    call_scalar,
    choose,
    lift,
    node_of,
    operate,
    scalar,
)
from sdlc.language.elaborate_reduce import attribute, reduction
from sdlc.language.elaborate_subscript import base_value, subscript
from sdlc.language.ranges import refine
from sdlc.language.scope import (
    MAX_DEPTH,
    MAX_FUNCTIONS,
    REDUCTIONS,
    Env,
    Frame,
)
from sdlc.language.syntax import (
    Attribute,
    Binary,
    Call,
    Conditional,
    Definition,
    Expression,
    Function,
    ListValue,
    Name,
    Number,
    Reduction,
    String,
    Subscript,
    Unary,
)
from sdlc.language.values import (
    POISON,
    Elementwise,
    Record,
    Tensor,
    Value,
    describe,
    is_expression,
    is_integer,
    is_tensor,
)


def evaluate(env: Env, node: Expression) -> Value:
    """The value of an expression; POISON if it uses what has already failed."""
    match node:
        case Number():
            return node.value
        case String():
            return node.value
        case Name():
            return value_of_name(env, node)
        case Unary():
            operand = Operand(env.evaluate(node.operand), node.operand.span)
            return operate(env, node.op, [operand], node.span)
        case Binary():
            return _binary(env, node)
        case Conditional():
            return _conditional(env, node)
        case Subscript():
            return subscript(env, node)
        case Attribute():
            return attribute(env, node, base_value(env, node.base))
        case Call():
            return _call(env, node)
        case Reduction():
            return reduction(env, node)
        case ListValue():
            return tuple(_item(env, item) for item in node.items)
        case _:
            assert_never(node)


def _item(env: Env, node: Expression) -> Value:
    value = env.evaluate(node)
    return node_of(env, value, "item", node.span) if isinstance(value, Elementwise) else value


# ---- operators ---------------------------------------------------------------------------------


def _binary(env: Env, node: Binary) -> Value:
    left = env.evaluate(node.left)
    if node.op in ("and", "or"):
        known = _known(left)
        if known is (node.op == "or"):
            return known
        if isinstance(known, bool) and env.scalar:
            inner = env
        else:
            inner = _knowing(env, left, node.op == "and")
    else:
        inner = env
    right = inner.evaluate(node.right)
    operands = [Operand(left, node.left.span), Operand(right, node.right.span)]
    return operate(env, node.op, operands, node.span)


def _known(value: Value) -> bool | None:
    """The value of a condition that is known when the program is built."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Literal) and value.dtype is DType.BOOL:
        return bool(value.value)
    return None


def _knowing(env: Env, condition: Value, truth: bool) -> Env:
    """`env` where the condition is known to be `truth`."""
    if not is_expression(condition):
        return env
    return env.knowing(refine(condition, truth, env.ranges))


def _conditional(env: Env, node: Conditional) -> Value:
    condition = env.evaluate(node.condition)
    known = _known(condition)
    if known is not None:
        return env.evaluate(node.then if known else node.otherwise)
    test = condition_of(env, Operand(condition, node.condition.span))
    inner, other = _knowing(env, test, True), _knowing(env, test, False)
    then = Operand(inner.evaluate(node.then), node.then.span)
    otherwise = Operand(other.evaluate(node.otherwise), node.otherwise.span)
    return choose(env, test, then, otherwise, node.span)


def condition_of(env: Env, operand: Operand) -> Expr:
    """A condition of a statement in index notation; elsewhere it must be known."""
    if is_tensor(operand.value) and not env.scalar:
        raise env.fail(
            "E041",
            "a condition on a whole tensor",
            operand.span,
            f"this is {describe(operand.value)}",
            help="choose element by element: `y[i] = if c[i] then a[i] else b[i]`",
        )
    expr = scalar(env, operand)
    if expr.dtype is not DType.BOOL:
        raise env.fail(
            "E030",
            "a condition must be a boolean",
            operand.span,
            f"this is {describe(operand.value)}",
            help="compare it: `x != 0`",
        )
    return expr


# ---- calls -------------------------------------------------------------------------------------


def _call(env: Env, node: Call) -> Value:
    library = env.session.library
    known = library.callables_in(env.frame.definition.span.file)
    found = known.get(node.function)
    match found:
        case Definition():
            return env.session.invoke(env, node, found)
        case Function():
            return _call_function(env, node, found)
    if node.function in _LOOKS:
        return _look(env, node)
    row = SCALARS.get(node.function)
    if row is not None and row.callable_by_name:
        _no_attributes(env, node)
        return call_scalar(env, node.function, _operands(env, node), node.span)
    raise _unknown_call(env, node, known)


def _operands(env: Env, node: Call) -> list[Operand]:
    return [Operand(env.evaluate(a), a.span) for a in node.arguments]


def _no_attributes(env: Env, node: Call) -> None:
    if node.attributes:
        raise env.fail(
            "E025",
            f"`{node.function}` takes no attributes",
            node.attributes[0].span,
            help="its arguments stand in order, before any `;`",
        )


def _unknown_call(env: Env, node: Call, known: Sequence[str] | object) -> Exception:
    name = node.function
    names = [*env.session.library.callables_in(env.frame.definition.span.file), *_LOOKS]
    names += [row.name for row in SCALARS.values() if row.callable_by_name]
    advice = did_you_mean(name, names) or 'define it, or import its file: `import "other.sdl"`'
    if name in env.frame.names:
        value = env.frame.names[name]
        advice = f"`{name}` is {describe(value)}; its elements are `{name}[…]`"
    elif name in env.session.library.monoids:
        reduce = "" if name in REDUCTIONS else "reduce "
        advice = f"`{name}` is a monoid: `{reduce}{name} over i < n of …`"
    return env.fail(
        "E021", f"there is no op, block or function `{name}`", node.function_span, help=advice
    )


def _call_function(env: Env, node: Call, definition: Function) -> Value:
    """A `fn` expanded: its parameters are numbers of this point, or elements of whole tensors."""
    _no_attributes(env, node)
    operands = _operands(env, node)
    if len(operands) != len(definition.parameters):
        raise env.fail(
            "E024",
            f"`{definition.name}` takes {plural(len(definition.parameters), 'argument')}, "
            f"not {len(operands)}",
            node.span,
            callee=definition,
            help=f"call it as `{definition.name}({', '.join(definition.parameters)})`",
        )
    if env.frame.depth >= MAX_DEPTH + MAX_FUNCTIONS:
        raise env.fail(
            "E042",
            f"`{definition.name}` calls itself without end",
            node.span,
            help="a `fn` is expanded where it is called, so it cannot call itself",
        )

    if env.scalar or not any(is_tensor(o.value) for o in operands):
        return _expand(env, node, definition, [o.value for o in operands])

    def at_a_point(args: Sequence[Expr]) -> Expr:
        axes = {e.axis: None for e in walk(*args) if isinstance(e, Index)}
        point = Env(env.frame, True, enclosing=tuple(axes))
        return scalar(point, Operand(_expand(point, node, definition, args), node.span))

    return lift(env, operands, node.span, at_a_point)


def _expand(env: Env, node: Call, definition: Function, values: Sequence[Value]) -> Value:
    """The body of a `fn`: it sees its parameters only, at the point where the call stands."""
    names = dict(zip(definition.parameters, values, strict=True))
    depth = env.frame.depth + 1
    frame = Frame(env.session, definition, names, caller=env.frame, site=node.span, depth=depth)
    inner = replace(env, frame=frame, axes={}, groups={})
    return inner.evaluate(definition.body)


# ---- looking at values -------------------------------------------------------------------------


def _look(env: Env, node: Call) -> Value:
    """`len`, `shape` and the like: functions of compile-time values and of shapes."""
    _no_attributes(env, node)
    if len(node.arguments) != 1:
        raise env.fail(
            "E024",
            f"`{node.function}` takes 1 argument, not {len(node.arguments)}",
            node.span,
            help=f"call it as `{node.function}(x)`",
        )
    argument = node.arguments[0]
    value = base_value(env, argument)
    result = _LOOKS[node.function](value)
    if result is POISON:
        raise env.fail(
            "E026",
            f"`{node.function}` does not apply to {describe(value)}",
            argument.span,
            help=_LOOKS_AT[node.function],
        )
    return result


def _length(value: Value) -> Value:
    return len(value) if isinstance(value, (tuple, str)) else POISON


def _range(value: Value) -> Value:
    return tuple(range(value)) if is_integer(value) else POISON


def _shape(value: Value) -> Value:
    return value.shape if isinstance(value, (Tensor, Elementwise, Record)) else POISON


def _rank(value: Value) -> Value:
    return len(value.shape) if isinstance(value, (Tensor, Elementwise, Record)) else POISON


def _reversed(value: Value) -> Value:
    return value[::-1] if isinstance(value, tuple) else POISON


_LOOKS: MappingProxyType[str, Callable[[Value], Value]] = MappingProxyType(
    {
        "len": _length,
        "range": _range,
        "shape": _shape,
        "rank": _rank,
        "reversed": _reversed,
        "is_list": lambda value: isinstance(value, tuple),
    }
)
_LOOKS_AT = MappingProxyType(
    {
        "len": "it counts the items of a list; `shape(x)[0]` is a dimension of a tensor",
        "range": "it takes an integer: `range(3)` is `[0, 1, 2]`",
        "shape": "it takes a tensor; `len(xs)` counts the items of a list",
        "rank": "it takes a tensor",
        "reversed": "it takes a list",
    }
)
