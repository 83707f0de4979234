"""Places within a given height: what is in the way is taken out and placed again.

In: lifetimes in an order, a height. Out: an offset for each, or None where none were found.
Invariant: tensors whose lifetimes overlap do not overlap, and none ends above the height.

    within((Lifetime("a", 0, 1, 2), Lifetime("b", 1, 2, 2)), 4, steps=10) == {"a": 0, "b": 2}

An ejection search as for schedules and routes (Nagata and Bräysy, "A powerful route minimization
heuristic for the vehicle routing problem with time windows", 2009): a tensor without
room goes where those in the way have the least weight, they wait again, and its own weight grows,
so that what is hard to place is not moved again. Draws are from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from random import Random


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A temporary that is live from dispatch `first` to dispatch `last`, both included."""

    name: str
    first: int
    last: int
    nbytes: int

    def overlaps(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


Place = tuple[int, int, int]
"""Start, end and number of a tensor that has a place."""


def within(lives: Sequence[Lifetime], height: int, steps: int) -> dict[str, int] | None:
    """Offsets by name, by at most `steps` placements; the first lives are placed first."""
    sizes = [s.nbytes for s in lives]
    if max(sizes, default=0) > height:
        return None
    mates = [[n for n, o in enumerate(lives) if o is not s and s.overlaps(o)] for s in lives]
    starts: dict[int, int] = {}
    weights, waiting, draw = [1] * len(lives), list(range(len(lives))), Random(0)
    heapify(waiting)
    for _ in range(steps):
        if not waiting:
            break
        number = heappop(waiting)
        beside = [(starts[m], starts[m] + sizes[m], m) for m in mates[number] if m in starts]
        starts[number], moved = _place(sizes[number], height, beside, weights, draw)
        weights[number] += bool(moved)
        for mate in moved:
            del starts[mate]
            heappush(waiting, mate)
    return None if waiting else {s.name: starts[n] for n, s in enumerate(lives)}


def _place(
    size: int, height: int, beside: Sequence[Place], weights: Sequence[int], draw: Random
) -> tuple[int, list[int]]:
    """Where a tensor goes among those beside it, and which of these are in the way: the lightest,
    of several equal places a drawn one."""
    edges = {0, height - size}
    edges |= {end for _, end, _ in beside if end + size <= height}
    edges |= {start - size for start, _, _ in beside if start >= size}
    places = sorted(edges)
    draw.shuffle(places)
    best: tuple[int, int, list[int]] | None = None
    for place in places:
        moved = [m for start, end, m in beside if start < place + size and place < end]
        weight = sum(weights[m] for m in moved)
        if best is None or weight < best[0]:
            best = weight, place, moved
        if weight == 0:
            break
    assert best is not None
    return best[1], best[2]
