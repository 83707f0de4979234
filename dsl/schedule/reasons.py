"""What each move of the schedule did about a value, and why it did nothing.

In: verdicts of moves while groups are made. Out: those about one group. Invariant: a move that
looks at a value says once of it that it fired, or, in one sentence each, what it was refused for.

    journal.tell("rows", group, "its rows are read differently")
    journal.of(group)      (("rows", False, "its rows are read differently", "norm.out"),)
"""

from __future__ import annotations

from collections.abc import Container

from sdlc.graph.node import Node
from sdlc.schedule.group import Group, nodes_of

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
