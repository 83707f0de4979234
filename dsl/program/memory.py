"""The arena planner: where each temporary lives.

In: lifetimes (first and last dispatch, bytes) and an alignment. Out: `MemoryPlan`, an offset for
each. Invariant: tensors whose lifetimes overlap do not overlap in the arena, unless one is written
in place of the other; every offset is a multiple of the alignment; lower bound <= arena <= naive.

    plan = plan_memory((Lifetime("a", 0, 1, 32), Lifetime("b", 1, 2, 8)), alignment=16)
    plan.offsets == {"a": 0, "b": 32} and plan.arena == 48

Strategies are pure functions from aligned lifetimes to offsets. The first two greedy ones follow
Pisarchyk and Lee, "Efficient memory management for deep neural net inference", arXiv 2001.03288,
section 5; the third suits lives of unlike length, as results in place of operands make them, the
fourth networks with long shortcuts; the fifth is a search, where those miss the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import accumulate
from math import gcd
from types import MappingProxyType

from sdlc.program.ejection import Lifetime, within
from sdlc.program.program import Dispatch, MemoryReport, Program, Tensor, TensorRole
from sdlc.target import Capabilities


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`offsets` in bytes by name; sizes count each tensor as rounded up to the alignment.
    `lower_bound` is the most that is live at once, `strategy` the one that gave the offsets."""

    offsets: dict[str, int]
    arena: int
    naive: int
    lower_bound: int
    strategy: str

    def report(self, weights: int) -> MemoryReport:
        """The report of a program whose weights take `weights` bytes as stored."""
        return MemoryReport(self.naive, self.arena, self.lower_bound, weights)


LONG = 5
"""A tensor is long-lived if it lives for more than the whole program divided by this."""

SEARCH = 4000
"""Placements of a search; networks of five hundred tensors take a third of it."""
ABOVE = (0, 5, 20)
"""How far above the lower bound a search may end, in thousandths of it."""

Offsets = dict[str, int]
NONE: Mapping[str, Tensor] = MappingProxyType({})
Strategy = Callable[[Sequence[Lifetime]], Offsets]


def align(nbytes: int, alignment: int) -> int:
    """`nbytes` rounded up to a multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment


def naive(lifetimes: Sequence[Lifetime]) -> Offsets:
    """Every tensor in a place of its own."""
    offsets: Offsets = {}
    end = 0
    for tensor in lifetimes:
        offsets[tensor.name] = end
        end += tensor.nbytes
    return offsets


def greedy_by_size(lifetimes: Sequence[Lifetime]) -> Offsets:
    """Largest first, each into the tightest gap between the tensors that it lives with."""
    return _place(sorted(lifetimes, key=lambda t: (-t.nbytes, t.first, t.name)))


def greedy_by_breadth(lifetimes: Sequence[Lifetime]) -> Offsets:
    """The dispatches with the most live bytes first; within one, the largest tensors first."""
    breadth = _live_bytes(lifetimes)
    order: dict[str, Lifetime] = {}
    for time in sorted(breadth, key=lambda t: (-breadth[t], t)):
        live = [t for t in lifetimes if t.first <= time <= t.last]
        order |= {t.name: t for t in sorted(live, key=lambda t: (-t.nbytes, t.first, t.name))}
    return _place(order.values())


def greedy_by_area(lifetimes: Sequence[Lifetime]) -> Offsets:
    """Those that take the most bytes for the longest time first."""
    return _place(_by_area(lifetimes))


def greedy_by_life(lifetimes: Sequence[Lifetime]) -> Offsets:
    """Those that live for more than a fifth of all dispatches first, the longest lives before: they
    lie side by side at the bottom, and what comes and goes has one gap above. Then by size."""
    return _place(_by_life(lifetimes))


def by_ejection(lifetimes: Sequence[Lifetime]) -> Offsets:
    """At the lower bound, or little above it, by a search that moves what is in the way; by life
    where it finds nothing."""
    bound = max(_live_bytes(lifetimes).values(), default=0)
    order = _by_life([t for t in lifetimes if t.nbytes])
    empty = {t.name: 0 for t in lifetimes if not t.nbytes}
    step = gcd(*(t.nbytes for t in order)) or 1
    for height in dict.fromkeys(bound + bound * share // 1000 // step * step for share in ABOVE):
        if found := within(order, height, SEARCH):
            return empty | found
    return greedy_by_life(lifetimes)


def _by_area(lifetimes: Sequence[Lifetime]) -> list[Lifetime]:
    area = {t.name: t.nbytes * (t.last - t.first + 1) for t in lifetimes}
    return sorted(lifetimes, key=lambda t: (-area[t.name], t.first, t.name))


def _by_life(lifetimes: Sequence[Lifetime]) -> list[Lifetime]:
    whole = max((t.last for t in lifetimes), default=0)

    def rank(tensor: Lifetime) -> tuple[int, int, int, str]:
        life = tensor.last - tensor.first
        long = life if LONG * life > whole else 0
        return -long, -tensor.nbytes, tensor.first, tensor.name

    return sorted(lifetimes, key=rank)


STRATEGIES: tuple[tuple[str, Strategy], ...] = (
    ("greedy_by_size", greedy_by_size),
    ("greedy_by_breadth", greedy_by_breadth),
    ("greedy_by_area", greedy_by_area),
    ("greedy_by_life", greedy_by_life),
    ("by_ejection", by_ejection),
    ("naive", naive),
)


def plan_memory(
    lifetimes: Sequence[Lifetime],
    alignment: int,
    strategies: Sequence[tuple[str, Strategy]] = STRATEGIES,
) -> MemoryPlan:
    """The plan with the smallest arena of all `strategies` (the first of equals; none is tried
    after one has reached the lower bound).

    `alignment` is in bytes, at least 1. Raises ValueError for a name that occurs twice, a lifetime
    that ends before it begins or a negative size: defects of the caller, not of a user's program.
    """
    _check(lifetimes, alignment)
    aligned = [replace(t, nbytes=align(t.nbytes, alignment)) for t in lifetimes]
    bound = max(_live_bytes(aligned).values(), default=0)
    plans: list[tuple[str, Offsets]] = []
    for name, strategy in strategies:
        plans.append((name, strategy(aligned)))
        if arena_size(aligned, plans[-1][1]) <= bound:
            break
    chosen, offsets = min(plans, key=lambda plan: arena_size(aligned, plan[1]))
    return MemoryPlan(
        offsets={t.name: offsets[t.name] for t in aligned},
        arena=arena_size(aligned, offsets),
        naive=sum(t.nbytes for t in aligned),
        lower_bound=bound,
        strategy=chosen,
    )


def arena_size(lifetimes: Sequence[Lifetime], offsets: Offsets) -> int:
    """Bytes from the start of the arena to the end of the last tensor."""
    return max((offsets[t.name] + t.nbytes for t in lifetimes), default=0)


def conflicts(
    lifetimes: Sequence[Lifetime], offsets: Offsets, tensors: Mapping[str, Tensor] = NONE
) -> list[tuple[str, str]]:
    """Pairs of tensors that are live at the same time and share bytes: none, in a legal plan, but
    for one of `tensors` that takes the place of another as its life ends."""
    placed = sorted((t for t in lifetimes if t.nbytes), key=lambda t: offsets[t.name])
    found = []
    for i, a in enumerate(placed):
        end = offsets[a.name] + a.nbytes
        for b in placed[i + 1 :]:
            if offsets[b.name] >= end:
                break
            if a.overlaps(b) and not (
                _takes(a, b, offsets, tensors) or _takes(b, a, offsets, tensors)
            ):
                found.append((a.name, b.name))
    return found


def _takes(
    after: Lifetime, before: Lifetime, offsets: Offsets, tensors: Mapping[str, Tensor]
) -> bool:
    """Whether one is written exactly where the other was, by the last dispatch to read that."""
    own = tensors.get(after.name)
    if own is None or own.in_place_of != before.name or after.first != before.last:
        return False
    return offsets[after.name] == offsets[before.name] and after.nbytes == before.nbytes


def joined(lifetimes: Sequence[Lifetime], tensors: Mapping[str, Tensor]) -> dict[str, Lifetime]:
    """The lifetime that each tensor has a place in: its own, or one from the first to the last of
    those that take each other's place."""
    known = {t.name: t for t in lifetimes}
    made: dict[str, Lifetime] = {}
    first: dict[str, str] = {}
    for life in sorted(lifetimes, key=lambda t: t.first):
        before = tensors[life.name].in_place_of
        root = first[life.name] = first.get(before, life.name) if before in known else life.name
        made[root] = replace(made.get(root, life), last=life.last)
    return {name: made[root] for name, root in first.items()}


RUN: Set[TensorRole] = frozenset({TensorRole.TEMPORARY})
"""What lives in the arena of a program."""
STATIC: Set[TensorRole] = frozenset({TensorRole.WEIGHT, TensorRole.CONSTANT})
"""What is there before the first run and stays."""
LOAD: Set[TensorRole] = RUN | STATIC
"""What lives in the arena of a load program: also what it reads, from the first reader on."""


def lifetimes_of(
    tensors: Mapping[str, Tensor], dispatches: Sequence[Dispatch], roles: Set[TensorRole] = RUN
) -> tuple[Lifetime, ...]:
    """The tensors of the arena that `dispatches` bind, live from the first that binds one to the
    last."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for time, dispatch in enumerate(dispatches):
        for _, name in dispatch.bindings:
            if tensors[name].role in roles:
                first.setdefault(name, time)
                last[name] = time
    return tuple(Lifetime(n, first[n], last[n], tensors[n].nbytes) for n in first)


def live_bytes(lifetimes: Iterable[Lifetime], count: int) -> tuple[int, ...]:
    """The bytes that are live in each of `count` dispatches."""
    change = [0] * (count + 1)
    for life in lifetimes:
        change[life.first] += life.nbytes
        change[life.last + 1] -= life.nbytes
    return tuple(accumulate(change[:count]))


def allocate(
    program: Program, alignment: int, roles: Set[TensorRole] = RUN, overlapping: bool = False
) -> Program:
    """`program` with the tensors of these roles placed in one arena, and its memory report.
    `overlapping`: tensors may take the place of those that they are made from."""
    lives = lifetimes_of(program.tensors, program.dispatches, roles)
    shared = joined(lives, program.tensors) if overlapping else {t.name: t for t in lives}
    plan = plan_memory(tuple(dict.fromkeys(shared.values())), alignment)
    plan = replace(plan, naive=sum(align(t.nbytes, alignment) for t in lives))
    moved = {
        name: replace(program.tensors[name], offset=plan.offsets[life.name])
        for name, life in shared.items()
    }
    tensors = {**program.tensors, **moved}
    weights = sum(align(t.nbytes, 4) for t in tensors.values() if t.role in STATIC)
    return replace(program, tensors=tensors, memory=plan.report(weights))


def relocate(program: Program, caps: Capabilities, roles: Set[TensorRole] = RUN) -> Program:
    """`program` with offsets that a device with `caps` accepts: itself where they are. So for its
    load program."""
    if program.load is not None:
        program = replace(program, load=relocate(program.load, caps, LOAD))
    allowed, alignment = caps.overlapping_bindings, caps.offset_alignment
    aligned = all(t.offset % alignment == 0 for t in program.tensors.values())
    if aligned and (allowed or not has_overlaps(program)):
        return program
    return allocate(program, alignment, roles, allowed)


def has_overlaps(program: Program) -> bool:
    """Whether a tensor is laid out in the place of one that it is made from."""
    tensors = program.tensors
    taken = ((t, tensors.get(t.in_place_of)) for t in tensors.values() if t.in_place_of)
    return any(before is not None and t.offset == before.offset for t, before in taken)


def _check(lifetimes: Sequence[Lifetime], alignment: int) -> None:
    if alignment < 1:
        raise ValueError(f"alignment {alignment} is not positive")
    if len({t.name for t in lifetimes}) != len(lifetimes):
        raise ValueError("a tensor has two lifetimes")
    for tensor in lifetimes:
        if tensor.last < tensor.first or tensor.nbytes < 0:
            raise ValueError(f"impossible lifetime {tensor}")


def _live_bytes(lifetimes: Sequence[Lifetime]) -> dict[int, int]:
    """Live bytes at each dispatch at which some tensor begins: the maximum is at one of them."""
    times = {t.first for t in lifetimes}
    return {m: sum(t.nbytes for t in lifetimes if t.first <= m <= t.last) for m in times}


def _place(order: Iterable[Lifetime]) -> Offsets:
    """Each tensor of `order` in the smallest sufficient gap left by those before it, or, where
    there is none, after all tensors that it lives with."""
    offsets: Offsets = {}
    placed: list[Lifetime] = []
    for tensor in order:
        mates = sorted((offsets[o.name], o.nbytes) for o in placed if o.overlaps(tensor))
        offsets[tensor.name] = _best_fit(tensor.nbytes, mates)
        placed.append(tensor)
    return offsets


def _best_fit(nbytes: int, occupied: Iterable[tuple[int, int]]) -> int:
    """The start of the smallest gap of at least `nbytes` between sorted (offset, size) ranges."""
    best: tuple[int, int] | None = None
    end = 0
    for offset, size in occupied:
        gap = offset - end
        if gap >= nbytes and gap > 0 and (best is None or gap < best[0]):
            best = (gap, end)
        end = max(end, offset + size)
    return end if best is None else best[1]
