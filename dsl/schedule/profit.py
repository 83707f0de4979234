"""Which rules pay on a target, as far as its table tells.

In: a target. Out: what `graph.rules.rewrite` asks about every match. Invariant: decisions look at
what a rule does (its numerics class, its own `worth` clauses, the estimates of both its sides) and
at the target's table, never at names.

    rewrite(graph, rules, profitable(load_target("cpu")))
"""

from __future__ import annotations

from collections.abc import Sequence

from sdlc.graph.mechanisms import MECHANISMS
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import Profitable, Rule, Sizes, by_its_own_word
from sdlc.schedule.worth import Estimates
from sdlc.target import Target


def profitable(target: Target) -> Profitable:
    """Why a match does not pay on the target, '' where it does. Bilinear algorithms trade products
    for sums, memory and launches: the cost model says whether that pays."""
    borders = tuple(r for r in MECHANISMS if r.borders and not target.profile.slice)
    estimates = Estimates(target, borders)

    def why(rule: Rule, sizes: Sizes) -> str:
        if rule.numerics is Numerics.RESCALED and not target.profile.block:
            return f"{target.name} folds no states in blocks (profile.block is 0)"
        if rule.borders and target.profile.slice:
            return f"{target.name} tests borders where it fetches operands (profile.slice)"
        own = by_its_own_word(rule, sizes)
        if own or rule.numerics is not Numerics.BILINEAR:
            return own
        return estimates.dearer(rule, sizes)

    return why


def scheduled_by(rules: Sequence[Rule]) -> frozenset[str]:
    """The names of the schedule's mechanisms among the rules."""
    return frozenset(r.name for r in rules if r.kind == "schedule")
