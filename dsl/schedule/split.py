"""A reduction in parts: each part folded by work-groups of its own, a second kernel combines them.

In: a group whose reduction is long, a `SplitReduce`. Out: two groups. Invariant: the value is the
same up to the order of the fold: a monoid is associative and commutative, and what a part stores is
the monoid's whole state, so any monoid can be split.

    out[i] = f(fold over k < 4096 of lift(i, k))       SplitReduce("k", 8)
    out_parts.f[p, i] = fold over k < 512 of lift(i, p * 512 + k)
    out[i] = f(fold over p < 8 of out_parts[p, i])

Where blocks of the axis are folded with what they read computed inside (attention), whole blocks
make a part; where a map holds the statistics of its rows, these are what is split.
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.graph.expr import Axis, Index, Read
from sdlc.graph.node import Reduce
from sdlc.graph.types import DType
from sdlc.schedule.contraction import constant_factor
from sdlc.schedule.draft import divisor
from sdlc.schedule.group import Group, Output, slot
from sdlc.schedule.nest import Refused, SplitReduce, initial
from sdlc.schedule.rescale import Blocks, identity_of

MOST_WAYS = 16
"""More parts are not worth combining one by one."""


def split(group: Group, step: SplitReduce) -> tuple[Group, Group]:
    """The group that folds the parts, and the one that combines them and stores.

    Raises `Refused` where the group's reduction cannot be split so.
    """
    part = statistics_of(group)
    folded = group if part is None else part

    def refuse(reason: str) -> Refused:
        return Refused(step, reason, initial(group), group)

    if folded.monoid is None:
        raise refuse("nothing is reduced")
    if constant_factor(folded) is not None:
        raise refuse("a short sum weighted by constants is written out")
    if any(f.dtype is DType.BOOL for f in folded.monoid.fields):
        raise refuse("a state that holds a bool is not stored")
    axis = next((a for a in folded.over if a.name == step.axis), None)
    if axis is None:
        raise refuse(f"`{step.axis}` is not a reduced axis")
    if not 1 < step.ways <= min(axis.extent, MOST_WAYS):
        raise refuse(f"an axis of {axis.extent} is not split in {step.ways}")
    size = -(-axis.extent // step.ways)
    if (step.ways - 1) * size >= axis.extent:
        raise refuse(f"{step.ways} parts of {size} leave one without elements")
    if folded.inner and axis.extent % step.ways:
        raise refuse(f"{step.ways} parts would cut through a block")
    parts = parts_of(folded, axis, step.ways, size)
    combined = _combined(folded, parts)
    return parts, combined if part is None else _around(group, combined)


def statistics_of(group: Group) -> Group | None:
    """The reduction that a map holds for its rows, if that is all it holds."""
    if group.monoid is not None or len(group.inner) != 1 or group.inner[0].monoid is None:
        return None
    return group.inner[0]


def ways_of(group: Group, slice_: int = 0) -> tuple[SplitReduce, ...]:
    """The steps that split a group's longest reduced axis (its blocks, where it has some) evenly,
    or nearly so where no number divides it; in parts of whole slices of so many elements (0: of
    any), where there are such."""
    folded = statistics_of(group) or group
    if not folded.over:
        return ()
    axis = folded.over[-1] if folded.inner else max(folded.over, key=lambda a: a.extent)
    whole = {n for n in range(2, MOST_WAYS + 1) if slice_ and axis.extent % (n * slice_) == 0}
    found = whole or {divisor(axis.extent, n) for n in (2, 4, 8, MOST_WAYS)} - {1}
    if not found and not folded.inner:
        sizes = (-(-axis.extent // n) for n in (2, 4, 8, MOST_WAYS) if n < axis.extent)
        found = {-(-axis.extent // size) for size in sizes}
    return tuple(SplitReduce(axis.name, n) for n in sorted(found))


def parts_of(group: Group, axis: Axis, ways: int, size: int) -> Group:
    """The reduction over the elements of each part; its state is what is stored."""
    assert group.monoid is not None
    blocks = Blocks(axis, Axis(f"{axis.name}.part", ways), Axis(axis.name, size))
    lift = tuple(
        blocks.kept(blocks.moved(e), identity_of(f))
        for e, f in zip(group.lift, group.monoid.fields, strict=True)
    )
    axes = (blocks.outer, *group.axes)
    over = tuple(blocks.inner if a == axis else a for a in group.over)
    fields = group.monoid.fields
    origin = replace(group.origins[0], name=f"{group.name}_parts")
    dtypes = tuple(f.dtype for f in fields)
    node = Reduce(axes, over, group.monoid, lift, dtypes, origin, group.wide)
    here = tuple(Index(a) for a in axes)
    stores = tuple(Output(node, f, here, slot(group.monoid, f)) for f in range(len(fields)))
    return replace(group, name=origin.name, axes=axes, over=over, lift=lift, stores=stores)


def _combined(group: Group, parts: Group) -> Group:
    """The fold of the parts, with the stores of the whole."""
    node = parts.stores[0].node
    lift = tuple(Read(node, s.indices, s.field) for s in parts.stores)
    return replace(group, over=parts.axes[:1], lift=lift, inner=())


def _around(group: Group, combined: Group) -> Group:
    """The map whose rows' statistics are combined inside it."""
    return replace(group, inner=(combined,))
