"""The plan: every kernel to be, with where its values are stored.

In: a graph and a target. Out: `Plan`: groups in order, a nest for each, storage orders. Invariant:
every nest is legal; every value that a group reads is an input, a constant, a weight or stored by
an earlier group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sdlc.graph.expr import Axis
from sdlc.graph.node import Graph
from sdlc.schedule.fuse import fuse
from sdlc.schedule.group import Group
from sdlc.schedule.layout import Orders, Value, assign_orders, row_major, vector_of
from sdlc.schedule.nest import Nest, Step, schedule
from sdlc.schedule.rescale import carry
from sdlc.schedule.storage import Block
from sdlc.schedule.tactics import Setting, steps_for
from sdlc.target import Target


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One kernel to be: the group, the steps that were taken and the nest that they gave."""

    group: Group
    steps: tuple[Step, ...]
    nest: Nest

    def __str__(self) -> str:
        nest = "\n".join("  " + line for line in str(self.nest).splitlines())
        return f"{self.group}\n{nest}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Kernels to be in execution order, the storage order of every (node, field), and the blocks of
    those that are stored in blocks."""

    kernels: tuple[Scheduled, ...]
    orders: Orders
    blocks: Mapping[Value, Block] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n\n".join(str(k) for k in self.kernels)


def plan(graph: Graph, target: Target, results: Orders | None = None) -> Plan:
    """Groups, storage orders and default schedules for a target. `results` are the orders that the
    graph's outputs have in storage where they are not row-major."""
    groups = fuse(graph, max_reads=max(4, target.caps.max_storage_buffers - 3))
    if target.profile.block:
        groups = carry(groups, frozenset(n for _, n, _ in graph.outputs), target.profile.block)
    kept = {(n, f): row_major((n, f)) for _, n, f in graph.outputs} | (results or {})
    orders, vectors = assign_orders(groups, kept, target.profile.vector)
    setting = Setting(target.profile, target.caps.max_groups, orders)
    return Plan(tuple(_scheduled(g, vector_of(g, vectors), setting) for g in groups), orders)


def _scheduled(group: Group, lanes: Axis | None, setting: Setting) -> Scheduled:
    steps = steps_for(group, lanes, setting)
    return Scheduled(group, steps, schedule(group, steps))
