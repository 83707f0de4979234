"""Which of the rules that pay for speed with weights are used within a budget of bytes.

In: a graph, rules, a target, bytes for all weights as they are stored. Out: the graph rewritten by
the rules, bilinear ones only where they save most time for the bytes that there are. Invariant:
the weights fit the budget; without one every place that pays is used.

    rewritten(graph, rules, load_target("cpu"), budget=1900 * 2**20)

Which places could be used is what a rewriting without a budget uses: each saves the seconds that
the cost model says, and takes the bytes by which its weights grow. The choice among them is
exact while there are few combinations that none surpasses (`MOST_STATES`), near to it beyond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sdlc.graph.hoist import hoist
from sdlc.graph.node import Graph, Input, Node, Role, element_count, topological
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import RewriteReport, Rule, Sizes, rewrite
from sdlc.graph.types import DType, Origin
from sdlc.schedule.profit import Profit, profitable
from sdlc.schedule.worth import weights_of, with_weights
from sdlc.target import Target

MOST_STATES = 4096
"""Combinations that are kept while choosing; of more, the best of each range of bytes."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A rule at a place of the program: the seconds that a run would save, for so many bytes of
    weights more."""

    rule: str
    at: Origin
    nbytes: int
    seconds: float


def rewritten(
    graph: Graph, rules: Sequence[Rule], target: Target, budget: int | None = None
) -> tuple[Graph, RewriteReport]:
    """The graph, rewritten by the rules where they pay on the target; and, where `budget` says how
    many bytes all weights may take, bilinear rules where they fit as well."""
    paying = profitable(target, graph, rules)
    if budget is None:
        return rewrite(graph, rules, paying)
    whole, found = offered(graph, rules, paying)
    room = budget - weight_bytes(hoist(whole[0]).run) + sum(o.nbytes for o in found)
    admitted = {(o.rule, o.at) for o in chosen(found, room)}

    def admits(rule: Rule, node: Node, sizes: Sizes) -> str:
        if rule.numerics is not Numerics.BILINEAR or (rule.name, node.origin) in admitted:
            return ""
        return "its weights are not among those that save most time within the weight budget"

    if all((o.rule, o.at) in admitted for o in found):
        return whole
    return rewrite(graph, rules, paying, admits)


def offered(
    graph: Graph, rules: Sequence[Rule], paying: Profit
) -> tuple[tuple[Graph, RewriteReport], tuple[Offer, ...]]:
    """The graph rewritten wherever that pays, and what each place of a bilinear rule offers."""
    offers = _Offers(paying)
    whole = rewrite(graph, rules, paying, offers.record)
    return whole, tuple(offers.by_place.values())


def weight_bytes(graph: Graph) -> int:
    """Bytes of the weights that a graph reads, without padding."""
    weights = (n for n in topological(graph) if isinstance(n, Input) and n.role is Role.WEIGHT)
    return sum(element_count(n) * n.dtype.itemsize for n in weights)


def chosen(offers: Iterable[Offer], room: int) -> tuple[Offer, ...]:
    """The offers that save most seconds of those that take at most `room` bytes together; of
    equals, those that take the fewest bytes."""
    states: list[tuple[int, float, tuple[Offer, ...]]] = [(0, 0.0, ())]
    for offer in offers:
        more = ((n + offer.nbytes, s + offer.seconds, (*of, offer)) for n, s, of in states)
        states = _useful([*states, *(m for m in more if m[0] <= max(0, room))], room)
    return states[-1][2]


def _useful(
    states: list[tuple[int, float, tuple[Offer, ...]]], room: int
) -> list[tuple[int, float, tuple[Offer, ...]]]:
    """Those that no other one equals with fewer bytes, by bytes."""
    kept: list[tuple[int, float, tuple[Offer, ...]]] = []
    for state in sorted(states, key=lambda s: (s[0], -s[1])):
        if not kept or state[1] > kept[-1][1]:
            kept.append(state)
    if len(kept) <= MOST_STATES:
        return kept
    ranges = {s[0] * MOST_STATES // (room + 1): s for s in kept}
    return list(ranges.values())


@dataclass(slots=True)
class _Offers:
    """What bilinear rules offer, gathered while a graph is rewritten: equal places together."""

    paying: Profit
    by_place: dict[tuple[str, Origin], Offer] = field(default_factory=dict)

    def record(self, rule: Rule, node: Node, sizes: Sizes) -> str:
        if rule.numerics is Numerics.BILINEAR:
            place = rule.name, node.origin
            nbytes = added_bytes(rule, sizes, node.dtypes[0])
            seconds = self.paying.saved(rule, sizes)
            known = self.by_place.get(place, Offer(*place, 0, 0.0))
            made = Offer(*place, known.nbytes + nbytes, known.seconds + seconds)
            self.by_place[place] = made
        return ""


def added_bytes(rule: Rule, sizes: Sizes, precision: DType) -> int:
    """By how much weights grow where the rule's right side stands in place of its left."""
    if rule.sides is None:
        return 0
    left, right = rule.sides(sizes, precision)
    known = weights_of(left)
    before, after = (weight_bytes(hoist(with_weights(g, known)).run) for g in (left, right))
    return after - before
