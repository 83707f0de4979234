"""Routes through the compiler for drawn programs (the stages themselves are the package's).

In: a drawn case. Out: nothing, or an AssertionError that begins with the guilty stage.

    compare(case, device_route("cpu", "opencl", "pocl"))   reference = interpreted = … = OpenCL
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from sdlc.backends.devices import open_device
from sdlc.backends.legalize import legalize
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.show import show_graph
from sdlc.program.device import Device
from sdlc.program.pipeline import compile_graph
from sdlc.program.program import Program
from sdlc.proof.stages import (
    Arrays,
    Route,
    Stage,
    Subject,
    changed,
    fault_of,
    interpreted,
    limits,
    on,
    reference,
)
from strategies import Case, build_graph, weights_of


@dataclass(frozen=True, slots=True)
class Way:
    """A route for programs that `compile` makes of graphs."""

    route: Route
    compile: Callable[[Graph], Program]


@cache
def device(selector: str) -> Device:
    return open_device(selector)


def _compiled(target: str) -> Callable[[Graph], Program]:
    return lambda graph: compile_graph(graph, load_target(target))


def reference_route() -> Way:
    return Way(Route((reference(),)), _compiled("cpu"))


def interpreted_route(target: str) -> Way:
    return Way(Route((reference(), interpreted())), _compiled(target))


def legalised(target: str, language: str) -> Stage:
    caps = load_target(target).caps
    return changed(f"legalised for {language}, interpreted", lambda k: legalize(k, caps, language))


def legalised_route(target: str, language: str) -> Way:
    stages = (reference(), interpreted(), legalised(target, language))
    return Way(Route(stages, language), _compiled(target))


def device_route(target: str, language: str, selector: str) -> Way:
    """The device is opened when the route is first used."""

    def run(subject: Subject, arrays: Arrays) -> object:
        return on(device(selector)).run(subject, arrays)

    stages = legalised_route(target, language).route.stages
    last = Stage(f"device {selector}", run)  # type: ignore[arg-type]
    return Way(Route((*stages, last), language), _compiled(target))


def compare(case: Case, way: Way) -> None:
    """Runs the last stage of a route on a case; where it is wrong, finds the first that is."""
    graph = build_graph(case)
    arrays = Arrays(case.inputs, weights_of(graph))
    route = way.route
    only_reference = len(route.stages) == 1
    program = None if only_reference else way.compile(graph)
    subject = Subject("drawn", graph, graph, program)  # type: ignore[arg-type]
    allowed = limits(subject, arrays, route)
    if fault_of(route.stages[-1], subject, arrays, allowed) is None:
        return
    for stage in route.stages:
        fault = fault_of(stage, subject, arrays, allowed)
        if fault is not None:
            raise AssertionError(
                f"guilty stage: {stage.name}: {fault.problem}\n{show_graph(graph)}"
            )
    raise AssertionError(f"{route.stages[-1].name} is wrong once and right once: {case}")
