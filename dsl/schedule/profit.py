"""Which rules pay on a target, as far as its table tells.

In: a target. Out: what `graph.rules.rewrite` asks about every match. Invariant: decisions look at
what a rule does (its numerics class, its own `worth` clauses, the estimates of both its sides) and
at the target's table, never at names.

    rewrite(graph, rules, profitable(load_target("cpu"), graph, rules))
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

from sdlc.graph.hoist import hoist
from sdlc.graph.mechanisms import MECHANISMS
from sdlc.graph.node import Graph, Map, Reduce, topological
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import Profitable, Rule, Sizes, by_its_own_word, rewrite
from sdlc.graph.types import DType
from sdlc.schedule.draft import EVERY
from sdlc.schedule.plan import groups_of
from sdlc.schedule.reasons import Journal
from sdlc.schedule.worth import Estimates, largest_stored
from sdlc.target import Target

ROOM = 1 << 23
"""Elements that a bilinear algorithm may always store on its way: less is not worth saving."""


def profitable(
    target: Target, graph: Graph | None = None, rules: Sequence[Rule] = ()
) -> Profitable:
    """Why a match does not pay on the target, '' where it does. Bilinear algorithms trade products
    for sums, memory and launches: the cost model says whether that pays; and what they store may be
    no larger than what `graph`, rewritten by the others of `rules`, stores without them."""
    borders = tuple(r for r in MECHANISMS if r.borders and not target.profile.slice)
    estimates, profile = Estimates(target, borders), target.profile

    def why(rule: Rule, sizes: Sizes) -> str:
        if rule.numerics is Numerics.RESCALED and not profile.block:
            return f"{target.name} folds no states in blocks (profile.block is 0)"
        if rule.borders and profile.slice:
            return f"{target.name} tests borders where it fetches operands (profile.slice)"
        if rule.numerics is Numerics.RESCALED and profile.fold_bytes:
            stored = largest_inside(rule, sizes)
            if stored < profile.fold_bytes:
                return f"what it leaves out takes {stored} bytes (profile.fold_bytes)"
        own = by_its_own_word(rule, sizes)
        if own or rule.numerics is not Numerics.BILINEAR:
            return own
        dearer = estimates.dearer(rule, sizes)
        stored = 0 if dearer or graph is None else estimates.between(rule, sizes)
        if stored > ROOM and stored > room():
            return f"it would store {stored} elements at once, the rest of the program {room()}"
        return dearer

    @cache
    def room() -> int:
        assert graph is not None
        exact = [r for r in rules if r.equation and r.numerics is not Numerics.BILINEAR]
        run = hoist(rewrite(graph, exact, profitable(target))[0]).run
        return largest_stored(groups_of(run, target, EVERY, Journal()))

    return why


def largest_inside(rule: Rule, sizes: Sizes) -> int:
    """Bytes, in f32, of the largest value that the left side makes and does not give, without the
    axes of a batch, which rules do not see."""
    if rule.sides is None:
        return 0
    left = rule.sides(sizes, DType.F32)[0]
    given = {node for _, node, _ in left.outputs}
    inside = [n for n in topological(left) if isinstance(n, (Map, Reduce)) and n not in given]
    return max((prod(n.shape) * DType.F32.itemsize for n in inside), default=0)


def scheduled_by(rules: Sequence[Rule]) -> frozenset[str]:
    """The names of the schedule's mechanisms among the rules."""
    return frozenset(r.name for r in rules if r.kind == "schedule")
