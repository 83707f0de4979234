"""The axes that a match leaves open, and what the metavariables must not depend on.

In: the state of a match after all operators have met. Out: the same with an axis of the node for
every axis of the pattern. Invariant: afterwards each metavariable's expression uses, besides
ambient axes, only the axes at which the metavariable is read.

    x[s, t] on p[b, h, i, k] and v[t, f] on w[b, k, h * 4 + e], t on k:  s on i, f on e; b, h free
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sdlc.graph.expr import Axis, Expr, Index, Read, walk
from sdlc.graph.match_show import axis_name, node_name
from sdlc.graph.node import Node


@dataclass(frozen=True, slots=True)
class Where:
    """A metavariable at computed places: `positions[k]` is its dimension k in the tensor."""

    pattern: Read
    target: Read
    positions: tuple[int, ...]

    @property
    def rest(self) -> tuple[Expr, ...]:
        """The indices of the tensor's other dimensions."""
        return tuple(e for k, e in enumerate(self.target.indices) if k not in self.positions)


@dataclass(frozen=True, slots=True)
class State:
    """What is known so far. `depth` counts the operators that have met."""

    axes: Mapping[Axis, Axis] = field(default_factory=dict)
    sizes: Mapping[int, int] = field(default_factory=dict)
    folds: Mapping[tuple[Node, tuple[Expr, ...]], tuple[Node, tuple[Expr, ...]]] = field(
        default_factory=dict
    )
    flexible: tuple[tuple[Read, Expr], ...] = ()
    fixed: tuple[Where, ...] = ()
    inside: frozenset[Node] = frozenset()
    depth: int = 0


class Pairing(Protocol):
    def pair(self, p: Axis, t: Axis, state: State) -> State | None: ...

    def fail(self, state: State, why: Callable[[], str]) -> None: ...


def axes_of(*exprs: Expr) -> set[Axis]:
    return {e.axis for e in walk(*exprs) if isinstance(e, Index)}


def solve(
    state: State, pattern: Sequence[Axis], target: Sequence[Axis], pairing: Pairing
) -> Iterator[State]:
    """The state with every axis of `pattern`, the root's, matched."""
    open_axes = [a for a in pattern if a not in state.axes]
    if not open_axes:
        why = _dependence(state)
        if why:
            pairing.fail(replace(state, depth=state.depth + 1), lambda: why)
        else:
            yield state
        return
    axis = open_axes[0]
    reasons = []
    for candidate in _ranked(state, axis, target):
        why = _forbidden(state, axis, candidate)
        found = None if why else pairing.pair(axis, candidate, state)
        if found is not None:
            yield from solve(found, pattern, target, pairing)
        elif why:
            reasons.append(f"not `{axis_name(candidate)}`: {why}")
    if reasons:
        text = f"no axis plays the part of `{axis_name(axis)}`: {'; '.join(reasons)}"
        pairing.fail(replace(state, depth=state.depth + 1), lambda: text)


def _ranked(state: State, axis: Axis, target: Sequence[Axis]) -> list[Axis]:
    """The node's free axes, those first that all metavariables at `axis` depend on, inner first."""
    used = set(state.axes.values())
    at = [t for p, t in state.flexible if Index(axis) in p.indices]
    free = [a for a in target if a not in used]
    return sorted(free, key=lambda a: (sum(a in axes_of(t) for t in at), free.index(a)))[::-1]


def _forbidden(state: State, axis: Axis, candidate: Axis) -> str:
    """Why `candidate` cannot be `axis`: something that is not read at `axis` depends on it."""
    for p, t in state.flexible:
        if Index(axis) not in p.indices and candidate in axes_of(t):
            return _must_not(p, candidate)
    for where in state.fixed:
        if candidate in axes_of(*where.rest):
            return _must_not(where.pattern, candidate)
    return ""


def _dependence(state: State) -> str:
    """The first dependence of a metavariable on a matched axis at which it is not read."""
    images = set(state.axes.values())
    for p, t in state.flexible:
        own = {state.axes[i.axis] for i in p.indices if isinstance(i, Index)}
        wrong = (axes_of(t) & images) - own
        if wrong:
            return _must_not(p, min(wrong, key=lambda a: a.name))
    for where in state.fixed:
        wrong = axes_of(*where.rest) & images
        if wrong:
            return _must_not(where.pattern, min(wrong, key=lambda a: a.name))
    return ""


def _must_not(p: Read, axis: Axis) -> str:
    return f"`{node_name(p.source)}` must not depend on `{axis_name(axis)}`"
