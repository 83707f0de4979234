"""What each move of the schedule did about a value, and why it did nothing.

In: verdicts of moves while groups are made. Out: those about one group. Invariant: a move that
looks at a value says once of it that it fired, or, in one sentence each, what it was refused for.

    journal.tell("rows", group, "its rows are read differently")
    journal.of(group)      (("rows", False, "its rows are read differently", "norm.out"),)
"""

from __future__ import annotations

from collections.abc import Container
from math import prod

from sdlc.graph.node import Node
from sdlc.schedule.contraction import contraction
from sdlc.schedule.group import Group, nodes_of
from sdlc.schedule.layout import Orders
from sdlc.schedule.nest import Kind, Nest

Reason = tuple[str, bool, str, str]
"""A move's name, whether it fired, else why not, and the value that it is about."""


class Journal:
    """Verdicts of the moves that are `enabled` (None: of all), by the node that they are about: the
    first that a group stores."""

    def __init__(self, enabled: Container[str] | None = None) -> None:
        self._enabled = enabled
        self._found: dict[Node, dict[tuple[str, str], None]] = {}

    def tell(self, move: str, about: Group | Node, why: str) -> None:
        """What became of a move: '' where it fired. Refusals for several candidates are all
        kept."""
        if self._enabled is not None and move not in self._enabled:
            return
        node = about.stores[0].node if isinstance(about, Group) else about
        self._found.setdefault(node, {})[move, why] = None

    def tell_refusal(self, move: str, about: Group, found: Group | str) -> None:
        """Why a move made nothing of a group, where it did not."""
        if isinstance(found, str):
            self.tell(move, about, found)

    def of(self, group: Group) -> tuple[Reason, ...]:
        """What moves said of any of a group's nodes: what fired first; what fired for a node has
        nothing more to say of it."""
        found = [
            (move, not why, why, node.origin.path)
            for node in nodes_of(group)
            for move, why in self._found.get(node, ())
            if not why or (move, "") not in self._found[node]
        ]
        return tuple(dict.fromkeys(sorted(found, key=lambda reason: not reason[1])))


def tell_of_kernel(journal: Journal, group: Group, nest: Nest, orders: Orders) -> None:
    """What can be seen of a kernel that is scheduled: register tiles, and the order of storage."""
    parts = {g.name: g for g in group.inner}
    nests = [(group, nest), *((parts[s.value], s.nest) for s in nest.stages)]
    tiles = [_copies(n) for g, n in nests if contraction(g) is not None]
    if tiles:
        why = "" if max(tiles) > 1 else "a work-item has no more than a vector of its results"
        journal.tell("register_tile", group, why)
        values = (*group.operands, *((s.node, s.field) for s in group.stores))
        natural = all(orders[v] == tuple(range(len(v[0].shape))) for v in values)
        why = "all that it reads and stores is row-major by nature" if natural else ""
        journal.tell("storage_orders", group, why)


def _copies(nest: Nest) -> int:
    """Results of a work-item beside those of a vector's lanes."""
    return prod(
        lp.extent for lp in nest.loops if lp.kind is Kind.UNROLL and not nest.is_reduced(lp)
    )
