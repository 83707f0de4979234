"""Reductions and monoids.

In: `sum over …`, `reduce M over … of …`, monoid definitions, `s.m`. Out: `Reduce` nodes, interned
`Monoid`s, field values. Invariant: a nested reduction keeps only the enclosing axes that its lift
uses; it is computed for all their values, whatever conditions stand around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdlc.graph.expr import Axis, Expr, Index, Slot, walk
from sdlc.graph.node import Field, Monoid, Reduce
from sdlc.graph.types import DType, Origin
from sdlc.language.diagnostics import did_you_mean
from sdlc.language.elaborate_axes import enter_axes
from sdlc.language.elaborate_operators import Operand, scalar
from sdlc.language.elaborate_scalar import convert
from sdlc.language.elaborate_suggest import for_conversion
from sdlc.language.scope import Env, Fail, Frame, Poisoned, indices
from sdlc.language.syntax import (
    Attribute,
    Bind,
    Expression,
    MonoidDefinition,
    MonoidField,
    Reduction,
)
from sdlc.language.values import (
    Record,
    RecordField,
    RecordPoint,
    Tensor,
    Value,
    describe,
    field_names,
    is_number,
)


def reduction(env: Env, node: Reduction) -> Value:
    """A reduction inside an expression: a read of its node; without brackets, of rank 0."""
    fold = fold_of(env, node)
    used = {e.axis for e in walk(*fold.lift) if isinstance(e, Index)}
    axes = tuple(a for a in env.enclosing if a in used)
    name = f"{env.statement[0]}_{node.monoid}" if env.statement else node.monoid
    origin = env.frame.origin(name, node.span)
    made = fold.over_axes(axes, fold.dtypes, origin, env.frame.wide)
    if is_record(fold.definition):
        record = Record(made, fold.definition)
        return record.at(indices(axes)) if env.scalar else record
    return Tensor(made).at(indices(axes)) if env.scalar else Tensor(made)


@dataclass(frozen=True, slots=True)
class Fold:
    """A reduction without the axes that it keeps."""

    definition: MonoidDefinition
    monoid: Monoid
    over: tuple[Axis, ...]
    lift: tuple[Expr, ...]

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """The types of the fields, in which results are stored unless others are asked for."""
        return tuple(f.dtype for f in self.monoid.fields)

    def over_axes(
        self, axes: tuple[Axis, ...], dtypes: tuple[DType, ...], origin: Origin, wide: bool
    ) -> Reduce:
        return Reduce(axes, self.over, self.monoid, self.lift, dtypes, origin, wide)


def fold_of(env: Env, node: Reduction) -> Fold:
    """What a reduction folds; its lift may use all axes of `env`."""
    definition = _find_monoid(env, node)
    monoid = monoid_of(env, definition, node)
    inner, over = enter_axes(env, node.axes, [f.value for f in node.fields])
    return Fold(definition, monoid, over, _lift(inner, node, definition))


def is_record(definition: MonoidDefinition) -> bool:
    return len(definition.fields) > 1 or bool(definition.finish)


def _find_monoid(env: Env, node: Reduction) -> MonoidDefinition:
    known = env.session.library.monoids_in(env.frame.definition.span.file)
    if node.monoid in known:
        return known[node.monoid]
    advice = did_you_mean(node.monoid, known) or "monoids are " + ", ".join(sorted(known))
    raise env.fail("E035", f"there is no monoid `{node.monoid}`", node.span, help=advice)


# ---- lifts -------------------------------------------------------------------------------------


def _lift(env: Env, node: Reduction, definition: MonoidDefinition) -> tuple[Expr, ...]:
    names = [f.name for f in definition.fields]
    given = {a.name: a for a in node.fields}
    if "" in given and len(names) > 1:
        wanted = ", ".join(f"{n} = …" for n in names)
        raise env.fail(
            "E035",
            f"`{definition.name}` has {len(names)} fields",
            given[""].span,
            "one value is given",
            help=f"name them: `of ({wanted})`",
            callee=definition,
        )
    for name, argument in given.items():
        if name and name not in names:
            advice = did_you_mean(name, names) or "fields are " + ", ".join(names)
            raise env.fail(
                "E035",
                f"`{definition.name}` has no field `{name}`",
                argument.span,
                help=advice,
                callee=definition,
            )
    missing = [n for n in names if n not in given and "" not in given]
    if missing:
        raise env.fail(
            "E035",
            f"field `{missing[0]}` of `{definition.name}` is not given",
            node.span,
            help=f"write `{missing[0]} = …` in the lift",
            callee=definition,
        )
    lifted = []
    for wanted_field in definition.fields:
        argument = given.get(wanted_field.name) or given[""]
        lifted.append(_field_value(env, argument.value, wanted_field, definition))
    return tuple(lifted)


def _field_value(
    env: Env, expression: Expression, wanted: MonoidField, definition: MonoidDefinition
) -> Expr:
    """An expression as a value of a field."""
    dtype = _dtype(env, wanted)
    value = convert(scalar(env, Operand(env.evaluate(expression), expression.span)), dtype)
    if value.dtype is dtype:
        return value
    raise env.fail(
        "E035",
        f"field `{wanted.name}` of `{definition.name}` is {dtype.value}",
        expression.span,
        f"this is {describe(value)}",
        help=for_conversion(value.dtype, dtype),
    )


# ---- monoids -----------------------------------------------------------------------------------


def monoid_of(env: Env, definition: MonoidDefinition, node: Reduction | None = None) -> Monoid:
    """The monoid of a definition, elaborated once; Poisoned if it is wrong."""
    session = env.session
    known = session.monoids.get(definition.span)
    if known is not None:
        return known
    site = node.span if node is not None else None
    frame = Frame(session, definition, caller=env.frame, site=site, depth=env.frame.depth + 1)
    inner = Env(frame, scalar=True)
    try:
        fields = tuple(_field(Env(frame), f) for f in definition.fields)
        made = Monoid(definition.name, fields, _combine(inner, definition, fields))
    except Fail as error:
        session.report(error.diagnostic)
        raise Poisoned from error
    session.monoids[definition.span] = made
    return made


def _dtype(env: Env, wanted: MonoidField) -> DType:
    if wanted.element not in ("f32", "i32", "bool"):
        raise env.fail(
            "E034",
            f"field `{wanted.name}` has the type `{wanted.element}`",
            wanted.span,
            help="a field of a monoid is f32, i32 or bool",
        )
    return DType(wanted.element)


def _field(env: Env, wanted: MonoidField) -> Field:
    dtype = _dtype(env, wanted)
    value = env.evaluate(wanted.identity)
    fits = isinstance(value, bool) if dtype is DType.BOOL else is_number(value)
    if dtype is DType.I32:
        fits = isinstance(value, int) and fits
    if not fits or not isinstance(value, (int, float)):
        raise env.fail(
            "E034",
            f"the identity of `{wanted.name}` does not fit {dtype.value}",
            wanted.identity.span,
            f"this is {describe(value)}",
            help="f32 takes a number, i32 an integer, bool `true` or `false`",
        )
    return Field(wanted.name, dtype, float(value))


def _combine(env: Env, definition: MonoidDefinition, fields: tuple[Field, ...]) -> tuple[Expr, ...]:
    names = env.frame.names
    for side, operand in enumerate(definition.combine_names):
        slots = tuple(Slot(side, f, field.dtype) for f, field in enumerate(fields))
        names[operand] = RecordPoint(slots, definition, raw=True)
    wanted = {f.name: f for f in definition.fields}
    made: dict[str, Expr] = {}
    for bind in definition.combine:
        for name, value in _assignments(env, bind, wanted, definition):
            names[name] = made[name] = value
    missing = [f.name for f in fields if f.name not in made]
    if missing:
        raise env.fail(
            "E034",
            f"`combine` of `{definition.name}` does not assign `{missing[0]}`",
            definition.combine[-1].span if definition.combine else definition.span,
            help=f"every field needs a value: add `{missing[0]} = …`",
        )
    return tuple(made[f.name] for f in fields)


def _assignments(
    env: Env, bind: Bind, wanted: dict[str, MonoidField], definition: MonoidDefinition
) -> list[tuple[str, Expr]]:
    if len(bind.names) != 1:
        raise env.fail(
            "E034",
            "one name is assigned at a time here",
            bind.span,
            help="write one assignment for each name, separated by `;` or a newline",
        )
    name = bind.names[0]
    if name in wanted:
        return [(name, _field_value(env, bind.value, wanted[name], definition))]
    return [(name, scalar(env, Operand(env.evaluate(bind.value), bind.value.span)))]


# ---- records -----------------------------------------------------------------------------------


def attribute(env: Env, node: Attribute, base: Value) -> Value:
    """`s.m`: of a record, or of one point of it."""
    if isinstance(base, RecordPoint):
        _check_field(env, node, base.monoid, base.raw)
        return _pick(env, node.name)(base)
    if isinstance(base, Record):
        _check_field(env, node, base.monoid, False)
        return RecordField(base, node.name, _pick(env, node.name))
    raise env.fail(
        "E036",
        f"`{env.text(node.base.span)}` has no fields",
        node.span,
        f"`{env.text(node.base.span)}` is {describe(base)}",
        help="only the value of a `reduce` with several fields has any",
    )


def _check_field(env: Env, node: Attribute, definition: MonoidDefinition, raw: bool) -> None:
    names = [f.name for f in definition.fields] if raw else field_names(definition)
    if node.name not in names:
        advice = did_you_mean(node.name, names) or "it has " + ", ".join(f"`{n}`" for n in names)
        raise env.fail(
            "E036",
            f"a record of `{definition.name}` has no field `{node.name}`",
            node.span,
            help=advice,
            callee=definition,
        )


def _pick(env: Env, name: str) -> Callable[[RecordPoint], Expr]:
    """Field `name` of a point: its part, or what `finish` makes of the parts."""

    def pick(point: RecordPoint) -> Expr:
        definition = point.monoid
        if point.raw or not definition.finish:
            return point.parts[[f.name for f in definition.fields].index(name)]
        frame = Frame(env.session, definition, caller=env.frame, depth=env.frame.depth + 1)
        frame.names[definition.finish_name] = RecordPoint(point.parts, definition, raw=True)
        inner = Env(frame, scalar=True)
        for bind in definition.finish:
            for bound, value in _assignments(inner, bind, {}, definition):
                frame.names[bound] = value
                if bound == name:
                    return value
        raise AssertionError(f"finish of {definition.name} has no {name}")

    return pick
