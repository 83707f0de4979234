"""Freedom from races: no two work-items touch one cell in one phase if one of them writes.

In: the accesses of one phase to one buffer. Out: None, or what could not be proven. Invariant: an
access that is called free of races is: for all values of its variables, if two work-items compute
the same cell, they are the same work-item.

The argument is that of a number system. The index is a sum of digits, 64 * row + 4 * lane + j: if
the lower digits together span less than the next coefficient, equal indices have equal digits.
Digits x floordiv c and x mod c give x. When all work-ids follow from the index, it belongs to one
work-item. Where that does not apply, disjoint ranges do, or all points are enumerated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import gcd

from sdlc.kernel.intervals import Bounds, constant_of
from sdlc.kernel.ir import Call, Expr, Literal, Var, WorkId, call, i32, walk
from sdlc.kernel.linear import linear
from sdlc.kernel.simplify import Simplifier
from sdlc.kernel.verify_accesses import Access, Segment
from sdlc.kernel.verify_enumerate import collision, variables_of


@dataclass(frozen=True, slots=True)
class Digit:
    """What one access adds to a part of the index that all accesses of a family share: a constant,
    a number of lanes, and the bounds of the variables there."""

    offset: int
    lanes: int
    bounds: Bounds


Terms = dict[Expr, int]


def race(segment: Segment, owners: tuple[Expr, ...]) -> str | None:
    """Why the accesses of a phase to one buffer may race; None if they cannot.

    `owners` are the work-ids that tell the work-items of the phase apart.
    """
    if not any(a.write for a in segment) or not owners:
        return None
    families = _families(segment)
    if _apart(families, owners) and all(
        _injective(family, owners) for family in families if any(a.write for a in family)
    ):
        return None
    shared = _shared(segment, owners)
    match collision(segment, owners, shared):
        case False:
            return None
        case True:
            return f"race: two work-items touch one cell of {segment[0].buffer.name} in one phase"
        case _:
            return f"cannot prove that {segment[0].buffer.name} is free of races"


def _shared(segment: Segment, owners: tuple[Expr, ...]) -> list[Expr]:
    """Variables with one value for the whole phase: of loops with barriers, of the group."""
    used = variables_of(e for a in segment for e in (a.index, *a.conditions))
    free = {v for a in segment for v in a.free} | set(owners)
    return [v for v in used if v not in free and v in segment[0].ranges]


def _is_shared(expr: Expr, access: Access, owners: tuple[Expr, ...]) -> bool:
    return all(
        v not in owners and v not in access.free and v in access.ranges for v in expr.variables
    ) and all(isinstance(e, (Var, WorkId, Literal, Call)) for e in walk(expr))


def _families(segment: Segment) -> list[Segment]:
    """Accesses whose indices differ by a constant only."""
    families: dict[frozenset[tuple[Expr, int]], Segment] = {}
    for access in segment:
        terms, _ = linear(access.index)
        families.setdefault(frozenset(terms.items()), []).append(access)
    return list(families.values())


def _apart(families: list[Segment], owners: tuple[Expr, ...]) -> bool:
    """Whether families of which one writes never touch the same cell."""
    for i, one in enumerate(families):
        for other in families[:i]:
            if any(a.write for a in (*one, *other)) and not _disjoint(one, other, owners):
                return False
    return True


def _disjoint(one: Segment, other: Segment, owners: tuple[Expr, ...]) -> bool:
    """By ranges; parts of the indices that both share cancel."""
    common = {
        atom: c
        for atom, c in linear(one[0].index)[0].items()
        if linear(other[0].index)[0].get(atom) == c and _is_shared(atom, one[0], owners)
    }
    first, second = _span(one, common), _span(other, common)
    return first[1] < second[0] or second[1] < first[0]


def _span(family: Segment, common: Terms) -> tuple[int, int]:
    """The cells that a family may touch, relative to the common part."""
    ends = []
    for access in family:
        terms, constant = linear(access.index)
        rest = {a: c for a, c in terms.items() if a not in common}
        low, high = access.bounds.of_linear((rest, constant))
        ends.append((low, high + access.lanes - 1))
    return min(e[0] for e in ends), max(e[1] for e in ends)


def _injective(family: Segment, owners: tuple[Expr, ...]) -> bool:
    """Whether equal cells mean equal work-items, within one family."""
    terms, _ = linear(family[0].index)
    own = {a: c for a, c in terms.items() if not _is_shared(a, family[0], owners)}
    digits = [Digit(linear(a.index)[1], a.lanes, a.bounds) for a in family]
    found = Determined(Simplifier(Bounds(family[0].ranges)), family, owners)
    return found.add_terms(own, digits) and found.has_all_owners()


class Determined:
    """The expressions whose values follow from the index."""

    def __init__(self, simplifier: Simplifier, family: Segment, owners: tuple[Expr, ...]) -> None:
        self.simplifier = simplifier
        self.family = family
        self.owners = owners
        self.known: set[Expr] = set()
        self._bounds = tuple({a.bounds: None for a in family})

    def has_all_owners(self) -> bool:
        while self._grow():
            pass
        return all(o in self.known or self._pinned(o) for o in self.owners)

    def _pinned(self, expr: Expr) -> bool:
        """Whether guards leave one value, the same everywhere."""
        found = {b.interval(expr) for b in self._bounds}
        return len(found) == 1 and all(low == high for low, high in found)

    def _grow(self) -> bool:
        """x mod c and x floordiv c give x."""
        for atom in tuple(self.known):
            if not (isinstance(atom, Call) and atom.op == "mod"):
                continue
            x, c = atom.args[0], constant_of(atom.args[1])
            if c is None or self._follows(x):
                continue
            if self._follows(self.simplifier.visit(call("floordiv", x, i32(c)))):
                terms, _ = linear(x)
                own = {a: k for a, k in terms.items() if not self._is_shared(a)}
                if not self.add_terms(own, [Digit(0, 1, b) for b in self._bounds]):
                    continue
                self.known.add(x)
                return True
        return False

    def _is_shared(self, expr: Expr) -> bool:
        return _is_shared(expr, self.family[0], self.owners)

    def _follows(self, expr: Expr) -> bool:
        if expr in self.known:
            return True
        terms, _ = linear(expr)
        return all(a in self.known or self._is_shared(a) or self._pinned(a) for a in terms)

    def add_terms(self, terms: Terms, digits: list[Digit]) -> bool:
        """A sum with these terms follows from the index, up to each digit's offset and lanes:
        find the atoms that follow; those with one value everywhere add nothing. False if nothing
        can be said."""
        terms = {a: c for a, c in terms.items() if not self._pinned(a)}
        if not terms:
            return True
        apart = {abs(d.offset - digits[0].offset) for d in digits}
        for step in sorted({gcd(*apart), *apart} - {0, 1}):
            if self._separates(terms, digits, step):
                # Copies of one statement stand `step` apart, and the terms span less than that.
                digits = [Digit(d.offset % step, d.lanes, d.bounds) for d in digits]
                break
        if len(terms) == 1:
            return self._add_one(terms, digits)
        if any(all(self.add_terms(*p) for p in parts) for parts in self._in_parts(terms, digits)):
            return True
        if len({d.offset for d in digits}) == 1 and all(d.lanes == 1 for d in digits):
            self.known.add(self.simplifier.order.sum_of((terms, 0)))
            return True
        return False

    def _add_one(self, terms: Terms, digits: list[Digit]) -> bool:
        """A multiple of one atom follows if its steps are longer than what the digits span."""
        ((atom, coefficient),) = terms.items()
        low = min(d.offset for d in digits)
        if max(d.offset + d.lanes - 1 for d in digits) - low >= abs(coefficient):
            return False
        self.known.add(atom)
        return True

    def _in_parts(
        self, terms: Terms, digits: list[Digit]
    ) -> Iterator[tuple[tuple[Terms, list[Digit]], ...]]:
        """The terms as a lower part and multiples of what is larger than all that it spans, in each
        way: copies that stand apart by no multiple of it are told from others in another."""
        for g in sorted({abs(c) for c in terms.values()}):
            high = {a: c // g for a, c in terms.items() if c % g == 0}
            low = {a: c for a, c in terms.items() if c % g}
            if (low or g > 1) and high and self._separates(low, digits, g):
                lower = [Digit(d.offset % g, d.lanes, d.bounds) for d in digits]
                upper = [Digit(d.offset // g, 1, d.bounds) for d in digits]
                yield (low, lower), (high, upper)

    def _separates(self, low_terms: Terms, digits: list[Digit], g: int) -> bool:
        """Whether the lower part, over all accesses, spans less than `g`."""
        lows, highs = [], []
        for digit in digits:
            low, high = digit.bounds.of_linear((low_terms, digit.offset % g))
            lows.append(low)
            highs.append(high + digit.lanes - 1)
        return max(highs) - min(lows) < g


def race_problems(
    segments: Iterable[Segment], owners: tuple[Expr, ...]
) -> list[tuple[str, Access]]:
    """Each race with an access that takes part."""
    problems: list[tuple[str, Access]] = []
    for segment in segments:
        by_buffer: dict[str, Segment] = {}
        for access in segment:
            by_buffer.setdefault(access.buffer.name, []).append(access)
        for group in by_buffer.values():
            found = race(group, owners)
            if found is not None:
                problems.append((found, next(a for a in group if a.write)))
    return problems
