"""Left factors that are worth computing once: held by each work-item, made in vectors.

In: a contraction whose left factor is more than a read, a `Setting`. Out: the same contraction with
that factor as an inner group, or why not. Invariant: the meaning is the same; a work-item holds the
rows that it multiplies, over all of K, and takes all columns.

    o[i, j] = sum over p of exp(x[i, p] - m[i]) * v[p, j]
    becomes   stage left[i, p] = exp(x[i, p] - m[i]) for 8 i and all p;  o += left[i, p] * v[p, j]

Without it the factor is computed where it is multiplied: one by one, and again for every tile of
columns.
"""

from __future__ import annotations

from dataclasses import replace

from sdlc.graph.expr import Axis, apply, cost, reads_of
from sdlc.schedule.contraction import contraction
from sdlc.schedule.draft import Setting, flat_strides
from sdlc.schedule.factor import most_tiles
from sdlc.schedule.group import Group
from sdlc.schedule.operands import operand, read_operand

LEAST_COST = 4
"""FLOP of a factor that is worth a place of its own."""


def with_held(group: Group, lanes: Axis | None, setting: Setting) -> Group | str:
    """The contraction with its left factor as an inner group, or why it stays without one."""
    form = contraction(group)
    if form is None or group.inner:
        return "it is no contraction on its own"
    if setting.profile.lanes > 1:
        return "work-items of a group would each compute it"
    if cost(form.left) < LEAST_COST:
        return "its left factor costs next to nothing"
    if lanes is None or lanes not in form.n:
        return "its vectors do not run along the right factor"
    strides = flat_strides(form.left, setting.orders)
    along = next((a for a in (*form.k, *form.m) if strides.get(a) == 1), None)
    if along is None:
        return "nothing that it reads lies side by side"
    if not most_tiles(form, setting.profile):
        return "its rows are too long to be held"
    if any(reads_of(*r.indices) for r in reads_of(form.left)):
        return "an index of its left factor is read from memory"
    left = operand(group, "left", form.left, [*form.batch, *form.m, *form.k], along)
    lift = tuple(apply("mul", read_operand(left), right) for right in form.rights)
    return replace(group, lift=lift, inner=(left,))
