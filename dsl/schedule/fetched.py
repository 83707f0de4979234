"""Whether a contraction fetches what it reads, weights apart, to local memory.

In: a small program, the names of inputs that stand for what a program computes, a target. Out: yes
or no. Invariant: the program is scheduled as it would be where its inputs are stored as
contractions store their results: with what is summed over innermost, the longest axis last.

    is_fetched(graph of conv2d(x, k), {"x"}, load_target("adreno"))        True of 64 outputs
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sdlc.graph.expr import Read, reads_of
from sdlc.graph.node import Graph, Input
from sdlc.schedule.contraction import Contraction, contraction
from sdlc.schedule.draft import EVERY, Setting
from sdlc.schedule.layout import Value, innermost, row_major, vector_of
from sdlc.schedule.plan import groups_of, scheduled, storage_orders
from sdlc.schedule.point import DEFAULT
from sdlc.schedule.reasons import Journal
from sdlc.schedule.strips import NAME as STRIPS
from sdlc.target import Target


def is_fetched(graph: Graph, names: Collection[str], target: Target) -> bool:
    """Whether some kernel passes one of the named inputs through local memory. Of what is no
    contraction it is taken that it does."""
    enabled, journal, caps = EVERY - {STRIPS}, Journal(), target.caps
    groups = groups_of(graph, target, enabled, journal)
    kept = {(n, f): row_major((n, f)) for _, n, f in graph.outputs}
    orders, vectors = storage_orders(groups, kept, target, enabled)
    limits = caps.max_groups, orders, caps.local_bytes, enabled, journal
    setting = Setting(target.profile, *limits, caps.matrix)
    for group in groups:
        form = contraction(group)
        if form is None:
            return True
        found = {r: _order(r, form) for r in reads_of(form.left) if _is_named(r, names)}
        here = {(r.source, r.field): order for r, order in found.items()}
        there = replace(setting, orders={**orders, **here})
        made = scheduled(group, vector_of(group, vectors), there, target, DEFAULT)
        if any(_is_named(r, names) for part in made.group.inner for r in part.reads):
            return True
    return False


def _is_named(read: Read, names: Collection[str]) -> bool:
    return isinstance(read.source, Input) and read.source.name in names


def _order(read: Read, form: Contraction) -> tuple[int, ...]:
    value: Value = (read.source, read.field)
    longest = max(form.k, key=lambda a: a.extent)
    wish = innermost(read, longest, form)
    return row_major(value) if wish is None else wish.order
