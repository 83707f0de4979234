"""What a match found, in words.

In: expressions and axes, also renamed ones (`t$3`). Out: text in the language's notation, short
enough for a sentence. Invariant: never fails. Example: `shown(Read(x, (Index(i),)))` is `x[i]`.
"""

from __future__ import annotations

import re

from sdlc.graph.expr import Axis, Expr, Read, walk
from sdlc.graph.node import Input, Node
from sdlc.graph.show import show_expr

LONGEST = 60


def axis_name(axis: Axis) -> str:
    return axis.name.partition("$")[0]


def node_name(node: Node) -> str:
    """The name of a tensor or metavariable."""
    return node.name.partition("$")[0] if isinstance(node, Input) else node.origin.name or "value"


def shown(expr: Expr) -> str:
    """The expression as it would be written, cut where it is long."""
    names = {e.source: node_name(e.source) for e in walk(expr) if isinstance(e, Read)}
    text = re.sub(r"\$[\w$]*", "", show_expr(expr, names))
    return text if len(text) <= LONGEST else text[: LONGEST - 2].rstrip() + " …"
