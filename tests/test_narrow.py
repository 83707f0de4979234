"""What kernels round to half precision on their way is in their tolerance, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from sdlc.api import make_request
from sdlc.backends.target import load_target
from sdlc.cli_prove import compilation
from sdlc.graph.expr import apply, f32
from sdlc.graph.node import Graph, Map
from sdlc.graph.reference import Mode, Options, evaluate
from sdlc.graph.types import DType
from sdlc.program.pipeline import compile_plan
from sdlc.proof.check import Compilation, sized
from sdlc.proof.inputs import Given, arrays_of, declared
from sdlc.proof.narrow import is_narrow, narrowed
from sdlc.proof.stages import Arrays, Limits, Route, Subject, fault_of, interpreted, reference
from sdlc.schedule.plan import plan

TARGET = load_target("nvidia-matrix")
ONE_BY_ONE = Options(contractions=False)
ROUTE = Route((reference(), interpreted()))
STATE = "model folded(x: f16[16, 16]) -> f16[16, 16] { return attention_online(x, x) }"
NORMED = """model normed(x: T[1, 32, 64]) -> T[1, 32, 64] {
  y = own: linear(layer: layer_norm(x), 64)
  return attention(y, y, y; heads = 1)
}
"""
"""A norm's factor is folded into the weights when they are loaded; the rest are products by matrix
instructions, and a state that is folded with them."""


def state() -> Subject:
    """Attention of which three elements of 256 are further off than f32 explains."""
    graph = make_request(STATE, TARGET.name, None, {}, (None, "f16")).graph()
    planned = plan(graph, TARGET)
    program = compile_plan(graph, planned, TARGET, DType.F16)
    made = narrowed(graph, (item.group for item in planned.kernels))
    return Subject("folded", graph, graph, program, narrowed=made)


def judged(subject: Subject, arrays: Arrays) -> str | None:
    allowed = Limits(subject, arrays, ROUTE)
    fault = fault_of(ROUTE.stages[1], subject, arrays, allowed.of(ROUTE.stages[1]))
    return None if fault is None else fault.problem


def normed() -> Compilation:
    return compilation(make_request(NORMED, TARGET.name, None, {}, (None, "f16")))


def test_a_weight_in_half_precision_is_in_the_tolerance() -> None:
    """Found by drawing: elements that cancel to nearly nothing show the rounding of their terms."""
    subject = state()
    arrays = Arrays({"x": Given("x", DType.F16, (16, 16), "ordinary", 92).array}, {})
    assert judged(subject, arrays) is None
    problem = judged(replace(subject, narrowed=None), arrays)
    assert problem is not None and "3 of 256 elements wrong" in problem


def test_what_else_a_kernel_computes_is_not() -> None:
    """A narrowed graph that means something else is held against itself: it excuses nothing."""
    subject = state()
    assert subject.narrowed is not None
    arrays = Arrays({"x": Given("x", DType.F16, (16, 16), "ordinary", 3).array}, {})

    def error(made: Graph | None) -> npt.NDArray[np.float64]:
        return (
            Limits(replace(subject, narrowed=made), arrays, ROUTE).of(ROUTE.stages[1])["out"].error
        )

    other = doubled(subject.narrowed)
    off = np.abs(evaluate(other, arrays.inputs, {}, Mode.F64)["out"])
    own, right, wrong = error(None), error(subject.narrowed), error(other)
    assert (right >= own).all() and (right > 1.2 * own).any()
    assert (wrong <= 16 * right).all() and (wrong < off / 4).mean() > 0.9


def doubled(graph: Graph) -> Graph:
    ((name, node, field),) = graph.outputs
    assert isinstance(node, Map)
    return Graph(
        graph.name,
        ((name, replace(node, body=apply("mul", node.body, f32(2))), field),),
        graph.inputs,
    )


def test_a_program_and_each_of_its_kernels_mean_the_same_narrowed() -> None:
    """Through the weights that are computed when they are loaded; nothing else is rounded."""
    made = normed()
    assert made.program.load is not None and made.narrowed is not None
    narrow = [s for s in made.pieces if s.narrowed is not None]
    assert narrow and any(is_narrow(g) for g in made.groups)
    for subject in (made.whole, *narrow):
        given = {n.name: Given(n.name, n.dtype, n.shape).array for n in declared(subject.graph)}
        arrays = arrays_of(subject.graph, given)
        means = [
            evaluate(g, arrays.inputs, arrays.weights, Mode.F64)
            for g in (subject.graph, subject.narrowed or subject.graph)
        ]
        for name, array in means[0].items():
            np.testing.assert_allclose(means[1][name], array, rtol=1e-9, atol=1e-9)
        assert judged(subject, arrays) is None


def test_a_sample_rounds_where_the_definition_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """At some points a narrow graph has the same roundings as at all of them: bit by bit."""
    monkeypatch.setattr("sdlc.proof.check.ALL_POINTS", 1 << 10)
    for subject in (s for s in normed().pieces if s.narrowed is not None):
        few = sized(subject, ROUTE)
        assert few.sample is not None and few.narrowed is not None and subject.narrowed is not None
        given = {n.name: Given(n.name, n.dtype, n.shape).array for n in declared(subject.graph)}
        for whole, some in ((subject.graph, few.graph), (subject.narrowed, few.narrowed)):
            expected = few.sample.pick(evaluate(whole, given, {}, Mode.F16, ONE_BY_ONE))
            got = evaluate(some, given, {}, Mode.F16, ONE_BY_ONE)
            for name, array in expected.items():
                np.testing.assert_array_equal(got[name], array)
