"""Random programs mean the same at every level: reference = interpreted = legalised = devices.

`python -m pytest tests/test_random_programs.py --examples 5000` draws thousands.
"""

from __future__ import annotations

import numpy as np
import pytest

from conftest import ForAll
from sdlc.graph.reference import Mode, Options, evaluate
from sdlc.graph.show import node_names, show_graph
from stages import (
    Way,
    compare,
    device_route,
    interpreted_route,
    legalised_route,
    reference_route,
)
from strategies import Case, build_graph, cases, drawable, weights_of

DEFINITIONS = tuple(drawable())


def test_many_definitions_are_drawn() -> None:
    """The generator reaches the library: a signature that it cannot draw is a gap in the tests."""
    assert len(DEFINITIONS) >= 100


@pytest.mark.parametrize("name", DEFINITIONS)
def test_reference_of_each_definition(name: str, for_all: ForAll) -> None:
    route = reference_route()
    for_all(cases(1, only=[name]), lambda case: compare(case, route), 3, 0.02)


def test_reference_of_programs(for_all: ForAll) -> None:
    route = reference_route()
    for_all(cases(), lambda case: compare(case, route), 100, 1)


def test_contractions_are_a_shortcut(for_all: ForAll) -> None:
    """Sums by matrix products equal the fold of the monoid, in f64."""
    names = [n for n in DEFINITIONS if any(w in n for w in ("mat", "conv", "attention", "linear"))]

    def check(case: Case) -> None:
        graph = build_graph(case)
        arrays = case.inputs, weights_of(graph)
        fast = evaluate(graph, *arrays, Mode.F64)
        plain = evaluate(graph, *arrays, Mode.F64, Options(contractions=False))
        for key, value in plain.items():
            scale = np.abs(value.astype(np.float64)).max(initial=1e-300)
            error = np.abs(fast[key].astype(np.float64) - value.astype(np.float64))
            assert not (error > 1e-9 * scale).any()

    for_all(cases(2, only=names), check, 40, 0.1)


def test_shown_programs_have_unique_names(for_all: ForAll) -> None:
    def check(case: Case) -> None:
        graph = build_graph(case)
        names = node_names(graph)
        assert len(set(names.values())) == len(names)
        shown = show_graph(graph)
        assert all(name in shown for name in names.values())

    for_all(cases(), check, 20, 0.05)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_each_definition_interpreted(name: str, for_all: ForAll) -> None:
    route = interpreted_route("cpu")
    for_all(cases(1, only=[name]), lambda case: compare(case, route), 10, 0.02)


@pytest.mark.parametrize("target", ["cpu", "adreno", "nvidia"])
def test_programs_interpreted(target: str, for_all: ForAll) -> None:
    route = interpreted_route(target)
    for_all(cases(), lambda case: compare(case, route), 250, 1)


@pytest.mark.parametrize(
    ("target", "language"), [("mali", "opencl"), ("apple", "wgsl"), ("llvmpipe", "wgsl")]
)
def test_programs_legalised(target: str, language: str, for_all: ForAll) -> None:
    route = legalised_route(target, language)
    for_all(cases(), lambda case: compare(case, route), 150, 1)


DEVICES = {
    "intel": device_route("cpu", "opencl", "cpu"),
    "pocl": device_route("cpu", "opencl", "pocl"),
    "llvmpipe": device_route("llvmpipe", "wgsl", "llvmpipe"),
}


@pytest.mark.parametrize("route", DEVICES.values(), ids=DEVICES)
def test_programs_on_devices(route: Way, for_all: ForAll) -> None:
    for_all(cases(), lambda case: compare(case, route), 25, 0.1)
