"""A search for inputs on which some stage is wrong.

In: a subject, a route, an effort. Out: a `Verdict`: how many examples agreed, or the simplest
failing one that Hypothesis could find, with the guilty stage. Invariant: the same effort searches
the same examples; whatever was left out is said in `notes`.

    falsify(subject, route, Effort(examples=20)).fault      None: every stage agreed everywhere
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sdlc.graph.node import Graph, Input, Role
from sdlc.graph.types import Array
from sdlc.language.diagnostics import failure, plural
from sdlc.proof.inputs import KINDS, Given, arrays_of, declared
from sdlc.proof.stages import Arrays, Fault, Limits, Route, Subject, first_wrong

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Example = tuple[Given, ...]
SEEDS = 99


@dataclass(frozen=True, slots=True)
class Effort:
    """`examples` a subject, at most `seconds` a subject (the first one always), from `seed` on."""

    examples: int = 20
    seconds: float = 10.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a subject. `example` is the failing one; `defined` is the share of elements
    at which arithmetic is defined (any value is right at the others)."""

    subject: Subject
    examples: int
    fault: Fault | None
    example: Example
    defined: float
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Search:
    """A search while it runs."""

    subject: Subject
    route: Route
    inputs: Graph
    ends: float
    tried: int = 0
    elements: int = 0
    defined: int = 0
    late: int = 0
    found: list[tuple[Example, Fault]] = field(default_factory=list)

    def __call__(self, example: Example) -> None:
        """Raises AssertionError where some stage is wrong."""
        if self.tried and not self.found and time.monotonic() > self.ends:
            self.late += 1
            return
        arrays = arrays_of(self.inputs, {g.name: g.array for g in example})
        fault = self.judge(arrays)
        if fault is not None:
            self.found.append((example, fault))
            raise AssertionError(fault.problem)
        self.tried += 1

    def judge(self, arrays: Arrays) -> Fault | None:
        allowed = Limits(self.subject, arrays, self.route)
        first = allowed.of(self.route.stages[0])
        self.elements += sum(a.defined.size for a in first.values())
        self.defined += sum(int(np.count_nonzero(a.defined)) for a in first.values())
        return first_wrong(self.subject, arrays, self.route, allowed)


def falsify(subject: Subject, route: Route, effort: Effort, whole: bool = False) -> Verdict:
    """Runs every stage on drawn inputs until one is wrong. `whole`: the subject is a network, whose
    weights are drawn as networks have them."""
    started = time.monotonic()
    graph = subject.graph
    search = _Search(subject, route, graph, started + effort.seconds)
    problem = _run(search, _examples(graph, whole), effort)
    if problem is not None and not search.found:
        raise problem
    example, fault = search.found[-1] if search.found else ((), None)
    share = search.defined / search.elements if search.elements else 1.0
    notes = _notes(search, effort)
    return Verdict(subject, search.tried, fault, example, share, time.monotonic() - started, notes)


def judge(subject: Subject, route: Route, given: dict[str, Array]) -> Fault | None:
    """The first stage that is wrong on these arrays."""
    arrays = arrays_of(subject.graph, given)
    return _Search(subject, route, subject.graph, 0.0).judge(arrays)


def _notes(search: _Search, effort: Effort) -> tuple[str, ...]:
    notes = []
    if search.late:
        tried = plural(search.tried, "example")
        notes.append(f"{tried} in {effort.seconds:g} s, not {effort.examples}")
    if search.subject.sample is not None:
        groups = len(search.subject.sample.groups)
        points = sum(len(p) for p in search.subject.sample.points.values())
        how = f"{groups} work-groups interpreted" if groups else "too long to be interpreted"
        notes.append(f"at {points} elements, {how}")
    if search.elements and not search.defined:
        notes.append("nothing is defined on these inputs")
    return tuple(notes)


def _run(search: Callable[[Example], None], examples: Any, effort: Effort) -> Exception | None:
    """Hypothesis draws, calls and shrinks; what it raises in the end."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    configured: Any = settings(
        max_examples=effort.examples,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )

    def test(example: Example) -> None:
        search(example)

    seeded: Any = seed(effort.seed)
    drawn: Any = given(examples)
    try:
        configured(seeded(drawn(test)))()
    except Exception as problem:
        return problem
    return None


def _examples(graph: Graph, whole: bool) -> SearchStrategy[Example]:
    import hypothesis.strategies as st

    return st.tuples(*(_given(n, whole) for n in declared(graph)))


def _given(node: Input, whole: bool) -> SearchStrategy[Given]:
    """The strategy of one array; a network's weights are small numbers, by their fan-in."""
    import hypothesis.strategies as st

    seeds = st.integers(0, SEEDS)
    if whole and node.role is Role.WEIGHT and node.dtype.is_float:
        scale = float(np.prod(node.shape[1:])) ** -0.5
        return st.builds(
            lambda seed: Given(node.name, node.dtype, node.shape, KINDS[0], seed, scale), seeds
        )
    kinds = st.sampled_from(KINDS) if node.dtype.is_float else st.just(KINDS[0])
    return st.builds(
        lambda kind, seed: Given(node.name, node.dtype, node.shape, kind, seed), kinds, seeds
    )


def need_hypothesis() -> None:
    """Raises SdlError (C003) where Hypothesis, which draws the inputs, is not installed."""
    import tempfile
    from pathlib import Path

    try:
        from hypothesis.configuration import set_hypothesis_home_dir
    except ImportError:
        message = "this check draws its inputs with Hypothesis, which is not installed"
        raise failure("C003", message, help="pip install hypothesis") from None
    set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "sdlc-hypothesis")
