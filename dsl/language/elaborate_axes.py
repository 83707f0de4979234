"""The axes of a definition or a reduction, and how long they are.

In: the axes as written and the expressions under them. Out: an `Env` in which they are in scope.
Invariant: the extent of an axis is, in this order: what is written (`i < n`), the declared
dimension of a result, the dimension at which a tensor is read with the bare axis, the size of that
name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sdlc.graph.expr import Axis
from sdlc.graph.types import Span
from sdlc.language.diagnostics import plural
from sdlc.language.elaborate_names import check_names
from sdlc.language.ranges import FULL
from sdlc.language.scope import Env, Poisoned, fresh_axis
from sdlc.language.syntax import (
    Attribute,
    AxisRange,
    Expression,
    Name,
    Reduction,
    Spread,
    Subscript,
)
from sdlc.language.traverse import Part, parts
from sdlc.language.values import Poison, Record, Tensor, Value, is_integer, shape_text

Extents = tuple[int, ...]


def enter_axes(
    env: Env,
    axes: Sequence[AxisRange],
    bodies: Sequence[Expression],
    declared: tuple[str, Extents] | None = None,
) -> tuple[Env, tuple[Axis, ...]]:
    """`env` with these axes in scope, and the axes in order.

    `declared` is the name and shape of the result that is being defined. What conditions told about
    enclosing axes is forgotten: a reduction is computed for all their values.
    """
    _check_names(env, axes)
    dimensions = _declared_parts(env, axes, declared)
    made: list[Axis] = []
    names, groups = dict(env.axes), dict(env.groups)
    for position, axis in enumerate(axes):
        extents = _extents(env, axis, axes, bodies, dimensions[position])
        found: list[Axis] = []
        for number, extent in enumerate(extents):
            name = f"{axis.name}{number}" if axis.spread and len(extents) > 1 else axis.name
            found.append(fresh_axis(name, extent, (*env.enclosing, *made, *found)))
        made += found
        if axis.spread:
            groups[axis.name] = tuple(found)
        else:
            names[axis.name] = found[0]
    inner = replace(
        env,
        scalar=True,
        axes=names,
        groups=groups,
        enclosing=(*env.enclosing, *made),
        ranges=FULL,
        dropped=env.ranges,
    )
    return inner, tuple(made)


def _check_names(env: Env, axes: Sequence[AxisRange]) -> None:
    seen: set[tuple[str, bool]] = set()
    for axis in axes:
        if (axis.name, axis.spread) in seen:
            raise env.fail(
                "E032",
                f"axis `{axis.name}` stands here twice",
                axis.span,
                help="give the second one another name",
            )
        seen.add((axis.name, axis.spread))


def _declared_parts(
    env: Env, axes: Sequence[AxisRange], declared: tuple[str, Extents] | None
) -> list[tuple[str, Extents] | None]:
    """The dimensions of a declared result that each axis stands for."""
    if declared is None:
        return [None] * len(axes)
    name, shape = declared
    spreads = sum(a.spread for a in axes)
    rest = len(shape) - (len(axes) - spreads)
    if spreads > 1 or rest < 0 or (not spreads and rest):
        raise env.fail(
            "E028",
            f"`{name}` has {plural(len(shape), 'dimension')}, but {len(axes)} "
            f"{'axis is' if len(axes) == 1 else 'axes are'} given",
            _reach(axes) or (env.statement[1] if env.statement else env.frame.definition.span),
            f"its declared shape is {shape_text(shape)}",
            help=f"write one axis for each dimension, or one `*` for the rest: `{name}[*rest]`",
        )
    found: list[tuple[str, Extents] | None] = []
    position = 0
    for axis in axes:
        width = rest if axis.spread else 1
        found.append((name, shape[position : position + width]))
        position += width
    return found


def _reach(axes: Sequence[AxisRange]) -> Span | None:
    if not axes:
        return None
    first, last = axes[0].span, axes[-1].span
    return Span(first.file, first.line, first.column, last.end_line, last.end_column)


def _written(
    env: Env, axis: AxisRange, extent: int, declared: tuple[str, Extents] | None
) -> Extents:
    """An extent that is written, checked against the declared one if there is one."""
    if declared is not None and declared[1] != (extent,):
        raise env.fail(
            "E033",
            f"axis `{axis.name}` does not fit the declared shape of `{declared[0]}`",
            axis.span,
            f"{extent} here, {declared[1][0]} declared",
            help=f"leave the extent out: `{axis.name}` is then as long as declared",
        )
    if extent < 1:
        raise env.fail(
            "E038",
            f"axis `{axis.name}` has no elements",
            axis.span,
            f"it is {extent}",
            help="an axis has at least one element; check what it is computed from",
        )
    return (extent,)


def _extents(
    env: Env,
    axis: AxisRange,
    axes: Sequence[AxisRange],
    bodies: Sequence[Expression],
    declared: tuple[str, Extents] | None,
) -> Extents:
    """How long an axis is, a group of axes one after another. `declared`: the result's name and
    the dimensions that the axis stands for."""
    if axis.extent is not None:
        extent = env.integer(axis.extent, f"the extent of axis `{axis.name}`")
        return _written(env, axis, extent, declared)
    if declared is not None:
        return declared[1]
    read = _from_reads(env, axis, bodies)
    if read is not None:
        return read
    size = env.frame.names.get(f"*{axis.name}" if axis.spread else axis.name)
    if axis.spread and isinstance(size, tuple):
        return tuple(n for n in size if is_integer(n))
    if not axis.spread and is_integer(size) and size > 0:
        return (size,)
    check_names(env, bodies, [a.name for a in axes])
    text = f"*{axis.name}" if axis.spread else axis.name
    advice = f"write it, as in `{text} < n`, or read a tensor with `{text}` alone as an index"
    if axis.spread:
        advice = f"read a tensor with it, as in `x[{text}, i]`"
    raise env.fail("E032", f"the extent of axis `{text}` is not known", axis.span, help=advice)


def _from_reads(env: Env, axis: AxisRange, bodies: Sequence[Expression]) -> Extents | None:
    """The extents at which tensors are read with the bare axis; guarded reads are heard last."""
    found = [
        (read, extents)
        for body in bodies
        for read in _reads(body, axis)
        if (extents := _extents_at(env, read, axis)) is not None
    ]
    sure = [(r, e) for r, e in found if r.otherwise is None] or found
    if not sure:
        return None
    first, extents = sure[0]
    for read, other in sure[1:]:
        if other != extents:
            a, b = (env.text(first.span), env.text(read.span))
            raise env.fail(
                "E032",
                f"axis `{axis.name}` has two extents",
                axis.span,
                f"{_shown(extents)} in `{a}`, {_shown(other)} in `{b}`",
                help=f"write the one that is meant: `{axis.name} < …`",
            )
    return extents


def _shown(extents: Extents) -> str:
    return str(extents[0]) if len(extents) == 1 else shape_text(extents)


def _reads(expr: Part, axis: AxisRange) -> Iterator[Subscript]:
    """Every read of a tensor that has the bare axis as an index."""
    if isinstance(expr, Reduction) and any(
        a.name == axis.name and a.spread == axis.spread for a in expr.axes
    ):
        return
    if isinstance(expr, Subscript) and any(_is_bare(i, axis) for i in expr.indices):
        yield expr
    for part in parts(expr):
        yield from _reads(part, axis)


def _is_bare(index: Part, axis: AxisRange) -> bool:
    kind = Spread if axis.spread else Name
    return isinstance(index, kind) and index.id == axis.name


def _extents_at(env: Env, read: Subscript, axis: AxisRange) -> Extents | None:
    shape = shape_of(env, read.base)
    if shape is None:
        return None
    spreads = [i for i, index in enumerate(read.indices) if isinstance(index, Spread)]
    width = len(shape) - (len(read.indices) - len(spreads))
    if len(spreads) > 1 or width < 0:
        return None
    position = next(i for i, index in enumerate(read.indices) if _is_bare(index, axis))
    start = position + width - 1 if spreads and spreads[0] < position else position
    if axis.spread:
        return shape[start : start + width]
    return shape[start : start + 1] or None


def shape_of(env: Env, base: Expression) -> Extents | None:
    """The shape of what is indexed, if that is a tensor of this scope."""
    match base:
        case Name(id=name):
            return _value_shape(env.frame.names.get(name))
        case Attribute(base=Name(id=name)):
            return _value_shape(env.frame.names.get(name))
        case Subscript(base=Name(id=name)) if isinstance(env.frame.names.get(name), tuple):
            return _value_shape(env.whole().evaluate(base))
    return None


def _value_shape(value: Value) -> Extents | None:
    if isinstance(value, Poison):
        raise Poisoned
    if isinstance(value, (Tensor, Record)):
        return value.shape
    if isinstance(value, tuple) and value and all(not isinstance(v, Tensor) for v in value):
        return (len(value), *(_value_shape(value[0]) or ()))
    return None
