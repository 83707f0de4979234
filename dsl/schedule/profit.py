"""Which rules pay on a target, as far as its table tells.

In: a target. Out: what `graph.rules.rewrite` asks about every match. Invariant: decisions look at
what a rule does (its numerics class, its own `worth` clauses, the estimates of both its sides) and
at the target's table, never at names.

    rewrite(graph, rules, profitable(load_target("cpu"), graph, rules))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sdlc.graph.hoist import hoist
from sdlc.graph.mechanisms import MECHANISMS
from sdlc.graph.node import Graph, Input, Map, Reduce, topological
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import Rule, Sizes, by_its_own_word, rewrite
from sdlc.graph.types import DType
from sdlc.schedule.draft import EVERY
from sdlc.schedule.plan import groups_of
from sdlc.schedule.reasons import Journal
from sdlc.schedule.strips import NAME as STRIPS
from sdlc.schedule.worth import Estimates, largest_stored
from sdlc.target import Target


@dataclass(slots=True)
class Profit:
    """Whether a match pays on a target. Where chains are not cut in strips, what bilinear
    algorithms store on their way may be no larger than what `graph`, rewritten by the others of
    `rules`, stores without them."""

    target: Target
    graph: Graph | None
    rules: Sequence[Rule]
    estimates: Estimates
    itemsize: int = DType.F32.itemsize
    """Bytes of an element of what is stored most narrowly."""
    _room: int | None = None

    def __call__(self, rule: Rule, sizes: Sizes) -> str:
        """Why a match with these sizes does not pay, '' where it does. Bilinear algorithms trade
        products for sums, memory and launches, copies with a border tests for launches and bytes:
        the cost model says whether that pays."""
        profile, name = self.target.profile, self.target.name
        if rule.numerics is Numerics.RESCALED and not profile.block:
            return f"{name} folds no states in blocks (profile.block is 0)"
        # Where registers are not counted, work-items fetch for one another in any case.
        if (
            rule.borders
            and profile.slice
            and (not profile.registers or self.estimates.fetches(rule, sizes))
        ):
            return f"{name} tests borders where it fetches operands (profile.slice)"
        if sizes.get("parts", 0) and not (
            profile.registers and (profile.slice or profile.factor_slice)
        ):
            return f"{name} computes several products of an operand in one kernel (profile.slice)"
        if sizes.get("again", 0) and profile.slice:
            return f"{name} fetches each of what shares a kernel for itself (profile.slice)"
        bound = self.target.caps.max_binding
        if sizes.get("bytes", 0) > bound:
            return f"what it stores takes more than the {bound} bytes that {name} binds"
        if rule.numerics is Numerics.RESCALED and profile.fold_bytes:
            stored = largest_inside(rule, sizes)
            if stored < profile.fold_bytes:
                return f"what it leaves out takes {stored} bytes (profile.fold_bytes)"
        own = by_its_own_word(rule, sizes)
        if not own and rule.borders:
            is_more = sizes["view"] or sizes["others"]
            return self.estimates.dearer(rule, sizes) if is_more else ""
        if own or rule.numerics is not Numerics.BILINEAR:
            return own
        dearer = self.estimates.dearer(rule, sizes)
        if self.itemsize * self.estimates.weight(rule, sizes) > bound:
            return f"its weights take more than the {bound} bytes that {name} binds"
        if dearer or any(r.name == STRIPS for r in self.rules):
            return dearer
        stored = 0 if self.graph is None else self.estimates.between(rule, sizes)
        if stored > profile.strip and stored > self.room:
            return f"it would store {stored} elements at once, the rest of the program {self.room}"
        return ""

    def saved(self, rule: Rule, sizes: Sizes) -> float:
        """Seconds that a run is estimated to save by a match."""
        return self.estimates.saved(rule, sizes)

    @property
    def room(self) -> int:
        """Elements of the largest value that the program stores without bilinear algorithms."""
        if self._room is None:
            assert self.graph is not None
            exact = [r for r in self.rules if r.equation and r.numerics is not Numerics.BILINEAR]
            run = hoist(rewrite(self.graph, exact, profitable(self.target))[0]).run
            self._room = largest_stored(groups_of(run, self.target, EVERY, Journal()))
        return self._room


def profitable(target: Target, graph: Graph | None = None, rules: Sequence[Rule] = ()) -> Profit:
    """What says of every match whether it pays on the target, in `graph` rewritten by `rules`."""
    borders = tuple(r for r in MECHANISMS if r.borders and not target.profile.slice)
    inputs = [] if graph is None else [n for n in topological(graph) if isinstance(n, Input)]
    sizes = (n.dtype.itemsize for n in inputs if n.dtype.is_float)
    itemsize = min(sizes, default=DType.F32.itemsize)
    return Profit(target, graph, rules, Estimates(target, borders), itemsize)


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
