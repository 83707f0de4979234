"""Statements, and the bodies that they make.

In: a frame and the statements of its definition. Out: the definition's results as nodes' outputs.
Invariant: an error ends its statement only; the names that it would have bound are POISON, and a
result that is lost is replaced by a stand-in of its declared type, so later statements are checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import assert_never

from sdlc.graph.expr import Axis, Expr
from sdlc.graph.node import Input, Map, Reduce, Role
from sdlc.graph.types import DType, Span
from sdlc.language.diagnostics import Diagnostic
from sdlc.language.elaborate_axes import enter_axes
from sdlc.language.elaborate_call import (
    Binding,
    arguments_of,
    bind,
    config_value,
    element_type,
    shape_of_type,
)
from sdlc.language.elaborate_operators import Operand, as_whole, node_of, scalar
from sdlc.language.elaborate_reduce import is_record, reduce_node
from sdlc.language.elaborate_scalar import convert
from sdlc.language.scope import MAX_DEPTH, Env, Fail, Frame, Poisoned, indices, plural, signature
from sdlc.language.syntax import (
    Bind,
    Call,
    Config,
    Define,
    Definition,
    Expression,
    ForLoop,
    IfBranch,
    Label,
    Name,
    Param,
    Reduction,
    Require,
    Return,
    Spread,
    Statement,
)
from sdlc.language.values import (
    POISON,
    Elementwise,
    Poison,
    Record,
    RecordField,
    RecordPoint,
    Tensor,
    Value,
    describe,
    is_tensor,
    type_text,
)

Returned = tuple[Value, ...] | None


# ---- calls -------------------------------------------------------------------------------------


def invoke(env: Env, call: Call, definition: Definition) -> Value:
    """The result of a call, or the tuple of its results."""
    if env.frame.depth >= MAX_DEPTH:
        raise env.fail(
            "E042",
            f"`{definition.name}` calls itself without end",
            call.span,
            f"{MAX_DEPTH} calls deep",
            callee=definition,
        )
    given = arguments_of(env, call, definition)
    frame = Frame(
        env.session,
        definition,
        scope=_scope(env, call.label),
        caller=env.frame,
        site=call.span,
        depth=env.frame.depth + 1,
        overrides=_overrides(env, call.label),
    )
    bind(Binding(env, Env(frame), definition, given, call.span))
    results = run(frame)
    return results[0] if len(results) == 1 else tuple(results)


def _scope(env: Env, label: Label | None) -> str:
    if label is None:
        return env.frame.scope
    parts = [p if isinstance(p, str) else _label_part(env, p) for p in label.parts]
    return env.frame.path("".join(parts))


def _label_part(env: Env, part: Expression) -> str:
    value = env.whole().evaluate(part)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise env.fail(
            "E041",
            "a label is made of integers and strings",
            part.span,
            f"this is {describe(value)}",
        )
    return str(value)


def _overrides(env: Env, label: Label | None) -> dict[str, object]:
    """The part of the configuration under a label: `unet: unet(…)` sees `config["unet"]`."""
    if label is None:
        return dict(env.frame.overrides)
    found: object = env.frame.overrides
    for part in "".join(p for p in label.parts if isinstance(p, str)).split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def run(frame: Frame) -> list[Tensor]:
    """Run a bound definition's body. Returns its results, in order."""
    definition = frame.definition
    assert isinstance(definition, Definition)
    returned = execute(frame, definition.body)
    results: list[Tensor] = []
    for position, result in enumerate(definition.results):
        span = result.span
        if returned is not None:
            value = returned[position] if position < len(returned) else POISON
            span = _return_span(definition.body, position) or span
        else:
            value = frame.names.get(result.name)
        results.append(_result(frame, result.name, value, span))
    return results


def _return_span(body: Sequence[Statement], position: int) -> Span | None:
    last = body[-1] if body else None
    if isinstance(last, Return) and position < len(last.values):
        return last.values[position].span
    return None


def _result(frame: Frame, name: str, value: Value, span: Span) -> Tensor:
    """A result as its declared type; where it is wrong, an error and a stand-in."""
    dtype, shape = frame.results[name]
    env = Env(frame)
    try:
        if isinstance(value, Poison):
            raise Poisoned
        whole = as_whole(value)
        if not is_tensor(whole):
            raise _no_result(env, name, value, span)
        if whole.shape != shape:
            raise env.fail(
                "E033",
                f"`{name}` does not have its declared shape",
                span,
                f"this is {describe(whole)}, declared is {type_text(dtype, shape)}",
            )
        _check_stored(env, whole.dtype, dtype, span)
        return node_of(env, whole, name, span, dtype)
    except Fail as error:
        frame.session.report(error.diagnostic)
    except Poisoned:
        pass
    return Tensor(Input("<error>", shape, dtype))


def _no_result(env: Env, name: str, value: Value, span: Span) -> Fail:
    if value is None:
        return env.fail(
            "E033",
            f"the result `{name}` is never defined",
            span,
            "declared here",
            f"assign it, `{name}[…] = …`, or end the body with `return …`",
        )
    advice = "read one of its fields: `s.m`" if isinstance(value, Record) else ""
    return env.fail(
        "E033", f"the result `{name}` must be a tensor", span, f"this is {describe(value)}", advice
    )


# ---- bodies ------------------------------------------------------------------------------------


def execute(frame: Frame, statements: Sequence[Statement]) -> Returned:
    """Run statements; the values of a `return`, if one is reached."""
    for statement in statements:
        try:
            returned = _execute_one(frame, statement)
        except (Fail, Poisoned) as error:
            if isinstance(error, Fail):
                frame.session.report(error.diagnostic)
            for name in assigned(statement):
                frame.names[name] = POISON
            returned = () if any(_returns(statement)) else None
        if returned is not None:
            return returned
    return None


def assigned(statement: Statement) -> Iterator[str]:
    """The names that a statement binds."""
    match statement:
        case Define(name=name) | Param(name=name) | Config(name=name):
            yield name
        case Bind(names=names):
            yield from names
        case ForLoop(names=names, body=body):
            yield from names
            for inner in body:
                yield from assigned(inner)
        case IfBranch(body=body, otherwise=otherwise):
            for inner in (*body, *otherwise):
                yield from assigned(inner)


def _returns(statement: Statement) -> Iterator[bool]:
    match statement:
        case Return():
            yield True
        case ForLoop(body=body):
            for inner in body:
                yield from _returns(inner)
        case IfBranch(body=body, otherwise=otherwise):
            for inner in (*body, *otherwise):
                yield from _returns(inner)


def _execute_one(frame: Frame, statement: Statement) -> Returned:
    env = Env(frame)
    match statement:
        case Define():
            frame.names[statement.name] = _define(env, statement)
        case Bind():
            _bind_names(env, statement)
        case Return():
            return _return(env, statement)
        case Param():
            frame.names[statement.name] = _param(env, statement)
        case Config():
            _check_config(env, statement)
            frame.names[statement.name] = config_value(env, statement)
        case Require():
            _require(env, statement)
        case ForLoop():
            return _loop(env, statement)
        case IfBranch():
            holds = _known_condition(env, statement.condition, "`if`")
            return execute(frame, statement.body if holds else statement.otherwise)
        case _:
            assert_never(statement)
    return None


# ---- index notation ----------------------------------------------------------------------------


def _define(env: Env, statement: Define) -> Value:
    """`name[axes] = value`: a `Reduce` if the value is one reduction, else a `Map`."""
    frame, name = env.frame, statement.name
    declared = frame.results.get(name)
    shape = (name, declared[1]) if declared is not None else None
    env = replace(env, statement=(name, statement.span))
    inner, axes = enter_axes(env, statement.axes, [statement.value], shape)
    dtype = declared[0] if declared is not None else None
    if isinstance(statement.value, Reduction):
        return _define_reduction(inner, statement, statement.value, axes, dtype)
    value = inner.evaluate(statement.value)
    if isinstance(value, RecordPoint):
        raise env.fail(
            "E036",
            "a record is not a number",
            statement.value.span,
            f"this is {describe(value)}",
            "bind the reduction alone, `s[…] = reduce …`, and read a field of it: `s.m[…]`",
        )
    body = scalar(inner, Operand(value, statement.value.span))
    if dtype is None:
        dtype = _local_type(frame, body)
    _check_stored(env, body.dtype, dtype, statement.value.span)
    elementwise = Elementwise(axes, convert(body, dtype), dtype)
    return node_of(env, elementwise, name, statement.span)


def _define_reduction(
    env: Env, statement: Define, value: Reduction, axes: tuple[Axis, ...], dtype: DType | None
) -> Value:
    made, definition = reduce_node(env, value, axes)
    origin = env.frame.origin(statement.name, statement.span)
    if is_record(definition):
        return Record(_with_origin(made, made.dtypes, statement, env), definition)
    own = made.dtypes[0]
    if dtype is None or dtype is own:
        return Tensor(_with_origin(made, made.dtypes, statement, env))
    _check_stored(env, own, dtype, value.span)
    if own.is_float and dtype.is_float:
        return Tensor(_with_origin(made, (dtype,), statement, env))
    body = convert(Tensor(made).at(indices(axes)), dtype)
    return Tensor(Map(axes, body, dtype, origin))


def _with_origin(node: Reduce, dtypes: tuple[DType, ...], statement: Define, env: Env) -> Reduce:
    origin = env.frame.origin(statement.name, statement.span)
    return Reduce(node.axes, node.over, node.monoid, node.lift, dtypes, origin)


def _local_type(frame: Frame, body: Expr) -> DType:
    """How a local elementwise tensor is stored: floats as the definition's float type variable."""
    if body.dtype is not DType.F32:
        return body.dtype
    floats = [dtype for dtype in frame.types.values() if dtype.is_float]
    return floats[0] if floats else DType.F32


def _check_stored(env: Env, found: DType, wanted: DType, span: Span) -> None:
    """Integers may be stored as floats; nothing else converts by itself."""
    if found is wanted or (wanted.is_float and found is not DType.BOOL):
        return
    advice = {
        DType.I32: "`i32(floor(e))` makes an integer of a float",
        DType.BOOL: "a comparison makes a boolean: `x != 0`",
    }.get(wanted, "`if c then 1 else 0` makes a number of a boolean")
    if found is DType.BOOL:
        advice = "`if c then 1 else 0` makes a number of a boolean"
    raise env.fail(
        "E029", f"{found.value} is stored as {wanted.value}", span, f"this is {found.value}", advice
    )


# ---- whole tensors and values ------------------------------------------------------------------


def _bind_names(env: Env, statement: Bind) -> None:
    value = _settle(env, env.evaluate(statement.value), statement.names[0], statement.span)
    if len(statement.names) == 1:
        env.frame.names[statement.names[0]] = value
        return
    if not isinstance(value, tuple) or len(value) != len(statement.names):
        raise env.fail(
            "E044",
            f"{len(statement.names)} names for "
            + (plural(len(value), "value") if isinstance(value, tuple) else "1 value"),
            statement.span,
            f"the right side is {describe(value)}",
        )
    env.frame.names.update(zip(statement.names, value, strict=True))


def _settle(env: Env, value: Value, name: str, span: Span) -> Value:
    """A value that a name may hold: elementwise expressions become nodes."""
    value = as_whole(value)
    if isinstance(value, Elementwise):
        return node_of(env, value, name, span)
    if isinstance(value, tuple):
        return tuple(_settle(env, v, name, span) for v in value)
    assert not isinstance(value, (RecordField, RecordPoint))
    return value


def _return(env: Env, statement: Return) -> Returned:
    values = tuple(env.evaluate(v) for v in statement.values)
    definition = env.frame.definition
    assert isinstance(definition, Definition)
    if len(values) == 1 and len(definition.results) > 1 and isinstance(values[0], tuple):
        values = values[0]
    if len(values) != len(definition.results):
        raise env.fail(
            "E044",
            f"{plural(len(values), 'value')} returned, "
            f"{plural(len(definition.results), 'result')} declared",
            statement.span,
        )
    return values


def _param(env: Env, statement: Param) -> Tensor:
    """A weight, named by its scope; the same name twice is the same weight."""
    frame, session = env.frame, env.session
    definition = frame.definition
    if isinstance(definition, Definition) and definition.kind == "op":
        raise env.fail(
            "E040",
            f"op `{definition.name}` has a `param`",
            statement.span,
            "weights belong to blocks and models",
            f"declare it as `block {definition.name}(…)`, or take a tensor as an argument",
        )
    path = frame.path(statement.name)
    shape = shape_of_type(env, statement.type)
    dtype = element_type(env, statement.type)
    known = session.weights.get(path)
    if known is None:
        origin = frame.origin(statement.name, statement.span)
        known = session.weights[path] = Input(path, shape, dtype, Role.WEIGHT, origin)
        session.axis_names[known] = dimension_names(statement.type.dimensions)
    elif (known.extents, known.dtype) != (shape, dtype):
        raise env.fail(
            "E040",
            f"the weight `{path}` is declared twice, with different types",
            statement.span,
            f"{type_text(dtype, shape)} here, {type_text(known.dtype, known.extents)} before",
            "give the calls different labels: `conv1: conv(x, 8)`, `conv2: conv(x, 16)`",
        )
    return Tensor(known)


def dimension_names(dimensions: Sequence[Expression | Spread]) -> tuple[str, ...]:
    """Axis names for readers of a tensor of this type, as far as they are known."""
    names: list[str] = []
    for position, dimension in enumerate(dimensions):
        if isinstance(dimension, Spread):
            break
        names.append(dimension.id if isinstance(dimension, Name) else f"i{position}")
    return tuple(names)


def _check_config(env: Env, statement: Config) -> None:
    definition = env.frame.definition
    if isinstance(definition, Definition) and definition.kind != "model":
        raise env.fail(
            "E040",
            f"{definition.kind} `{definition.name}` has a `config`",
            statement.span,
            "configuration belongs to models",
            "make it an attribute: `; " + statement.name + ": int = …`",
        )


# ---- compile-time control ----------------------------------------------------------------------


def _known_condition(env: Env, condition: Expression, what: str) -> bool:
    value = env.evaluate(condition)
    if isinstance(value, bool):
        return value
    advice = "compare it: `x != 0`"
    if is_tensor(value):
        advice = "choose element by element: `y[i] = if c[i] then a[i] else b[i]`"
    raise env.fail(
        "E041",
        f"the condition of {what} must be known when the program is built",
        condition.span,
        f"this is {describe(value)}",
        advice,
    )


def _require(env: Env, statement: Require) -> None:
    if _known_condition(env, statement.condition, "`require`"):
        return
    text = env.text(statement.condition.span)
    library, frame = env.session.library, env.frame
    label = f"`{text}` does not hold" if text != "false" else ""
    if frame.caller is None or frame.site is None:
        raise env.fail("E037", statement.message, statement.condition.span, label)
    # The call is what has to change, so that is where the error points.
    notes = (("in", signature(library, frame.definition)), ("required at", str(statement.span)))
    raise Fail(
        Diagnostic("E037", statement.message, frame.site, label, notes + frame.caller.notes())
    )


def _loop(env: Env, statement: ForLoop) -> Returned:
    for items in _iterations(env, statement):
        env.frame.names.update(zip(statement.names, items, strict=True))
        returned = execute(env.frame, statement.body)
        if returned is not None:
            return returned
    return None


def _iterations(env: Env, statement: ForLoop) -> Iterator[tuple[Value, ...]]:
    if statement.extent is not None:
        count = env.integer(statement.extent, "the end of a loop")
        yield from ((i,) for i in range(count))
        return
    assert statement.iterable is not None
    values = env.evaluate(statement.iterable)
    if not isinstance(values, tuple):
        raise env.fail(
            "E041",
            "a loop runs over a list",
            statement.iterable.span,
            f"this is {describe(values)}",
            "`for i < n` counts; `for i, x in list` numbers the items",
        )
    if len(statement.names) > 2:
        raise env.fail("E044", "a loop binds an item, or its number and the item", statement.span)
    for number, value in enumerate(values):
        yield (value,) if len(statement.names) == 1 else (number, value)
