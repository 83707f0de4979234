"""The plan: every kernel to be, with where its values are stored.

In: a graph and a target. Out: `Plan`: groups in order, a nest for each, storage orders. Invariant:
every nest is legal; every value that a group reads is an input, a constant, a weight or stored by
an earlier group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf

from sdlc.graph.expr import Axis
from sdlc.graph.node import Graph, Node
from sdlc.schedule.again import MECHANISM as AGAIN
from sdlc.schedule.again import compute_again, live_bytes
from sdlc.schedule.columns import gathered_axis
from sdlc.schedule.combined import Combining
from sdlc.schedule.cost import Estimate, estimate
from sdlc.schedule.digest import digest_of
from sdlc.schedule.draft import EVERY, Setting
from sdlc.schedule.factor import nest_factors
from sdlc.schedule.fits import misfit
from sdlc.schedule.fragments import deep_axis, deep_right
from sdlc.schedule.fuse import fuse
from sdlc.schedule.group import Group
from sdlc.schedule.late import MECHANISM as LATE
from sdlc.schedule.late import compute_late
from sdlc.schedule.layout import Orders, Value, assign_orders, row_major, vector_of
from sdlc.schedule.merge import pair, siblings
from sdlc.schedule.nest import Nest, Refused, Step
from sdlc.schedule.pack import packed_weights
from sdlc.schedule.point import DEFAULT, NO_CHOICES, Choices, Point
from sdlc.schedule.prologue import NAME as PROLOGUE
from sdlc.schedule.prologue import Prologues
from sdlc.schedule.reasons import Journal, Reason, tell_of_kernel
from sdlc.schedule.rescale import carry
from sdlc.schedule.rows import continue_rows, nest_rows
from sdlc.schedule.split_choice import Splitting
from sdlc.schedule.steps import schedule
from sdlc.schedule.storage import Block
from sdlc.schedule.strips import in_strips
from sdlc.schedule.tactics import tactics
from sdlc.schedule.transform import nest_transforms
from sdlc.target import Profile, Target


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One kernel to be: the group, the steps that were taken and the nest that they gave."""

    group: Group
    steps: tuple[Step, ...]
    nest: Nest
    lanes: Axis | None = None
    """The axis along vector lanes that the storage was laid out for."""
    profile: Profile | None = None
    """What the steps were chosen by, where it is not the target's."""
    note: str = ""
    """What became of a tuning record for this group, for people."""
    planned: Group | None = None
    """The group before its tactic gave it inner groups, where it did."""
    journal: Journal = field(default_factory=Journal, compare=False, repr=False)
    """What the moves that may be made said of all groups."""

    @property
    def base(self) -> Group:
        """The group as it was planned: what tactics take and digests name."""
        return self.planned or self.group

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """What the moves that may be made did about the group, and why not."""
        return self.journal.of(self.group)

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
    enabled: frozenset[str] = frozenset()
    """The mechanisms that were allowed, by name."""
    packed: Mapping[Value, Block] = field(default_factory=dict)
    """The blocks of weights that are stored block by block, whatever their order says."""

    def stored(self, value: Value) -> tuple[tuple[int, ...], Block | None]:
        """The order of a value's axes in storage, and its block."""
        order, block = self.orders.get(value, row_major(value)), self.packed.get(value)
        if block is None:
            return order, self.blocks.get(value)
        return (block.axis, *(axis for axis in order if axis != block.axis)), block

    @property
    def fired(self) -> frozenset[str]:
        """The mechanisms that did something, by name."""
        return frozenset(name for k in self.kernels for name, fired, *_ in k.reasons if fired)

    def __str__(self) -> str:
        orders = [
            f"{node.origin.path} is stored in the order {order}"
            for (node, field), order in self.orders.items()
            if order != row_major((node, field))
        ]
        return "\n\n".join([*(str(k) for k in self.kernels), "\n".join(orders)]).rstrip()


def plan(
    graph: Graph,
    target: Target,
    results: Orders | None = None,
    choices: Choices = NO_CHOICES,
    enabled: frozenset[str] = EVERY,
) -> Plan:
    """Groups, storage orders and schedules for a target: for each group the point that `choices`
    has for it and that is legal, else the default. `results` are the orders that the graph's
    outputs have in storage where they are not row-major; `enabled` names the mechanisms that may
    be used (`graph.mechanisms.SCHEDULED`)."""
    journal, target = Journal(enabled), with_mechanisms(target, enabled)
    groups = groups_of(graph, target, enabled, journal)
    kept = {(n, f): row_major((n, f)) for _, n, f in graph.outputs} | (results or {})
    caps = target.caps
    orders, vectors = storage_orders(groups, kept, target, enabled)
    limits = caps.max_groups, orders, caps.local_bytes, enabled, journal
    setting = Setting(target.profile, *limits, caps.matrix)
    if "split_reductions" in enabled:
        groups, orders, vectors = _split(groups, orders, vectors, kept, setting, target)
    if PROLOGUE in enabled:
        groups, orders, vectors = _with_prologues(groups, orders, vectors, kept, setting, target)
    results_of_run = frozenset(n for _, n, _ in graph.outputs)
    if LATE in enabled:
        groups = compute_late(groups, results_of_run, journal)
    if AGAIN in enabled:
        again = compute_again(groups, results_of_run, journal)
        groups, first = again.groups, again.copies
        orders = {**orders, **{copy: orders[of] for copy, of in first.items()}}
        vectors |= {copy: vectors[of] for copy, of in first.items() if of in vectors}
    setting = replace(setting, orders=orders)
    made = []
    for group in groups:
        lanes = vector_of(group, vectors)
        point = choices.get(digest_of(group, lanes, orders, {})) if choices else None
        item = scheduled(group, lanes, setting, target, point or DEFAULT)
        tell_of_kernel(journal, item.group, item.nest, orders)
        made.append(replace(item, journal=journal))
    whole = target.profile.lanes == 1 and "storage_orders" in enabled
    kernels = ((item.group, item.nest, item.lanes) for item in made if whole)
    packed = packed_weights(kernels, orders)
    return Plan(tuple(made), orders, enabled=enabled, packed=packed)


def with_mechanisms(target: Target, enabled: frozenset[str]) -> Target:
    """The target with a profile that asks for no mechanism but these."""
    profile = target.profile
    if "local_operands" not in enabled:
        profile = replace(profile, slice=0, factor_slice=0)
    if "register_tile" not in enabled:
        profile = replace(profile, register_tile=(1, profile.vector))
    return replace(target, profile=profile)


def _split(
    groups: tuple[Group, ...],
    orders: Orders,
    vectors: dict[Value, Axis],
    kept: Orders,
    setting: Setting,
    target: Target,
) -> tuple[tuple[Group, ...], Orders, dict[Value, Axis]]:
    """The groups with reductions in parts where that pays, and their storage orders."""

    def estimating(group: Group, lanes: Axis | None, orders: Orders) -> Estimate:
        here = replace(setting, orders=orders, journal=Journal())
        return estimate(scheduled(group, lanes, here, target, DEFAULT), target, orders)

    results = frozenset(node for node, _ in kept)
    splitting = Splitting(target, estimating, setting.journal, results)
    made = splitting.groups(groups, orders, vectors)
    if len(made) == len(groups):
        return groups, orders, vectors
    made = _combined(made, kept, setting, target)
    return made, *storage_orders(made, kept, target, setting.enabled)


def _combined(
    groups: tuple[Group, ...], kept: Orders, setting: Setting, target: Target
) -> tuple[Group, ...]:
    """The groups with parts combined where their value is read, where that pays."""
    orders, vectors = storage_orders(groups, kept, target, setting.enabled)
    seconds = _estimating(orders, vectors, setting, target, checked=True)
    results, most, room = _limits(groups, kept, target)
    return Combining(seconds, orders, results, most, room).groups(groups)


def _limits(
    groups: tuple[Group, ...], kept: Orders, target: Target
) -> tuple[frozenset[Node], int, int]:
    """The program's results, how many buffers a kernel binds, and how many bytes are live at most
    as the groups are now."""
    results = frozenset(node for node, _ in kept)
    return results, target.caps.max_storage_buffers, max(live_bytes(groups, results))


def _with_prologues(
    groups: tuple[Group, ...],
    orders: Orders,
    vectors: dict[Value, Axis],
    kept: Orders,
    setting: Setting,
    target: Target,
) -> tuple[tuple[Group, ...], Orders, dict[Value, Axis]]:
    """The groups with maps computed in the transforms that read them where that pays, and their
    storage orders."""
    seconds = _estimating(orders, vectors, setting, target, checked=False)
    results, most, room = _limits(groups, kept, target)
    made = Prologues(seconds, setting, results, most, room).groups(groups)
    if made == groups:
        return groups, orders, vectors
    return made, *storage_orders(made, kept, target, setting.enabled)


def _estimating(
    orders: Orders,
    vectors: dict[Value, Axis],
    setting: Setting,
    target: Target,
    *,
    checked: bool,
) -> Callable[[Group], float]:
    """Who estimates groups, equal ones once; what they store that has no order is row-major.
    `checked`: what the target cannot run, or has not the registers for, takes for ever."""
    known: dict[str, float] = {}

    def seconds(group: Group) -> float:
        lanes = vector_of(group, vectors)
        own = {v: row_major(v) for v in ((s.node, s.field) for s in group.stores)}
        every = {**own, **orders}
        key = digest_of(group, lanes, every, {})
        if key not in known:
            here = replace(setting, orders=every, journal=Journal())
            known[key] = _seconds(group, lanes, here, target, checked)
        return known[key]

    return seconds


def _seconds(
    group: Group, lanes: Axis | None, setting: Setting, target: Target, checked: bool
) -> float:
    """The estimate of a group's default schedule; infinite where there is none, as for rows whose
    held values do not begin where a loop does, or, if that is `checked`, where the target cannot
    run it."""
    try:
        made = scheduled(group, lanes, setting, target, DEFAULT)
    except Refused:
        return inf
    refused = misfit(made.group, made.nest, setting.orders, target)
    return inf if checked and refused else estimate(made, target, setting.orders).seconds


def storage_orders(
    groups: tuple[Group, ...], kept: Orders, target: Target, enabled: frozenset[str]
) -> tuple[Orders, dict[Value, Axis]]:
    """Storage orders and vector axes as the target's contractions want them."""
    profile, permuted = target.profile, "storage_orders" in enabled

    def deep(group: Group) -> Axis | None:
        return deep_axis(group, target.instruction) or gathered_axis(group, profile)

    fetched = profile.slice > 0 and profile.registers > 0
    right = partial(deep_right, of=target.instruction)
    return assign_orders(groups, kept, profile.vector, permuted, deep, fetched, right)


def groups_of(
    graph: Graph, target: Target, enabled: frozenset[str], journal: Journal
) -> tuple[Group, ...]:
    """What the kernels compute, in execution order; `journal` is told what moves did and why."""
    buffers, profile = target.caps.max_storage_buffers, target.profile
    max_reads = max(4, buffers - 3)
    results = frozenset(n for _, n, _ in graph.outputs)
    groups = fuse(graph, max_reads, enabled, journal, profile.strip)
    if "nest_transforms" in enabled:
        groups = nest_transforms(groups, results, journal)
    if "pair_reductions" in enabled:
        groups = pair(groups, results, max_reads, journal)
    if "share_operand" in enabled:
        groups = siblings(groups, buffers, journal)
    if "rows" in enabled:
        groups = nest_rows(groups, results, profile, journal)
        groups = continue_rows(groups, results, buffers, journal)
    if "nest_factors" in enabled:
        groups = nest_factors(groups, results, target, journal)
    if "fold_blocks" in enabled:
        groups = carry(groups, results, target, journal)
    if "strips" in enabled:
        late = partial(compute_late, kept=results, journal=Journal())
        ordered = late if LATE in enabled else lambda groups: groups
        groups = in_strips(groups, results, profile.strip, journal, ordered)
    return groups


def scheduled(
    group: Group, lanes: Axis | None, setting: Setting, target: Target, point: Point
) -> Scheduled:
    """The kernel at a point, or, where the point is not legal, the default that says why."""
    if point != DEFAULT:
        made = at_point(group, lanes, setting, target, point)
        if isinstance(made, Scheduled):
            return replace(made, note=f"tuned: {point}")
        default = scheduled(group, lanes, setting, target, DEFAULT)
        return replace(default, note=f"tuning record not used ({point}): {made}")
    return cheapest(group, lanes, setting, target)


def at_point(
    group: Group, lanes: Axis | None, setting: Setting, target: Target, point: Point
) -> Scheduled | str:
    """The kernel at a point, or why it cannot be."""
    try:
        profile = point.applied(setting.profile)
        made = cheapest(group, lanes, replace(setting, profile=profile), target)
    except (Refused, ValueError) as problem:
        return str(problem).splitlines()[0]
    reason = misfit(made.group, made.nest, setting.orders, target)
    return reason or replace(made, profile=profile)


def cheapest(group: Group, lanes: Axis | None, setting: Setting, target: Target) -> Scheduled:
    """The kernel by the tactic of the smallest estimate, where several could schedule the group."""
    made = {
        name: Scheduled(
            whole, steps, schedule(whole, steps), lanes, planned=None if whole is group else group
        )
        for name, whole, steps in tactics(group, lanes, setting)
    }
    if len(made) == 1:
        return next(iter(made.values()))
    seconds = {name: estimate(k, target, setting.orders).seconds for name, k in made.items()}
    best = min(made, key=lambda name: seconds[name])
    for name in made.keys() - {""}:
        dearer = f"estimated at {1e3 * seconds[name]:.3g} ms instead of {1e3 * seconds[best]:.3g}"
        setting.journal.tell(name, group, dearer if name != best else "")
    return made[best]
