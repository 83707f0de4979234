"""Transforms: short sums weighted by a small constant matrix, written out.

In: groups, or a group and a setting. Out: groups in which a transform that only another transform
reads is computed inside it; steps. Invariant: a work-item computes all outputs of its place, from
one read of its inputs.

    v[i, j] = sum over q of B[j, q] * t[i, q],   t[i, q] = sum over p of B[i, p] * x[y + p, q + x]
    one kernel: for each place y, x (vectors of channels) 6 × 6 inputs, 6 × 6 of t, 6 × 6 outputs
"""

from __future__ import annotations

from math import prod

from sdlc.graph.expr import Apply, Axis, Expr, Index, Read, axes_of, children
from sdlc.graph.node import Node
from sdlc.schedule.absorb import absorbed_into, arrangement, readers_of, shared_value
from sdlc.schedule.contraction import constant_factor, period
from sdlc.schedule.cost_issue import distinct
from sdlc.schedule.draft import Setting, bind_groups, divisor, vector_width
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Bind, Kind, Place, Stage, Step, Tile, initial
from sdlc.schedule.reasons import Journal
from sdlc.schedule.region import moved_by
from sdlc.schedule.staging import NestDraft


def nest_transforms(
    groups: tuple[Group, ...], kept: frozenset[Node], journal: Journal
) -> tuple[Group, ...]:
    """The groups with every transform that only one other transform reads inside that one."""
    readers = readers_of(groups)
    made: list[Group | None] = list(groups)
    producers = {s.node: n for n, g in enumerate(groups) for s in g.stores}
    for number, group in enumerate(groups):
        current = made[number]
        if current is None or constant_factor(group) is None:
            continue
        for source, _ in group.operands:
            at = producers.get(source)
            producer = made[at] if at is not None else None
            if producer is None or constant_factor(producer) is None:
                continue
            why = shared_value(source, kept, readers) or _apart(group, producer, source)
            journal.tell("nest_transforms", producer, why)
            if not why:
                assert at is not None
                current, made[at] = absorbed_into(current, producer), None
        made[number] = current
    return tuple(g for g in made if g is not None)


def _apart(group: Group, producer: Group, source: Node) -> str:
    """Why a transform is not computed inside the one that reads it, or ''."""
    if arrangement(producer) is None:
        return "it stores only a part of its value, or several"
    if not all(_stays(r) for r in group.reads if r.source is source):
        return "its reader would compute some of its elements more than once"
    return ""


def _stays(read: Read) -> bool:
    """Whether a read is of the reader's own place: at axes, and at their quotients and remainders,
    so that nothing is computed twice."""
    return read.fill is None and all(
        isinstance(i, Index)
        or (isinstance(i, Apply) and i.op in ("floordiv", "mod") and isinstance(i.args[0], Index))
        for i in read.indices
    )


def transform_steps(group: Group, stored: list[Axis], setting: Setting) -> tuple[Step, ...]:
    """Everything that the matrices are read at is written out; vectors and work-items run along
    the innermost axes in storage, `stored` from the outermost. Vectors are as wide as the values of
    one place fit the registers."""
    most, vector = setting.profile.registers, setting.profile.vector
    draft = _drafted(group, stored, setting, vector)
    while most and vector > 1 and _values(draft) > most:
        vector //= 2
        draft = _drafted(group, stored, setting, vector)
    return tuple(draft.steps)


def values_of_place(group: Group, setting: Setting) -> int:
    """The most scalars that a work-item holds at once where it has one place of a transform."""
    return _values(_drafted(group, list(group.axes), setting, 1))


def _values(draft: NestDraft) -> int:
    """The most scalars that one part holds of a place: what it makes, or what it reads, which can
    be loaded where it is used; both, where it computes what it weighs, since that is done once."""
    nests = {s.value: s.nest for s in draft.nest.stages}
    width = prod(lp.extent for lp in draft.nest.loops if lp.kind is Kind.VECTOR)
    most = 0
    for part in draft.group.parts:
        nest = draft.nest if part is draft.group else nests[part.name]
        copied = tuple(lp for lp in nest.loops if lp.kind is Kind.UNROLL)
        made = prod(lp.extent for lp in copied if not nest.is_reduced(lp))
        loaded = [r for r in part.reads if (r.source, r.field) not in draft.group.held]
        read = max((distinct(r, copied, axes_of(*r.indices)) for r in loaded), default=0)
        most = max(most, made + read if _computes(part) else max(made, read))
    return most * width


def _computes(part: Group) -> bool:
    """Whether what a part weighs is computed, not only read."""
    factor, term = constant_factor(part), part.lift[0]
    return any(a != factor and not isinstance(a, Read) for a in children(term))


def _drafted(group: Group, stored: list[Axis], setting: Setting, vector: int) -> NestDraft:
    """The nest with vectors of at most this many lanes."""
    draft = NestDraft(group, initial(group))
    written = _unroll(draft, group, "")
    free = [a for a in stored if draft.nest.loop(a.name).extent > 1 and a not in written]
    if free:
        width = vector_width(draft.nest.loop(free[-1].name).extent, vector)
        draft.tile(free[-1].name, width, Kind.VECTOR, "vec")
    lanes = setting.profile.lanes
    for dim, axis in enumerate(reversed(free[-3:])):
        size = divisor(draft.nest.loop(axis.name).extent, lanes)
        if size > 1:
            inner = f"{axis.name}.lane"
            draft.take(Tile(axis.name, size, inner), Bind(inner, Kind.LANE, dim))
            lanes //= size
    left = {a: draft.nest.loop(a.name).extent for a in group.axes}
    draft.take(*bind_groups(stored, left, setting))
    for part in reversed(group.inner):
        draft.take(Stage(part.name, "", Place.PRIVATE))
        _unroll(draft, part, f"{part.name}/")
        _spread_out(draft, part)
    return draft


def _spread_out(draft: NestDraft, part: Group) -> None:
    """What is left of a stage's loops: the reader's vector is one here too, the rest is copies."""
    vector = next((lp.name for lp in draft.nest.loops if lp.kind is Kind.VECTOR), "")
    along = moved_by(draft.group, draft.nest, part.name, vector)
    stage = next(s for s in draft.nest.stages if s.value == part.name)
    for loop in stage.nest.loops:
        if loop.kind is Kind.SERIAL and loop.extent > 1:
            kind = Kind.VECTOR if loop.axis in along else Kind.UNROLL
            draft.take(Bind(f"{part.name}/{loop.name}", kind))


def _written_inside(group: Group, read: Read) -> list[Expr]:
    """The indices of a read along which the inner group that it reads is written out itself."""
    part = next(g for g in group.inner if g.stores[0].node is read.source)
    factor = constant_factor(part)
    found = [period(i) for i in factor.indices] if factor is not None else []
    axes = {place[0] for place in found if place is not None}
    return [i for a, i in zip(part.axes, read.indices, strict=True) if a in axes]


def _unroll(draft: NestDraft, part: Group, prefix: str) -> frozenset[Axis]:
    """Writes out every loop that the constant, or a period of an inner value, is read at, and the
    terms of the sum; gives their axes."""
    factor = constant_factor(part)
    assert factor is not None
    nest = draft.nest
    if prefix:
        nest = next(s for s in nest.stages if f"{s.value}/" == prefix).nest
    held = [r for r in part.reads if (r.source, r.field) in draft.group.held]
    periods = [period(i) for r in held for i in r.indices if not isinstance(i, Index)]
    periods += [period(i) for r in held for i in _written_inside(draft.group, r)]
    sizes = dict(found for found in (*map(period, factor.indices), *periods) if found is not None)
    sizes |= {a: a.extent for a in part.over}
    for axis, size in sizes.items():
        size = min(size, nest.loop(axis.name).extent)
        draft.tile(f"{prefix}{axis.name}", size, Kind.UNROLL, "tile")
    return frozenset(sizes)
