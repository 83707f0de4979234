"""Whether a nest fits a target, told before its kernel is made.

In: a group, its nest and storage orders; a target. Out: why not, or None. Invariant: what is let
through is within the target's limits of work-items, work-groups, vector widths and local memory,
and no larger in registers than the profile's own tile or the target's `registers`.

    misfit(group, nest, orders, target)      "needs about 296 registers, a work-item has 128"
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from sdlc.graph.node import Node
from sdlc.schedule.cost_issue import issue_of
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Kind, Nest, Place
from sdlc.target import Capabilities, Target

Orders = Mapping[tuple[Node, int], tuple[int, ...]]


def misfit(group: Group, nest: Nest, orders: Orders, target: Target) -> str | None:
    """Why the kernel cannot run on the target, or None."""
    for problem in (_grid(nest, target.caps), _vector(nest, target.caps)):
        if problem is not None:
            return problem
    local = local_bytes(group, nest)
    if local > target.caps.local_bytes:
        return f"needs {local} bytes of local memory, a work-group has {target.caps.local_bytes}"
    registers = issue_of(group, nest, orders, target.peak).registers
    most = max(target.peak.registers, _registers_of_profile(target))
    if registers > most:
        return f"needs about {registers} registers, a work-item has {most}"
    return None


def _registers_of_profile(target: Target) -> int:
    """What the profile's own tile takes with its operands: what it says is never refused."""
    rows, columns = target.profile.register_tile
    return 2 * rows * columns + rows + columns


def _grid(nest: Nest, caps: Capabilities) -> str | None:
    lanes = [nest.size(Kind.LANE, dim) for dim in range(3)]
    over = any(n > most for n, most in zip(lanes, caps.max_group, strict=True))
    if over or prod(lanes) > caps.max_work_items:
        return f"needs work-groups of {' × '.join(map(str, lanes))}"
    groups = max(nest.size(Kind.GROUP, dim) for dim in range(3))
    return f"needs {groups} work-groups in a dimension" if groups > caps.max_groups else None


def _vector(nest: Nest, caps: Capabilities) -> str | None:
    every = (nest, *(s.nest for s in nest.stages))
    widths = [lp.extent for n in every for lp in n.loops if lp.kind is Kind.VECTOR]
    widest = max(caps.vector_widths)
    return next((f"needs vectors of {w}" for w in widths if w > widest), None)


def local_bytes(group: Group, nest: Nest) -> int:
    """Local memory of a work-group: stages, and what lanes of a reduction exchange."""
    parts = {g.name: g for g in group.inner}
    staged = sum(
        _staged_bytes(parts[s.value], s.region.extents, s.pad)
        for s in nest.stages
        if s.place is Place.LOCAL and not s.shares
    )
    return staged + _exchanged(group, nest)


def _staged_bytes(part: Group, extents: tuple[int, ...], pad: int) -> int:
    row = next((e for e in reversed(extents) if e > 1), 0)
    elements = prod(extents) // row * (row + pad) if row else 1
    return elements * sum(s.node.dtypes[s.field].itemsize for s in part.stores)


def _exchanged(group: Group, nest: Nest) -> int:
    monoid = group.monoid
    shared = [lp for lp in nest.loops if lp.kind is Kind.LANE and nest.is_reduced(lp)]
    if monoid is None or not shared:
        return 0
    lanes = prod(lp.extent for lp in nest.loops if lp.kind is Kind.LANE)
    own = (Kind.UNROLL, Kind.VECTOR)
    copies = prod(lp.extent for lp in nest.loops if lp.kind in own and not nest.is_reduced(lp))
    return lanes * copies * sum(f.dtype.itemsize for f in monoid.fields)
