"""What the loops and axes of a nest are called in a kernel, and what is known of their ranges.

In: a group and its nest. Out: `Names` for the group itself and for each stage. Invariant: `axes`
never leave the extent of their axis; `raw` may, where a tile does not divide or a region overlaps
the border.

    for x < 8 (tiles of 4) { stage a at x: from 8*x on }      x = 4*x + x_tile; a's axis = 8*x + a_i
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from sdlc.graph.expr import Axis
from sdlc.kernel import ir as k
from sdlc.kernel.linear import linear
from sdlc.kernel.simplify import Simplifier, simplify
from sdlc.schedule.nest import Kind, Loop, Nest, Staged
from sdlc.schedule.region import Form

LANE = k.Var("lane_of_vector", k.I32)
Ranges = dict[k.Expr, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Names:
    """The values of a nest's loops and axes (`axes` never beyond the extent, `raw` possibly), and
    the conditions of being inside an inexact axis; `renamed` gives the same for other values of the
    loops."""

    loops: dict[str, k.Expr]
    axes: dict[Axis, k.Expr]
    raw: dict[Axis, k.Expr]
    inside: dict[Axis, k.Expr]
    renamed: Callable[[dict[str, k.Expr]], Names]


def loop_var(loop: Loop, prefix: str = "") -> k.Var:
    """The variable of a serial, unrolled or vector loop."""
    name = f"{prefix}{loop.name}".replace(".", "_").replace("'", "_prime").replace("/", "_")
    return LANE if loop.kind is Kind.VECTOR else k.Var(name, k.I32)


def loop_names(nest: Nest) -> set[str]:
    """The names that the loop variables of a nest and of its stages take in a kernel."""
    own = {loop_var(lp).name for lp in nest.loops}
    return own.union(
        *({loop_var(lp, f"{s.value}/").name for lp in s.nest.loops} for s in nest.stages)
    )


def loops_of(nest: Nest, ranges: Ranges, prefix: str = "") -> dict[str, k.Expr]:
    """The value of every loop; notes the ranges of their variables."""
    loops: dict[str, k.Expr] = {}
    if not prefix:
        ranges[LANE] = (0, _widest(nest) - 1)
    for kind, word in ((Kind.GROUP, "group"), (Kind.LANE, "lane")):
        for dim in range(3):
            bound = [lp for lp in nest.loops if lp.kind is kind and lp.dim == dim]
            work = k.WorkId(word, dim)  # type: ignore[arg-type]
            if not prefix:
                ranges[work] = (0, nest.size(kind, dim) - 1)
            loops.update(_digits(bound, work))
    for loop in nest.loops:
        if loop.name not in loops:
            loops[loop.name] = loop_var(loop, prefix)
            known = ranges.get(loop_var(loop, prefix), (0, 0))
            ranges[loop_var(loop, prefix)] = (0, max(known[1], loop.extent - 1))
    return loops


def _widest(nest: Nest) -> int:
    """The lanes of the widest vector of a nest and its stages."""
    nests = (nest, *(s.nest for s in nest.stages))
    widths = [lp.extent for n in nests for lp in n.loops if lp.kind is Kind.VECTOR]
    return max([1, *widths, *(s.spread for s in nest.stages)])


def names_of(nest: Nest, loops: dict[str, k.Expr], ranges: Ranges) -> Names:
    """The names of a whole nest, whose axes start at 0."""
    axes: dict[Axis, k.Expr] = {}
    raw: dict[Axis, k.Expr] = {}
    inside: dict[Axis, k.Expr] = {}
    for axis in dict.fromkeys(lp.axis for lp in nest.loops):
        value = _position(nest.of_axis(axis), loops)
        raw[axis] = simplify(value, ranges)
        if not nest.is_exact(axis):
            within, size = _within_tile(nest, axis, loops)
            start = k.call("sub", value, within)
            inside[axis] = simplify(k.call("lt", start, k.i32(axis.extent)), ranges)
            value = clamped(value, axis.extent, size, within)
        axes[axis] = simplify(value, ranges)
    return Names(loops, axes, raw, inside, partial(names_of, nest, ranges=ranges))


def _within_tile(nest: Nest, axis: Axis, loops: Mapping[str, k.Expr]) -> tuple[k.Expr, int]:
    """The place within a tile of the axis of which no element lies beyond the extent unless all do,
    and the tile's size: the largest that loops have; else 0, and 1."""
    own = nest.of_axis(axis)
    size = max((lp.stride for lp in own if _is_whole(nest, axis, lp.stride)), default=1)
    return _position([lp for lp in own if lp.stride < size], loops), size


def _is_whole(nest: Nest, axis: Axis, size: int) -> bool:
    """Whether tiles of so many elements divide the axis, the loops around them and those within;
    none begins within a matrix."""
    own = nest.of_axis(axis)
    within = sum((lp.extent - 1) * lp.stride for lp in own if lp.stride < size)
    of = nest.matrix
    matrix = [lp for lp in (*of.rows, *of.columns) if lp.axis == axis] if of is not None else []
    return (
        axis.extent % size == 0
        and within < size
        and all(lp.stride % size == 0 for lp in own if lp.stride >= size)
        and not any(lp.stride < size < lp.stride * lp.extent for lp in matrix)
    )


def clamped(
    value: k.Expr, extent: int, size: int, within: k.Expr, least: int | None = None
) -> k.Expr:
    """An index that stays below the extent, and from `least` on: that of the place `within` a tile
    of so many elements, which is moved as a whole and starts at a multiple of its size."""
    start = value if size == 1 else k.call("floordiv", k.call("sub", value, within), k.i32(size))
    if least is not None:
        start = k.call("max", start, k.i32(least // size))
    start = k.call("min", start, k.i32(extent // size - 1))
    return start if size == 1 else k.call("add", k.call("mul", start, k.i32(size)), within)


def lanes_of(index: k.Expr, extent: int, lanes: int) -> int:
    """`lanes`, if the index is that of a lane of a vector of which none lies out of an extent
    unless all do, as far as its linear form tells; else 1."""
    terms, constant = linear(index)
    rest = (*(c for term, c in terms.items() if term is not LANE), constant, extent)
    alone = all(term is LANE or LANE not in term.variables for term in terms)
    whole = terms.get(LANE) == 1 and alone and all(c % lanes == 0 for c in rest)
    return lanes if whole else 1


def stage_names(
    stage: Staged,
    axes: tuple[Axis, ...],
    first: Mapping[Axis, k.Expr],
    loops: dict[str, k.Expr],
    simplifier: Simplifier,
) -> Names:
    """The names inside a stage whose output axes start at `first`."""
    nest = stage.nest
    made: dict[Axis, k.Expr] = {}
    raw: dict[Axis, k.Expr] = {}
    inside: dict[Axis, k.Expr] = {}
    for axis in dict.fromkeys((*axes, *(lp.axis for lp in nest.loops))):
        value = _position(nest.of_axis(axis), loops)
        last = axis.extent - 1
        if axis in first:
            value = k.call("add", first[axis], value)
        elif not nest.is_exact(axis):
            within, size = _within_tile(nest, axis, loops)
            start = k.call("sub", value, within)
            inside[axis] = simplifier.visit(k.call("lt", start, k.i32(axis.extent)))
            made[axis] = simplifier.visit(clamped(value, axis.extent, size, within))
        raw[axis] = simplifier.visit(value)
        if axis in made:
            continue
        safe = k.call("min", k.call("max", value, k.i32(0)), k.i32(last))
        made[axis] = simplifier.visit(safe)
    renamed = partial(stage_names, stage, axes, first, simplifier=simplifier)
    return Names(loops, made, raw, inside, renamed)


def form_value(form: Form, loops: Mapping[str, k.Expr]) -> k.Expr:
    """A form over loops as an expression."""
    total: k.Expr = k.i32(form[1])
    for key, factor in form[0]:
        total = k.call("add", total, k.call("mul", loops[key], k.i32(factor)))
    return total


def _position(own: Iterable[Loop], loops: Mapping[str, k.Expr]) -> k.Expr:
    value: k.Expr = k.i32(0)
    for loop in own:
        value = k.call("add", value, k.call("mul", loops[loop.name], k.i32(loop.stride)))
    return value


def mixed(parts: list[tuple[k.Expr, int]]) -> k.Expr:
    """One number from several digits, the last the fastest."""
    total: k.Expr = k.i32(0)
    for value, extent in parts:
        total = k.call("add", k.call("mul", total, k.i32(extent)), value)
    return total


def _digits(bound: list[Loop], number: k.Expr) -> dict[str, k.Expr]:
    """Each loop's index from a work-group's or work-item's number, the last loop the fastest."""
    made: dict[str, k.Expr] = {}
    inner = 1
    for loop in reversed(bound):
        digit = k.call("floordiv", number, k.i32(inner)) if inner > 1 else number
        made[loop.name] = k.call("mod", digit, k.i32(loop.extent))
        inner *= loop.extent
    return made
