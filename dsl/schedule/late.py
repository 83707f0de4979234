"""Kernels that run later than they could: where least is live, before what reads their results.

In: groups in execution order, and which values are results. Out: the same groups in another order.
Invariant: each value is stored before it is read; the most that is live at any time is less for
every group that moved.

    y = f(x); … z = g(x, …) needs most memory …; out = h(z, y)
    becomes … z = g(x, …); y = f(x); out = h(z, y)          y is not kept while z is computed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sdlc.graph.node import Node, byte_count
from sdlc.schedule.group import Group
from sdlc.schedule.reasons import Journal

MECHANISM = "compute_late"

Value = tuple[Node, int]

MOST_MOVES = 16


def compute_late(
    groups: tuple[Group, ...], kept: frozenset[Node], journal: Journal
) -> tuple[Group, ...]:
    """The groups, one after the other moved behind the peak of live bytes while that lowers it.
    `kept` are the program's results."""
    order = [_Use(g, _values(g, kept), g.operands) for g in groups]
    for _ in range(MOST_MOVES):
        lives = _Lives.of(order)
        moves = tuple(_possible(order, lives))
        best = min(moves, default=None)
        if best is None or best[0] >= max(lives.bytes):
            _tell_of_kept(order, lives, journal)
            break
        _, number, before = best
        journal.tell(MECHANISM, order[number].group, "")
        order.insert(before - 1, order.pop(number))
    return tuple(use.group for use in order)


def _tell_of_kept(order: Sequence[_Use], lives: _Lives, journal: Journal) -> None:
    """Why what is kept while most is live is not computed later."""
    peak = _peak(lives)
    for use in order[:peak]:
        if any(lives.last.get(v, 0) > peak for v in use.stored):
            early = any(lives.first.get(v, 0) <= peak for v in use.stored)
            why = "it is read before most is live" if early else "as much would be live at most"
            journal.tell(MECHANISM, use.group, why)


def _peak(lives: _Lives) -> int:
    return lives.bytes.index(max(lives.bytes)) if lives.bytes else 0


@dataclass(frozen=True, slots=True)
class _Use:
    """A group, the values of its own that are kept for others, and those that it reads."""

    group: Group
    stored: tuple[Value, ...]
    read: tuple[Value, ...]


def _values(group: Group, kept: frozenset[Node]) -> tuple[Value, ...]:
    return tuple((s.node, s.field) for s in group.stores if s.node not in kept)


@dataclass(frozen=True, slots=True)
class _Lives:
    """When values are stored, first and last read; what is live, and what begins, at each time."""

    stored: Mapping[Value, list[int]]
    first: Mapping[Value, int]
    last: Mapping[Value, int]
    bytes: Sequence[int]
    begun: Sequence[int]

    @classmethod
    def of(cls, order: Sequence[_Use]) -> _Lives:
        stored: dict[Value, list[int]] = {}
        first: dict[Value, int] = {}
        last: dict[Value, int] = {}
        for time, use in enumerate(order):
            for value in use.stored:
                stored.setdefault(value, []).append(time)
            for value in use.read:
                first.setdefault(value, time)
                last[value] = time
        begun, live = [0] * len(order), [0] * len(order)
        for value, (start, *_) in stored.items():
            size = byte_count(*value)
            begun[start] += size
            for time in range(start, last.get(value, start) + 1):
                live[time] += size
        return cls(stored, first, last, live, begun)


def _possible(order: Sequence[_Use], lives: _Lives) -> Iterator[tuple[int, int, int]]:
    """For each group before the peak whose results are first read behind it: the peak where it runs
    at the best place between them, the group, and what it runs before."""
    live, peak = lives.bytes, _peak(lives)
    for number, use in enumerate(order[:peak]):
        until = min((lives.first.get(v, 0) for v in use.stored), default=0)
        if until <= peak or any(len(lives.stored[v]) > 1 for v in use.stored):
            continue
        less = sum(byte_count(*v) for v in use.stored)
        read = [v for v in use.read if v in lives.stored]
        others, most = max((*live[:number], *live[until:])), 0
        found: list[tuple[int, int, int]] = []
        for time in range(number + 1, until + 1):
            more = sum(byte_count(*v) for v in read if lives.last[v] < time)
            here = live[time] - lives.begun[time] + more
            found.append((max(others, most, here, *live[time:until]), number, time))
            most = max(most, live[time] - less + more)
        yield min(found)
