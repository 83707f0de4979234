"""Which of the rules that pay for speed with weights are used within a budget of bytes.

In: a graph, rules, a target, bytes for all weights as they are stored. Out: the graph rewritten by
the rules, bilinear ones only where they save most time for the bytes that there are. Invariant:
the weights fit the budget; without one every place that pays is used; of several rules that could
be used at a place, the one that serves the whole best.

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


Place = tuple[str, Origin]
"""A rule and where it could be used."""


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
    rivals = [r for r in rules if r.numerics is Numerics.BILINEAR]
    if budget is None:
        return rewrite(graph, rules, paying, _Unsurpassed(surpassed(graph, rivals, paying)))
    whole, some = offered(graph, [r for r in rules if r not in rivals[1:]], paying)
    found = [*some, *(o for rule in rivals[1:] for o in asked(graph, rule, paying))]
    plain = weight_bytes(hoist(whole[0]).run) - sum(o.nbytes for o in some)
    taken = chosen(found, budget - plain)
    if len(rivals) < 2 and len(taken) == len(found):
        return whole
    return rewrite(graph, rules, paying, _Admitted(frozenset((o.rule, o.at) for o in taken)))


SURPASSED = "another rule that could be used there serves the program better"


@dataclass(frozen=True, slots=True)
class _Admitted:
    """Admits bilinear rules at the places that were chosen for them, and every other rule."""

    places: frozenset[Place]

    def __call__(self, rule: Rule, node: Node, sizes: Sizes) -> str:
        if rule.numerics is not Numerics.BILINEAR or (rule.name, node.origin) in self.places:
            return ""
        if any(at == node.origin for _, at in self.places):
            return SURPASSED
        return "its weights are not among those that save most time within the weight budget"


@dataclass(frozen=True, slots=True)
class _Unsurpassed:
    """Admits every rule but at places that serve the program better with another one."""

    places: frozenset[Place]

    def __call__(self, rule: Rule, node: Node, sizes: Sizes) -> str:
        return SURPASSED if (rule.name, node.origin) in self.places else ""


def surpassed(graph: Graph, rivals: Sequence[Rule], paying: Profit) -> frozenset[Place]:
    """Where one of the rules could be used, and another one saves more time."""
    found: list[Offer] = []
    for rule in rivals:
        if found or rule is not rivals[-1]:  # the last of them has no rival where no other could be
            found += asked(graph, rule, paying, weighed=False)
    best = quickest(found)
    return frozenset((o.rule, o.at) for o in found if o not in best)


def quickest(offers: Iterable[Offer]) -> tuple[Offer, ...]:
    """Of the offers of each place the one that saves most seconds."""
    best: dict[Origin, Offer] = {}
    for offer in offers:
        if offer.at not in best or offer.seconds > best[offer.at].seconds:
            best[offer.at] = offer
    return tuple(best.values())


def offered(
    graph: Graph, rules: Sequence[Rule], paying: Profit
) -> tuple[tuple[Graph, RewriteReport], tuple[Offer, ...]]:
    """The graph rewritten wherever that pays, and what each place of a bilinear rule offers."""
    offers = _Offers(paying)
    whole = rewrite(graph, rules, paying, offers.record)
    return whole, tuple(offers.by_place.values())


def asked(graph: Graph, rule: Rule, paying: Profit, weighed: bool = True) -> tuple[Offer, ...]:
    """What each place of the graph as it is offers to one bilinear rule, which is not used yet;
    without bytes where they are not `weighed`."""
    offers = _Offers(paying, weighed)
    rewrite(graph, [rule], paying, lambda *of: offers.record(*of) or "it is only asked")
    return tuple(offers.by_place.values())


def weight_bytes(graph: Graph) -> int:
    """Bytes of the weights that a graph reads, without padding."""
    weights = (n for n in topological(graph) if isinstance(n, Input) and n.role is Role.WEIGHT)
    return sum(element_count(n) * n.dtype.itemsize for n in weights)


def chosen(offers: Iterable[Offer], room: int) -> tuple[Offer, ...]:
    """The offers that save most seconds of those that take at most `room` bytes together, at most
    one for each place; of equals, those that take the fewest bytes."""
    rivals: dict[Origin, list[Offer]] = {}
    for offer in offers:
        rivals.setdefault(offer.at, []).append(offer)
    states: list[tuple[int, float, tuple[Offer, ...]]] = [(0, 0.0, ())]
    for place in rivals.values():
        more = [(n + o.nbytes, s + o.seconds, (*of, o)) for n, s, of in states for o in place]
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
    weighed: bool = True
    by_place: dict[Place, Offer] = field(default_factory=dict)
    seen: set[tuple[str, Node]] = field(default_factory=set)

    def record(self, rule: Rule, node: Node, sizes: Sizes) -> str:
        if rule.numerics is Numerics.BILINEAR and (rule.name, node) not in self.seen:
            self.seen.add((rule.name, node))  # a node may match in several ways
            place = rule.name, node.origin
            nbytes = added_bytes(rule, sizes, node.dtypes[0]) if self.weighed else 0
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
