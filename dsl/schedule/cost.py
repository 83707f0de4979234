"""The cost model: what a scheduled group should take on a target. An estimate, never a promise.

In: a group with its nest (`Scheduled`), storage orders and a `Target`. Out: `Estimate`. Invariant:
more work, more bytes or less parallelism never make an estimate smaller; nothing but `[peak]`
numbers, axes, extents and storage is looked at. docs/tuning.md describes the model.

    estimate(kernel, load_target("cpu"), plan.orders).bound       "compute"

The time is a launch, the start of its work-groups, and the slowest of what runs side by side:
arithmetic and loads as one work-item issues them, and the bytes that miss each cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Literal, Protocol

from sdlc.graph.node import Node
from sdlc.schedule.cost_issue import Issue, issue_of, together
from sdlc.schedule.cost_traffic import traffic_of
from sdlc.schedule.group import Group
from sdlc.schedule.nest import Kind, Nest
from sdlc.target import Peak, Target

Orders = Mapping[tuple[Node, int], tuple[int, ...]]
ROW_MAJOR: Orders = MappingProxyType({})
"""Storage orders that say nothing: every value is row-major."""


class Kernel(Protocol):
    """What is estimated: `plan.Scheduled`, or anything with a group and a nest."""

    @property
    def group(self) -> Group: ...

    @property
    def nest(self) -> Nest: ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """Predicted seconds of one launch and what they come from.

    `flop` counts the group's arithmetic, `bytes_read` and `bytes_written` what passes to and from
    memory (what fits a cache is counted once); `groups` are work-groups. `bound` names the part
    that takes longest. `compute`, `traffic` and `overhead` are the parts in seconds.
    """

    seconds: float
    flop: int
    bytes_read: int
    bytes_written: int
    groups: int
    bound: Literal["memory", "compute", "launch"]
    compute: float = 0.0
    traffic: float = 0.0
    overhead: float = 0.0

    def __str__(self) -> str:
        moved = (self.bytes_read + self.bytes_written) / 1e6
        return (
            f"about {1e3 * self.seconds:.3g} ms ({self.bound}-bound): {self.flop / 1e6:.3g} MFLOP, "
            f"{moved:.3g} MB, {self.groups} work-groups"
        )


def estimate(kernel: Kernel, target: Target, orders: Orders = ROW_MAJOR) -> Estimate:
    """The predicted time of one launch of a scheduled group on a target."""
    group, nest, peak = kernel.group, kernel.nest, target.peak
    groups = prod(lp.extent for lp in nest.loops if lp.kind is Kind.GROUP)
    lanes = prod(lp.extent for lp in nest.loops if lp.kind is Kind.LANE)
    issue = issue_of(group, nest, orders, peak)
    compute = issue.seconds(peak) * groups * lanes / _cores_busy(issue, groups, lanes, peak)
    moved = traffic_of(group, nest, orders, peak)
    traffic = moved.seconds(peak)
    overhead = peak.launch_seconds + peak.group_seconds * _waves(groups, peak.cores)
    busy = together(compute, traffic)
    return Estimate(
        seconds=busy + overhead,
        flop=group.flop,
        bytes_read=moved.read,
        bytes_written=moved.written,
        groups=groups,
        bound="launch" if overhead > busy else "compute" if compute >= traffic else "memory",
        compute=compute,
        traffic=traffic,
        overhead=overhead,
    )


def seconds_of(kernels: Iterable[Kernel], target: Target, orders: Orders = ROW_MAJOR) -> float:
    """The predicted time of kernels, one after the other; equal ones are looked at once."""
    known: dict[tuple[Group, Nest], float] = {}
    total = 0.0
    for kernel in kernels:
        key = (kernel.group, kernel.nest)
        if key not in known:
            known[key] = estimate(kernel, target, orders).seconds
        total += known[key]
    return total


def _waves(groups: int, cores: int) -> int:
    return -(-groups // cores)


def _cores_busy(issue: Issue, groups: int, lanes: int, peak: Peak) -> float:
    """How many cores' worth of full speed the launch reaches.

    Cores idle while the last wave of groups runs; one is only as fast as the independent operations
    that its resident work-items have under way.
    """
    waves = _waves(groups, peak.cores)
    room = max(1, peak.core_registers // issue.registers)
    resident = min(peak.resident, lanes * waves, room)
    under_way = min(1.0, resident * issue.independent / peak.in_flight)
    return groups / waves * under_way
