"""One program executed at every level of the compiler, and the level at fault named.

In: a drawn case. Out: nothing, or an AssertionError that begins with the guilty stage. Invariant:
each stage is compared with the same computed tolerance, and only with the graph's f64 meaning.

    compare(case, opencl_route())     reference = interpreted = legalised = OpenCL
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from sdlc.backends.devices import open_device
from sdlc.backends.legalize import legalize
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.reference import evaluate
from sdlc.graph.show import show_graph
from sdlc.graph.types import Array
from sdlc.program.device import Device
from sdlc.program.execute import Executable
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_graph
from strategies import Case, build_graph, weights_of
from tolerance import Numerics, check, mode_of, tolerance

Arrays = Mapping[str, Array]
Run = Callable[[Graph, Arrays, Arrays], Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A level: its name and how it executes a graph on inputs and weights."""

    name: str
    run: Run


@dataclass(frozen=True, slots=True)
class Route:
    """Stages in the compiler's order; the language of the last says how accurate functions are."""

    stages: tuple[Stage, ...]
    language: str = "numpy"


def reference() -> Stage:
    return Stage("reference", lambda g, inputs, weights: evaluate(g, inputs, weights, mode_of(g)))


def interpreted(target: str) -> Stage:
    def run(graph: Graph, inputs: Arrays, weights: Arrays) -> Mapping[str, Array]:
        return run_interpreted(compile_graph(graph, load_target(target)), inputs, weights)

    return Stage(f"lowered for {target}, interpreted", run)


def legalised(target: str, language: str) -> Stage:
    caps = load_target(target).caps

    def run(graph: Graph, inputs: Arrays, weights: Arrays) -> Mapping[str, Array]:
        program = compile_graph(graph, load_target(target))
        return run_interpreted(program, inputs, weights, lambda k: legalize(k, caps, language))

    return Stage(f"legalised for {language}, interpreted", run)


def on_device(target: str, selector: str) -> Stage:
    def run(graph: Graph, inputs: Arrays, weights: Arrays) -> Mapping[str, Array]:
        program = compile_graph(graph, load_target(target))
        return Executable(program, device(selector), weights).run(inputs)

    return Stage(f"device {selector}", run)


@cache
def device(selector: str) -> Device:
    return open_device(selector)


def reference_route() -> Route:
    return Route((reference(),))


def interpreted_route(target: str) -> Route:
    return Route((reference(), interpreted(target)))


def legalised_route(target: str, language: str) -> Route:
    return Route((reference(), interpreted(target), legalised(target, language)), language)


def device_route(target: str, language: str, selector: str) -> Route:
    stages = legalised_route(target, language).stages
    return Route((*stages, on_device(target, selector)), language)


def compare(case: Case, route: Route) -> None:
    """Runs the last stage of a route on a case; where it is wrong, finds the first that is.

    The reference alone is held against random roundings only: its own error is no excuse for it.
    """
    graph = build_graph(case)
    inputs, weights = case.inputs, weights_of(graph)
    measured = len(route.stages) > 1
    allowed = tolerance(graph, inputs, weights, route.language, measured)

    def attempt(stage: Stage) -> Exception | None:
        try:
            check(allowed, stage.run(graph, inputs, weights), Numerics.REASSOCIATED)
        except Exception as problem:
            return problem
        return None

    if attempt(route.stages[-1]) is None:
        return
    for stage in route.stages:
        if (problem := attempt(stage)) is not None:
            message = f"guilty stage: {stage.name}: {type(problem).__name__}: {problem}"
            raise AssertionError(f"{message}\n{show_graph(graph)}") from problem
    raise AssertionError(f"{route.stages[-1].name} is wrong once and right once: {case}")
