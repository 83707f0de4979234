"""Readable text of groups, of nests and of the steps of schedules.

In: a group. Out: a few lines. Example: `matmul_nt out: total = sum over k of x[m, k] * w[n, k]`.
In: a step. Out: one line. Example: `tile x by 4 into x.in`.
"""

from __future__ import annotations

from sdlc.graph.expr import Read, walk
from sdlc.graph.node import NO_ORIGIN, Input, Node
from sdlc.graph.show import show_expr
from sdlc.schedule.group import Group
from sdlc.schedule.nest import (
    Bind,
    Kind,
    Matrix,
    Nest,
    Reorder,
    SplitReduce,
    Spread,
    Stage,
    Step,
    Tile,
)


def show_group(group: Group) -> str:
    """The definitions that a group computes, in index notation."""
    names = _names(group)
    lines = []
    if group.monoid is not None:
        over = ", ".join(str(a) for a in group.over)
        lift = ", ".join(show_expr(e, names) for e in group.lift)
        lines.append(f"  total = {group.monoid.name} over {over} of {lift}")
    for store in group.stores:
        indices = ", ".join(show_expr(i, names) for i in store.indices)
        value = show_expr(store.value, names, lambda s: _result(group, s.field))
        many = len(store.node.dtypes) > 1
        field = f".{_field(group, store.field)}" if many else ""
        lines.append(f"  {names[store.node]}{field}[{indices}] = {value}")
    head = f"{group.definition} {group.name}".strip()
    return "\n".join([f"{head}:", *lines])


def show_nest(nest: Nest) -> str:
    """The loops, indented, then what is staged."""
    lines = []
    for depth, lp in enumerate(nest.loops):
        place = f"{lp.kind.value}{lp.dim}" if lp.kind in (Kind.GROUP, Kind.LANE) else lp.kind.value
        marks = ["reduced"] if nest.is_reduced(lp) else []
        marks += [] if nest.is_exact(lp.axis) else ["guarded"]
        stride = f" step {lp.stride}" if lp.stride != 1 else ""
        note = f"  ({', '.join(marks)})" if marks else ""
        lines.append(f"{'  ' * depth}{place} {lp.name} < {lp.extent}{stride}{note}")
    for stage in nest.stages:
        size = " × ".join(str(e) for e in stage.region.extents)
        how = f", spread by {_wide(stage.spread, stage.deep)}" if stage.spread else ""
        how += f", its place {stage.shares}'s later" if stage.shares else ""
        where = f"at {stage.at}" if stage.at else "outermost"
        lines.append(f"stage {stage.value} {where} in {stage.place.value}: {size}{how}")
        if not stage.spread:
            lines += [f"  {line}" for line in str(stage.nest).splitlines()]
    return "\n".join(lines)


def _wide(width: int, deep: int) -> str:
    return f"{deep} × {width}" if deep > 1 else str(width)


def show_step(step: Step) -> str:
    """A step of a schedule, as people say it."""
    match step:
        case Tile():
            return f"tile {step.name} by {step.size} into {step.inner}"
        case Reorder():
            return f"order {', '.join(step.names)}"
        case Bind():
            numbered = step.kind in (Kind.GROUP, Kind.LANE)
            return f"bind {step.name} to {step.kind.value}{step.dim if numbered else ''}"
        case Stage():
            where = f"at {step.at}" if step.at else "outermost"
            pad = f", rows padded by {step.pad}" if step.pad else ""
            place = f", in the place of {step.shares}" if step.shares else ""
            return f"stage {step.value} {where} in {step.place.value}{pad}{place}"
        case Spread():
            return f"spread {step.value} by {_wide(step.width, step.deep)}"
        case Matrix():
            loops = (", ".join(names) for names in (step.rows, step.columns, step.reduced))
            return f"compute {' times '.join(loops)} by {step.instruction.name}"
        case SplitReduce():
            return f"split {step.axis} in {step.ways} parts"


def _field(group: Group, number: int) -> str:
    return group.monoid.fields[number].name if group.monoid is not None else str(number)


def _result(group: Group, number: int) -> str:
    """How stored values name the reduction's result: `total`, or a field of it."""
    assert group.monoid is not None
    return f"total.{_field(group, number)}" if len(group.monoid.fields) > 1 else "total"


def _names(group: Group) -> dict[Node, str]:
    reads = [e.source for e in walk(*group.expressions) if isinstance(e, Read)]
    return {n: _name(n) for n in (*reads, *(s.node for s in group.stores))}


def _name(node: Node) -> str:
    """As in the source; what exists inside a kernel only is called as its inner group."""
    if isinstance(node, Input) and node.origin == NO_ORIGIN:
        return node.name.partition(".")[0]
    return node.origin.name
