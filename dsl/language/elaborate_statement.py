"""Statements, and the bodies that they make.

In: a frame and the statements of its definition. Out: names bound in the frame, values returned.
Invariant: an error ends its statement only; the names that it would have bound are POISON, so what
uses them is silent and the rest is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import assert_never

from sdlc.graph.expr import Axis, Expr
from sdlc.graph.node import Input, Role
from sdlc.graph.types import DType, Span
from sdlc.language.diagnostics import Diagnostic, did_you_mean, plural
from sdlc.language.elaborate_axes import enter_axes
from sdlc.language.elaborate_operators import Operand, as_whole, map_of, node_of, scalar
from sdlc.language.elaborate_reduce import fold_of, is_record
from sdlc.language.elaborate_scalar import convert
from sdlc.language.elaborate_suggest import for_conversion
from sdlc.language.elaborate_types import (
    config_value,
    dimension_names,
    element_type,
    shape_of_type,
)
from sdlc.language.scope import (
    Env,
    Fail,
    Frame,
    Poisoned,
    indices,
    signature,
)
from sdlc.language.syntax import (
    Bind,
    Config,
    Define,
    Definition,
    Expression,
    ForLoop,
    IfBranch,
    Param,
    Precision,
    Reduction,
    Require,
    Return,
    Statement,
)
from sdlc.language.traverse import names_in
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
    is_static,
    is_tensor,
    show,
    type_text,
)

Returned = tuple[Value, ...] | None
PRECISIONS = ("f32", "f16")


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
            stops = isinstance(statement, Require) or any(_returns(statement))
            returned = () if stops else None
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
        case Precision(body=body):
            for inner in body:
                yield from assigned(inner)
        case IfBranch(body=body, otherwise=otherwise):
            for inner in (*body, *otherwise):
                yield from assigned(inner)


def _returns(statement: Statement) -> Iterator[bool]:
    match statement:
        case Return():
            yield True
        case ForLoop(body=body) | Precision(body=body):
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
        case Precision():
            return _with_precision(env, statement)
        case _:
            assert_never(statement)
    return None


# ---- index notation ----------------------------------------------------------------------------


def _define(env: Env, statement: Define) -> Value:
    """`name[axes] = value`: a `Reduce` if the value is one reduction, else a `Map`."""
    frame, name = env.frame, statement.name
    declared = frame.results.get(name)
    shape = (name, declared.shape) if declared is not None else None
    env = replace(env, statement=(name, statement.span))
    inner, axes = enter_axes(env, statement.axes, [statement.value], shape)
    if isinstance(statement.value, Reduction):
        return _define_reduction(inner, statement, statement.value, axes)
    dtype = declared.dtype if declared is not None else None
    value = inner.evaluate(statement.value)
    if isinstance(value, RecordPoint):
        raise env.fail(
            "E036",
            "a record is not a number",
            statement.value.span,
            f"this is {describe(value)}",
            help="bind the reduction alone, `s[…] = reduce …`, and read a field of it: `s.m[…]`",
        )
    body = scalar(inner, Operand(value, statement.value.span))
    if dtype is None:
        dtype = _local_type(frame, body)
    check_stored(env, body.dtype, dtype, statement.value.span)
    element = declared.element if declared is not None else ""
    elementwise = Elementwise(axes, convert(body, dtype), dtype)
    return node_of(env, elementwise, name, statement.span, (dtype, element))


def _define_reduction(
    env: Env, statement: Define, value: Reduction, axes: tuple[Axis, ...]
) -> Value:
    """The reduction is the node itself, stored as declared where that is a float like its field."""
    fold = fold_of(env, value)
    frame, wide = env.frame, env.frame.wide
    origin = frame.origin(statement.name, statement.span)
    whole = fold.over_axes(axes, fold.dtypes, origin, wide)
    if is_record(fold.definition):
        return Record(whole, fold.definition)
    declared, own = frame.results.get(statement.name), fold.dtypes[0]
    wanted = own if declared is None else declared.dtype
    check_stored(env, own, wanted, value.span)
    if declared is None or (wanted is own and not own.is_float):
        return Tensor(whole)
    stored = frame.stored(wanted, declared.element)
    if own.is_float:
        return Tensor(fold.over_axes(axes, (stored,), origin, wide), 0, wanted)
    elements = Elementwise(axes, Tensor(whole).at(indices(axes)), wanted)
    return map_of(env, elements, stored, origin)


def _local_type(frame: Frame, body: Expr) -> DType:
    """How a local elementwise tensor is stored: floats as the definition's float type variable."""
    if body.dtype is not DType.F32:
        return body.dtype
    floats = [dtype for dtype in frame.types.values() if dtype.is_float]
    return floats[0] if floats else DType.F32


def check_stored(env: Env, found: DType, wanted: DType, span: Span) -> None:
    """Integers may be stored as floats; nothing else converts by itself."""
    if found is wanted or (wanted.is_float and found is not DType.BOOL):
        return
    raise env.fail(
        "E029",
        f"{found.value} is stored as {wanted.value}",
        span,
        f"this is {found.value}",
        help=for_conversion(found, wanted),
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
            help="one name holds the whole value; several take a list or results apart",
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
            help="return one value for each result after `->`, in their order",
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
            help=f"declare it as `block {definition.name}(…)`, or take a tensor as an argument",
        )
    path = frame.path(statement.name)
    shape = shape_of_type(env, statement.type)
    dtype = element_type(env, statement.type)
    known = session.weights.get(path)
    if known is None:
        origin = frame.origin(statement.name, statement.span)
        stored = frame.stored(dtype, statement.type.element)
        made = Input(path, shape, stored, Role.WEIGHT, origin)
        known = session.weights[path] = Tensor(made, 0, dtype)
        session.axis_names[made] = dimension_names(statement.type.dimensions)
    elif (known.shape, known.dtype) != (shape, dtype):
        raise env.fail(
            "E040",
            f"the weight `{path}` is declared twice, with different types",
            frame.user_site() or statement.span,
            f"{type_text(dtype, shape)} here, {type_text(known.dtype, known.shape)} before",
            help="give the calls different labels: `conv1: conv(x, 8)`, `conv2: conv(x, 16)`",
        )
    return known


def _check_config(env: Env, statement: Config) -> None:
    definition = env.frame.definition
    if isinstance(definition, Definition) and definition.kind != "model":
        raise env.fail(
            "E040",
            f"{definition.kind} `{definition.name}` has a `config`",
            statement.span,
            "configuration belongs to models",
            help="make it an attribute: `; " + statement.name + ": int = …`",
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
        help=advice,
    )


def _require(env: Env, statement: Require) -> None:
    if _known_condition(env, statement.condition, "`require`"):
        return
    frame, text = env.frame, env.text(statement.condition.span)
    label = f"`{text}` does not hold" if text != "false" else ""
    values = _known_names(frame, statement.condition)
    advice = "here " + ", ".join(f"`{n}` is {show(v)}" for n, v in values.items())
    site = frame.user_site()
    if site is None:
        raise env.fail("E037", statement.message, statement.condition.span, label, help=advice)
    # The user's own call is what has to change, so that is where the error points.
    notes = (
        ("in", signature(env.session.library, frame.definition)),
        ("required at", str(statement.span)),
    )
    raise Fail(Diagnostic("E037", statement.message, site, label, notes, advice))


def _known_names(frame: Frame, condition: Expression) -> dict[str, Value]:
    """The values of the names in a condition; without any, the attributes of the definition."""
    names = {n.id: frame.names[n.id] for n in names_in(condition) if n.id in frame.names}
    if not names and isinstance(frame.definition, Definition):
        attributes = (p.name for p in frame.definition.parameters if p.attribute)
        names = {name: frame.names[name] for name in attributes}
    return {name: value for name, value in names.items() if is_static(value)}


def _with_precision(env: Env, statement: Precision) -> Returned:
    """The statements inside, floats of no fixed type stored as it says."""
    frame, before = env.frame, env.frame.precision
    asked = _precision_named(env, statement)
    if not frame.covered and asked is not None:
        frame.precision = asked
    try:
        return execute(frame, statement.body)
    finally:
        frame.precision = before


def _precision_named(env: Env, statement: Precision) -> DType | None:
    """The precision of a statement's name, or of the compile-time value of that name."""
    name = statement.name
    value = env.frame.names.get(name, name)
    if value is None or isinstance(value, Poison):
        return None
    if value not in PRECISIONS:
        known = [*PRECISIONS, *(n for n, v in env.frame.names.items() if v in (None, *PRECISIONS))]
        advice = did_you_mean(name, known) or "it is f32, f16, or a value that is one of them"
        label = "" if value is name else f"`{name}` is {describe(value)}"
        message = f"there is no precision `{name}`"
        raise env.fail("E050", message, statement.name_span, label, help=advice)
    return DType(value)


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
            help="`for i < n` counts; `for i, x in list` numbers the items",
        )
    if len(statement.names) > 2:
        raise env.fail(
            "E044",
            "a loop binds an item, or its number and the item",
            statement.span,
            help="`for x in list` or `for i, x in list`",
        )
    for number, value in enumerate(values):
        yield (value,) if len(statement.names) == 1 else (number, value)
