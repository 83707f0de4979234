"""`base[indices]`: elements of tensors, slices of tensors, items of lists.

In: a subscript and where it stands. Out: an expression in index notation, else a tensor or a
value. Invariant: a `Read` without a fill is in range for every value of its axes. One that is in
range only where a condition around it holds gets a zero fill, which nobody looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from sdlc.graph.expr import Axis, Expr, Index, Literal, Read
from sdlc.graph.node import Const
from sdlc.graph.types import Array, DType, Span
from sdlc.language.diagnostics import plural
from sdlc.language.elaborate_operators import Operand, as_whole, at_point, axes_of, scalar
from sdlc.language.elaborate_scalar import convert, make
from sdlc.language.ranges import ANYTHING, DEAD, FULL, Ranges, inside, interval, outside
from sdlc.language.scope import Env, indices
from sdlc.language.syntax import Expression, Name, Range, Spread, Subscript
from sdlc.language.values import (
    Elementwise,
    Record,
    RecordField,
    Tensor,
    Value,
    describe,
    is_expression,
    is_integer,
    is_number,
    is_tensor,
    shape_text,
    show,
)

Readable = Tensor | Record | RecordField


def subscript(env: Env, node: Subscript) -> Value:
    """The value of `base[indices]`, with its `else` if there is one."""
    base = base_value(env, node.base)
    if isinstance(base, tuple):
        return _list_item(env, node, base)
    if env.scalar and isinstance(base, (Tensor, Record, RecordField)):
        return _read(env, node, base)
    base = as_whole(base)
    if is_tensor(base) and not env.scalar:
        return _slice(env, node, base)
    what = env.text(node.base.span)
    if base is None:
        raise env.fail(
            "E026",
            f"`{what}` is `none` here",
            node.base.span,
            "and has no elements",
            help=f"test it first: `if {what} != none {{ … }}`, `if {what} == none then 0 else …`",
        )
    raise env.fail(
        "E026",
        f"`{what}` cannot be indexed",
        node.base.span,
        f"this is {describe(base)}",
        help="only tensors, records and lists have elements",
    )


def base_value(env: Env, base: Expression) -> Value:
    """What is indexed. A tensor is found by its name even where an axis has the same."""
    if env.scalar and isinstance(base, Name) and base.id in env.axes:
        return env.whole().evaluate(base)
    return env.evaluate(base)


# ---- elements ----------------------------------------------------------------------------------


def _read(env: Env, node: Subscript, base: Readable) -> Value:
    where = _indices(env, node, base.shape)
    if node.otherwise is not None:
        return _guarded(env, node, node.otherwise, base, where)
    guarded = False
    for position, (index, extent) in enumerate(zip(where, base.shape, strict=True)):
        if not inside(index, extent, env.ranges):
            raise _out_of_range(env, node, position, index, extent, base.shape)
        guarded = guarded or not inside(index, extent, FULL)
    return base.at(where, guarded)


def _indices(env: Env, node: Subscript, shape: tuple[int, ...]) -> tuple[Expr, ...]:
    """Every index as an i32 expression, `*name` expanded; an error unless there are `rank` many."""
    found: list[Expr] = []
    for index in node.indices:
        match index:
            case Spread(id=name):
                if name not in env.groups:
                    raise env.fail(
                        "E020",
                        f"`*{name}` does not stand for axes here",
                        index.span,
                        help=f"name them on the left of the `=`, as in `out[*{name}, i]`",
                    )
                found += indices(env.groups[name])
            case Range():
                raise env.fail(
                    "E030",
                    "a range in index notation",
                    index.span,
                    "an element has one index for each dimension",
                    help="slices belong to statements without axes: `y = x[.., 0..4]`",
                )
            case _:
                found.append(_index(env, index))
    if len(found) != len(shape):
        raise env.fail(
            "E028",
            f"{plural(len(found), 'index', 'indices')} for {plural(len(shape), 'dimension')}",
            node.span,
            f"`{env.text(node.base.span)}` has the shape {shape_text(shape)}",
            help="one index for each dimension; `*name` stands for all axes of that group",
        )
    return tuple(found)


def _index(env: Env, index: Expression) -> Expr:
    expr = scalar(env, Operand(env.evaluate(index), index.span))
    if expr.dtype is not DType.I32:
        advice = "`i32(floor(e))` makes an integer of a float" if expr.dtype is DType.F32 else ""
        raise env.fail(
            "E030",
            "an index must be an integer",
            index.span,
            f"this is {describe(expr)}",
            help=advice,
        )
    return expr


def _out_of_range(
    env: Env, node: Subscript, position: int, index: Expr, extent: int, shape: tuple[int, ...]
) -> Exception:
    low, high = interval(index, env.ranges)
    written = node.indices[position] if len(node.indices) == len(shape) else None
    span = written.span if written is not None else node.span
    text = env.text(node.base.span)
    if isinstance(index, Literal):
        found = f"this is {low}"
    elif (low, high) == ANYTHING:
        found = "this depends on data and may be anything"
    else:
        found = f"this is {low} … {high}"
    advice = f"`{env.text(node.span)} else 0` gives a value to what lies outside"
    if inside(index, extent, env.dropped):
        advice = "a reduction is computed for all values of the axes around it: test inside of it"
    return env.fail(
        "E031",
        f"index {position} of `{text}` may be out of range",
        span,
        f"{found}; dimension {position} of `{text}` has 0 … {extent - 1}",
        help=advice,
    )


def _guarded(
    env: Env, node: Subscript, otherwise: Expression, base: Readable, where: tuple[Expr, ...]
) -> Value:
    """A read with an `else`, which is elaborated knowing that the index is out of range."""
    inner = env.knowing(_outside(env.ranges, where, base.shape))
    fill = scalar(inner, Operand(inner.evaluate(otherwise), otherwise.span))
    value = base.at(where)
    if not is_expression(value):
        raise env.fail(
            "E030",
            "a record has no value outside of its range",
            node.span,
            help="read a field of it: `s.m[i] else 0`",
        )
    fill = _fitting_fill(env, fill, value.dtype, otherwise.span)
    if all(inside(i, n, FULL) for i, n in zip(where, base.shape, strict=True)):
        return value
    if isinstance(value, Read) and value.indices == where:
        return Read(value.source, where, value.field, fill)
    guarded = base.at(where, guarded=True)
    assert is_expression(guarded)
    return make("select", _in_range(where, base.shape), guarded, fill)


def _outside(ranges: Ranges, where: tuple[Expr, ...], shape: tuple[int, ...]) -> Ranges:
    """What is known where one of the indices is out of range."""
    loose = [(i, n) for i, n in zip(where, shape, strict=True) if not inside(i, n, ranges)]
    if not loose:
        return DEAD
    return outside(*loose[0], ranges) if len(loose) == 1 else ranges


def _fitting_fill(env: Env, fill: Expr, dtype: DType, span: Span) -> Expr:
    fill = convert(fill, dtype)
    if fill.dtype is not dtype:
        raise env.fail(
            "E030",
            "the `else` value does not fit what is read",
            span,
            f"this is {describe(fill)}, the tensor has {dtype.value}",
            help="write it in the tensor's type: `false` for bool, `0` for numbers",
        )
    return fill


def _in_range(where: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """The condition under which every index is in range."""
    zero = Literal(0, DType.I32)
    tests = []
    for index, extent in zip(where, shape, strict=True):
        if not inside(index, extent, FULL):
            tests.append(make("ge", index, zero))
            tests.append(make("lt", index, Literal(extent, DType.I32)))
    return reduce(lambda a, b: make("and", a, b), tests)


# ---- slices ------------------------------------------------------------------------------------


def _slice(env: Env, node: Subscript, base: Tensor | Elementwise) -> Value:
    """Ranges keep a dimension, integers drop it."""
    if node.otherwise is not None:
        raise env.fail(
            "E030",
            "a slice has no `else`",
            node.otherwise.span,
            "slices lie in the tensor",
            help="pad in index notation: `y[i] = x[i - 1] else 0`",
        )
    shape = base.shape
    if len(node.indices) != len(shape):
        raise env.fail(
            "E028",
            f"{len(node.indices)} of {plural(len(shape), 'dimension')} given",
            node.span,
            f"`{env.text(node.base.span)}` is {describe(base)}",
            help="`..` takes a whole dimension: `x[.., 0..4]`",
        )
    axes: list[Axis] = []
    where: list[Expr] = []
    for axis, index, extent in zip(axes_of(env, base), node.indices, shape, strict=True):
        if isinstance(index, Range):
            start, stop = _bounds(env, index, extent)
            axes.append(Axis(axis.name, stop - start))
            where.append(make("add", Index(axes[-1]), Literal(start, DType.I32)))
        else:
            where.append(Literal(_position(env, index, extent), DType.I32))
    return Elementwise(tuple(axes), at_point(base, tuple(where)), base.dtype)


def _bounds(env: Env, index: Range, extent: int) -> tuple[int, int]:
    start = 0 if index.start is None else env.integer(index.start, "the start of a slice")
    stop = extent if index.stop is None else env.integer(index.stop, "the end of a slice")
    start, stop = (start + extent if start < 0 else start), (stop + extent if stop < 0 else stop)
    if not 0 <= start < stop <= extent:
        found = f"{start}..{stop} of {extent}"
        problem = "is empty" if start >= stop else "is out of range"
        raise env.fail(
            "E031",
            f"the slice {problem}",
            index.span,
            f"this is {found}",
            help="start..stop takes the elements from start on, before stop",
        )
    return start, stop


def _position(env: Env, index: Expression | Spread, extent: int) -> int:
    if isinstance(index, Spread):
        raise env.fail(
            "E030", "`*` in a slice", index.span, help="`..` takes a whole dimension: `x[.., 0]`"
        )
    position = env.integer(index, "an index of a slice")
    if not -extent <= position < extent:
        raise env.fail(
            "E031",
            "index out of range",
            index.span,
            f"this is {position}; the dimension has {extent}",
            help="indices count from 0; negative ones count from the end",
        )
    return position % extent


# ---- lists -------------------------------------------------------------------------------------


def _list_item(env: Env, node: Subscript, items: tuple[Value, ...]) -> Value:
    if len(node.indices) == 1 and isinstance(node.indices[0], Range):
        return _list_slice(env, node.indices[0], items)
    found: list[Value] = []
    for index in node.indices:
        if isinstance(index, (Range, Spread)):
            raise env.fail(
                "E030",
                "a list has single items and slices",
                index.span,
                help="`xs[0]` is an item, `xs[..-1]` a shorter list",
            )
        found.append(env.evaluate(index))
    if all(is_integer(i) for i in found):
        value: Value = items
        for index, position in zip(node.indices, found, strict=True):
            assert is_integer(position)
            value = _item(env, node, index.span, value, position)
        return value
    if not env.scalar:
        wrong = next(n for n, v in zip(node.indices, found, strict=True) if not is_integer(v))
        raise env.fail(
            "E030",
            "an index of a list must be an integer",
            wrong.span,
            help="`xs[0]` is the first item, `xs[-1]` the last, `xs[..-1]` all but the last",
        )
    return _table(env, node, items)


def _item(env: Env, node: Subscript, span: Span, value: Value, position: int) -> Value:
    if not isinstance(value, tuple):
        raise env.fail(
            "E028",
            "too many indices",
            span,
            f"what is indexed here is {describe(value)}",
            help="a list of lists has one index for each level",
        )
    if not -len(value) <= position < len(value):
        raise env.fail(
            "E041",
            "index out of range",
            span,
            f"this is {position}; `{env.text(node.base.span)}` is {describe(value)}",
            help="items count from 0; negative indices count from the end",
        )
    return value[position]


def _list_slice(env: Env, index: Range, items: tuple[Value, ...]) -> Value:
    start = None if index.start is None else env.integer(index.start, "the start of a slice")
    stop = None if index.stop is None else env.integer(index.stop, "the end of a slice")
    return items[start:stop]


def _table(env: Env, node: Subscript, items: tuple[Value, ...]) -> Value:
    """A list of numbers read at an index of the statement: a constant tensor."""
    data = _numbers(env, node, items)
    dtype = DType.I32 if np.issubdtype(data.dtype, np.integer) else DType.F32
    array = data.astype(dtype.numpy)
    name = env.text(node.base.span)
    origin = env.frame.origin(name if name.isidentifier() else "table", node.base.span)
    return _read(env, node, Tensor(Const(array.tobytes(), array.shape, dtype, origin)))


def _numbers(env: Env, node: Subscript, items: tuple[Value, ...]) -> Array:
    def leaves(value: Value) -> bool:
        return all(leaves(v) for v in value) if isinstance(value, tuple) else is_number(value)

    try:
        if leaves(items):
            return np.array(items)
    except ValueError:
        pass
    raise env.fail(
        "E030",
        "only a list of numbers (or of equally long lists of them) is read at an axis",
        node.base.span,
        f"this is {show(items)}",
        help="make a tensor of it, or use a compile-time index",
    )
