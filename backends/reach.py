"""The order of a kernel's local arrays: those that loops read most come first.

In: a kernel. Out: the kernel with its local arrays in another order. Invariant: nothing else
changes, and arrays of which as much is read stay in the order in which they were.

    local left[640], right[512], more[512];  for k { … left[k], left[k + 20], right[8 * k],
        right[8 * k + 1], more[8 * k], more[8 * k + 1] }      →     right, more, left

Compilers place arrays in the order of their declarations, and an instruction holds a few bits of an
address's constant part: what lies beyond has a register for each place that is read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from sdlc.kernel.ir import Buffer, For, If, Kernel, Load, Space, Stmt, statement_expressions, walk
from sdlc.target import Capabilities


def order_arrays(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Local arrays lie in the order of their declarations, and only the first within reach of the
    offsets that instructions hold: those that are read most come first."""
    loads = Counter[Buffer]()
    _count(kernel.body, 1, loads)
    busy = sorted(
        (a for a in kernel.arrays if a.space is Space.LOCAL), key=lambda a: loads[a], reverse=True
    )
    others = (a for a in kernel.arrays if a.space is not Space.LOCAL)
    return replace(kernel, arrays=(*busy, *others))


def _count(body: tuple[Stmt, ...], times: int, loads: Counter[Buffer]) -> None:
    """Adds the loads of local arrays in a body that is executed so many times."""
    for stmt in body:
        for e in walk(*statement_expressions(stmt)):
            if isinstance(e, Load) and e.buffer.space is Space.LOCAL:
                loads[e.buffer] += times
        if isinstance(stmt, For | If):
            _count(stmt.body, times * (stmt.extent if isinstance(stmt, For) else 1), loads)
