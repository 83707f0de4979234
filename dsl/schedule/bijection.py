"""Index maps that only rearrange: which point of a source each point of a reader is, and back.

In: the indices at which a reader reads a source point by point. Out: the reader's axes as
expressions of the source's, or None. Invariant: the map is one to one and onto.

    out[b, i] = y[b, i / 8, i % 8]          i = h * 8 + e
    out[c, r, q] = y[r * 16 + q, c]         r = s / 16, q = s % 16
"""

from __future__ import annotations

from collections import defaultdict
from math import prod

from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, apply, i32
from sdlc.schedule.affine import affine

Digit = tuple[Axis, int, int]
"""`axis floordiv stride mod extent`."""


def inverse(
    indices: tuple[Expr, ...], source: tuple[Axis, ...], reader: tuple[Axis, ...]
) -> dict[Axis, Expr] | None:
    """The reader's axes in terms of the source's, for a read of the source at `indices`."""
    if prod(a.extent for a in source) != prod(a.extent for a in reader):
        return None
    found: dict[Axis, Expr] = {}
    digits: dict[Axis, list[tuple[int, Axis]]] = defaultdict(list)
    for index, axis in zip(indices, source, strict=True):
        digit = _digit(index, axis.extent)
        if digit is not None:
            digits[digit[0]].append((digit[1], axis))
            continue
        parts = _parts(index, axis)
        if parts is None or any(a in found for a in parts):
            return None
        found |= parts
    for axis, of in digits.items():
        whole = _whole(axis, of)
        if whole is None or axis in found:
            return None
        found[axis] = whole
    unread = [a for a in reader if a not in found]
    if any(a.extent > 1 for a in unread):
        return None
    return found | {a: i32(0) for a in unread}


def _digit(index: Expr, extent: int) -> Digit | None:
    """An index that is a digit of one axis."""
    match index:
        case Index(axis=axis):
            return axis, 1, axis.extent
        case Apply(op="mod", args=(Index(axis=axis), Literal(value=int(by)))) if by == extent:
            return axis, 1, extent
        case Apply(op="floordiv", args=(Index(axis=axis), Literal(value=int(by)))) if by > 0:
            return axis, int(by), extent
        case Apply(
            op="mod",
            args=(
                Apply(op="floordiv", args=(Index(axis=axis), Literal(value=int(by)))),
                Literal(value=int(of)),
            ),
        ) if by > 0 and of == extent:
            return axis, int(by), extent
    return None


def _whole(axis: Axis, digits: list[tuple[int, Axis]]) -> Expr | None:
    """An axis from all its digits, the strides of which multiply up."""
    total: Expr = i32(0)
    stride = 1
    for place, digit in sorted(digits, key=lambda d: d[0]):
        if place != stride:
            return None
        term: Expr = Index(digit) if stride == 1 else apply("mul", Index(digit), i32(stride))
        total = term if stride == 1 else apply("add", term, total)
        stride *= digit.extent
    return total if stride == axis.extent else None


def _parts(index: Expr, axis: Axis) -> dict[Axis, Expr] | None:
    """The axes whose mixed-radix number an index is, as digits of the source's axis."""
    form = affine(index)
    if form is None or form[1] != 0:
        return None
    found: dict[Axis, Expr] = {}
    stride = 1
    for part, factor in sorted(form[0].items(), key=lambda t: t[1]):
        if factor != stride:
            return None
        value: Expr = Index(axis)
        if stride > 1:
            value = apply("floordiv", value, i32(stride))
        stride *= part.extent
        if stride < axis.extent:
            value = apply("mod", value, i32(part.extent))
        found[part] = value
    return found if stride == axis.extent else None
