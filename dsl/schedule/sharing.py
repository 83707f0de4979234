"""How stages lie in arrays, and whether one may take the place of another.

In: a group, its nest, a stage. Out: strides and sizes; or why a stage that is to share its array
with a later one cannot. Invariant: where it can, every element is read for the last time by the
work-item that writes the later value over it, or before a barrier that stands between.

    scores[row, key] = …;  top[row] = max of scores;  weight[row, key] = exp(scores[row, key] - top)
    `weight` takes the place of `scores`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdlc.graph.expr import Axis, Index, Read
from sdlc.schedule.group import Group
from sdlc.schedule.region import Unknown, axis_forms, form_of, loops_by_key

if TYPE_CHECKING:
    from sdlc.schedule.nest import Nest, Staged


def layout(stage: Staged, axes: tuple[Axis, ...]) -> tuple[tuple[int, ...], int]:
    """Elements between neighbours of what a stage holds, by axis, and its size; a vector's axis
    is the innermost, and the pad follows rows along the innermost axis that has a length."""
    vector = stage.nest.vector_axes
    order = sorted(range(len(axes)), key=lambda n: axes[n] in vector)
    region = stage.region
    extents = [
        max(extent, (stage.nest.covered(a) - 1) // step + 1)
        for a, extent, step in zip(axes, region.extents, region.steps, strict=True)
    ]
    strides = [0] * len(order)
    size, pad = 1, stage.pad
    for n in reversed(order):
        strides[n] = size
        size *= extents[n]
        if extents[n] > 1:
            size, pad = size + pad, 0
    return tuple(strides), size


def unshared(group: Group, nest: Nest, stage: Staged) -> str:
    """Why a stage cannot share the array of the later one that it names; '' if it can, or names
    none."""
    if not stage.shares:
        return ""
    names = [s.value for s in nest.stages]
    if stage.shares not in names[names.index(stage.value) + 1 :]:
        return f"no stage `{stage.shares}` comes after it"
    later = nest.stages[names.index(stage.shares)]
    parts = {g.name: g for g in group.inner}
    first, second = parts[stage.value], parts[later.value]
    if (stage.at, stage.place) != (later.at, later.place) or second.monoid is not None:
        return f"`{later.value}` is no map in the same place"
    if any(step != 1 for s in (stage, later) for step in s.region.steps):
        return "they are held with gaps"
    if len(first.stores) + len(second.stores) > 2 or _dtype(first) is not _dtype(second):
        return "the two hold unlike values"
    held = (first.stores[0].node, first.stores[0].field)
    for reader in group.parts:
        late = reader is group or names.index(reader.name) > names.index(later.value)
        if late and any((r.source, r.field) == held for r in reader.reads):
            return f"`{reader.name}` reads it after `{later.value}`"
    reads = [r for r in second.reads if (r.source, r.field) == held]
    if layout(stage, first.axes)[1] != layout(later, second.axes)[1]:
        return "the two differ in size"
    try:
        alike = all(_same_place(group, nest, (stage, later), read) for read in reads)
    except Unknown as problem:
        return str(problem)
    return "" if alike else f"`{later.value}` reads other elements than its own"


def _dtype(part: Group) -> object:
    store = part.stores[0]
    return store.node.dtypes[store.field]


def _same_place(group: Group, nest: Nest, stages: tuple[Staged, Staged], read: Read) -> bool:
    """Whether the later stage stores each element where it reads the other one's."""
    parts = {g.name: g for g in group.inner}
    extents = {key: lp.extent for key, lp in loops_by_key(nest)}
    forms = axis_forms(group, nest)[stages[1].value]
    own = tuple(Index(a) for a in parts[stages[1].value].axes)
    places = []
    for stage, indices in zip(stages, (read.indices, own), strict=True):
        strides, _ = layout(stage, parts[stage.value].axes)
        place: dict[str, int] = {}
        constant = 0
        for index, first, stride in zip(indices, stage.region.first, strides, strict=True):
            terms, offset = form_of(index, forms, extents)
            _add(place, terms, stride)
            _add(place, dict(first[0]), -stride)
            constant += stride * (offset - first[1])
        places.append(({n: c for n, c in place.items() if c and extents[n] > 1}, constant))
    return places[0] == places[1]


def _add(place: dict[str, int], terms: dict[str, int], factor: int) -> None:
    for name, c in terms.items():
        place[name] = place.get(name, 0) + factor * c
