"""Readable text of groups.

In: a group. Out: a few lines. Example: `matmul_nt out: total = sum over k of x[m, k] * w[n, k]`.
"""

from __future__ import annotations

from sdlc.graph.expr import Read, walk
from sdlc.graph.node import Node
from sdlc.graph.show import show_expr
from sdlc.schedule.group import Group


def show_group(group: Group) -> str:
    """The definitions that a group computes, in index notation."""
    names = _names(group)
    lines = []
    if group.monoid is not None:
        over = ", ".join(str(a) for a in group.over)
        lift = ", ".join(show_expr(e, names) for e in group.lift)
        lines.append(f"  total = {group.monoid.name} over {over} of {lift}")
    for store in group.stores:
        indices = ", ".join(show_expr(i, names) for i in store.indices)
        value = show_expr(store.value, names)
        lines.append(f"  {names[store.node]}[{indices}] = {value}")
    head = f"{group.origins[0].definition} {group.name}".strip()
    return "\n".join([f"{head}:", *lines])


def _names(group: Group) -> dict[Node, str]:
    reads = [e.source for e in walk(*group.expressions) if isinstance(e, Read)]
    return {n: n.origin.name for n in (*reads, *(s.node for s in group.stores))}
