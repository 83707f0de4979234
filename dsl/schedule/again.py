"""Values that are computed again where they are read late, rather than kept.

In: groups in execution order, and which values are results. Out: groups, with copies of some
before late readers, and which value each copy stores. Invariant: a copy is the same kernel; what it
reads is given to a run (inputs and weights) or kept for it; the most that is live at any time, with
what is kept, is less with it.

    y = f(x); … z = g(…) needs most memory …; out = h(z, y)
    becomes y = f(x); … z = g(…); y' = f(x); out = h(z, y')
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from sdlc.graph.expr import Axis, Expr, Index, Read, rebuild, substitute
from sdlc.graph.node import Const, Input, Map, Node, Reduce, Role, byte_count
from sdlc.schedule.group import Group
from sdlc.schedule.reasons import Journal

CHEAP = 256
"""A copy takes at most the program's FLOP divided by this."""

LESS = 0.92
"""The share of the most live bytes that must be enough with a copy."""

KEPT = 8
"""What is kept for a copy takes at most its bytes divided by this."""

MOST_COPIES = 8

MECHANISM = "compute_again"

Value = tuple[Node, int]


@dataclass(frozen=True, slots=True)
class Again:
    """The groups with copies among them; `copies` leads from a copy's value to the first one."""

    groups: tuple[Group, ...]
    copies: Mapping[Value, Value]


@dataclass(frozen=True, slots=True)
class _Copy:
    """The group `number` again before the group `before`, and the peak of live bytes with it."""

    number: int
    before: int
    peak: int


def compute_again(groups: tuple[Group, ...], kept: frozenset[Node], journal: Journal) -> Again:
    """The groups with copies of cheap ones where that lowers the peak of live bytes. `kept` are the
    program's results."""
    made, copies = groups, dict[Value, Value]()
    for _ in range(MOST_COPIES):
        live = live_bytes(made, kept)
        best = min(_possible(made, kept, live), key=lambda c: c.peak, default=None)
        if best is None or best.peak > LESS * max(live):
            break
        journal.tell(MECHANISM, made[best.number], "")
        made = _with_copy(made, best, copies)
    _tell_of_idle(made, kept, journal)
    return Again(made, copies)


def _with_copy(
    groups: tuple[Group, ...], chosen: _Copy, copies: dict[Value, Value]
) -> tuple[Group, ...]:
    """The groups with one copied, which all later ones read; `copies` is told of its values."""
    group = groups[chosen.number]
    copied = {s.node: _copied(s.node, len(copies)) for s in group.stores}
    for s in group.stores:
        value = s.node, s.field
        copies[(copied[s.node], s.field)] = copies.get(value, value)
    copy = replace(group, stores=tuple(replace(s, node=copied[s.node]) for s in group.stores))
    late = (_reading(g, copied) for g in groups[chosen.before :])
    return (*groups[: chosen.before], copy, *late)


def _possible(
    groups: Sequence[Group], kept: frozenset[Node], live: Sequence[int]
) -> Iterator[_Copy]:
    """Every copy of a group that may be copied before one of its readers."""
    total, fixed = sum(g.flop for g in groups), _fixed(groups, kept)
    for number, group in enumerate(groups):
        if _not_again(group, fixed, total):
            continue
        own = {(s.node, s.field) for s in group.stores}
        less = sum(byte_count(*v) for v in own) - _kept_for(group)
        read = [n for n, g in enumerate(groups) if not own.isdisjoint(g.operands)]
        for last, before in pairwise((number, *read)):
            relieved = live[last + 1 : before]
            if relieved:
                others = max((*live[: last + 1], live[before] + _kept_for(group), *live[before:]))
                yield _Copy(number, before, max(others, max(relieved) - less))


def _kept_for(group: Group) -> int:
    """Bytes of computed values that a copy of a group reads."""
    return sum(byte_count(*v) for v in group.operands if not isinstance(v[0], (Input, Const)))


def _fixed(groups: Sequence[Group], kept: frozenset[Node]) -> dict[Node, str]:
    """Why values are stored once whatever reads them, by value."""
    stored = Counter(node for g in groups for node in {s.node for s in g.stores})
    parts = {node: "several kernels store parts of it" for node, n in stored.items() if n > 1}
    return parts | dict.fromkeys(kept, "it is a result of the program")


def _not_again(group: Group, fixed: Mapping[Node, str], total: int) -> str:
    """Why a group is not computed twice, or ''; `fixed` says why values are not, `total` is the
    program's FLOP."""
    sources = [node for node, _ in group.operands]
    for store in group.stores:
        if store.node in fixed:
            return fixed[store.node]
    if KEPT * _kept_for(group) > sum(byte_count(s.node, s.field) for s in group.stores):
        return "what it reads would have to be kept for it"
    if all(isinstance(s, Const | Input) for s in sources) and not any(
        isinstance(s, Input) and s.role is Role.INPUT for s in sources
    ):
        return "it reads weights alone"
    return f"it takes more than 1/{CHEAP} of all FLOP" if group.flop * CHEAP > total else ""


def _tell_of_idle(groups: Sequence[Group], kept: frozenset[Node], journal: Journal) -> None:
    """Why what is kept unused while most bytes are live is not computed again."""
    live, total = live_bytes(groups, kept), sum(g.flop for g in groups)
    fixed = _fixed(groups, kept)
    peak = live.index(max(live)) if live else 0
    late = {v for g in groups[peak + 1 :] for v in g.operands}
    used = set(groups[peak].operands) if groups else set()
    for group in groups[:peak]:
        own = {(s.node, s.field) for s in group.stores}
        if own.isdisjoint(used) and not own.isdisjoint(late):
            why = _not_again(group, fixed, total) or "hardly less would be live at most"
            journal.tell(MECHANISM, group, why)


def live_bytes(groups: Sequence[Group], kept: frozenset[Node]) -> list[int]:
    """The bytes of computed values that are live while each group runs."""
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for time, group in enumerate(groups):
        for store in group.stores:
            first.setdefault((store.node, store.field), time)
        last |= {v: time for v in group.operands if v in first}
    change = [0] * (len(groups) + 1)
    for value, time in first.items():
        if value[0] not in kept:
            change[time] += byte_count(*value)
            change[last.get(value, time) + 1] -= byte_count(*value)
    return list(accumulate(change[:-1]))


def _copied(node: Node, number: int) -> Node:
    """The node once more: another object, since its axes have other names."""
    assert isinstance(node, (Map, Reduce))
    axes = tuple(Axis(f"{a.name}_again{number or ''}", a.extent) for a in node.axes)
    moved: dict[Axis, Expr] = {a: Index(b) for a, b in zip(node.axes, axes, strict=True)}
    origin = replace(node.origin, name=f"{node.origin.name}_again")
    if isinstance(node, Map):
        return Map(axes, substitute(node.body, moved), node.dtype, origin)
    lift = tuple(substitute(e, moved) for e in node.lift)
    return Reduce(axes, node.over, node.monoid, lift, node.dtypes, origin)


def _reading(group: Group, copied: Mapping[Node, Node]) -> Group:
    """The group with reads of values replaced by those of their copies."""
    if not any(node in copied for node, _ in group.operands):
        return group

    def change(e: Expr) -> Expr | None:
        if not isinstance(e, Read) or e.source not in copied:
            return None
        indices = tuple(rebuild(i, change) for i in e.indices)
        fill = None if e.fill is None else rebuild(e.fill, change)
        return Read(copied[e.source], indices, e.field, fill)

    return replace(
        group,
        lift=tuple(rebuild(e, change) for e in group.lift),
        stores=tuple(replace(s, value=rebuild(s.value, change)) for s in group.stores),
        inner=tuple(_reading(g, copied) for g in group.inner),
    )
