"""Every mechanism of the schedule earns its place: it is sound, it fires, it matters, it is
optional; and where it does not fire, it says why.

The tests of a mechanism are generated: its programs are those of `schedule_programs.POOL` that it
fires on, their sizes are drawn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rule_programs import values_for
from schedule_programs import POOL, ROOM, Pooled, fires_on
from sdlc.api import compile
from sdlc.graph.mechanisms import SCHEDULED
from sdlc.graph.node import Graph
from sdlc.graph.numerics import Numerics
from sdlc.graph.types import DType
from sdlc.program.pipeline import compile_plan
from sdlc.proof.stages import Arrays, Route, Subject, fault_of, interpreted, limits
from sdlc.schedule.again import live_bytes
from sdlc.schedule.plan import EVERY, Plan, plan
from sdlc.schedule.reasons import Journal

mechanisms = pytest.mark.parametrize("name", [m.name for m in SCHEDULED])


def prove(program: Pooled, graph: Graph, made: Plan, dtype: DType, seed: int) -> None:
    """The kernels compute what the graph means."""
    compiled = compile_plan(graph, made, program.machine(), dtype)
    numerics = Numerics.BILINEAR if "winograd" in "".join(program.rules) else Numerics.RESCALED
    subject = Subject("drawn", graph, graph, compiled, numerics)
    arrays = Arrays(values_for(graph, seed), {})
    stage = interpreted()
    fault = fault_of(stage, subject, arrays, limits(subject, arrays, Route((stage,))))
    assert fault is None, fault


@mechanisms
@settings(max_examples=4, deadline=None)
@given(data=st.data(), seed=st.integers(0, 99), dtype=st.sampled_from([DType.F32, DType.F16]))
def test_sound_and_optional(name: str, data: st.DataObject, seed: int, dtype: DType) -> None:
    """With every mechanism and without this one, at any sizes."""
    program = data.draw(st.sampled_from(fires_on(name)))
    sizes = {n: data.draw(st.integers(low, high)) for n, low, high in program.sizes}
    graph = program.graph(sizes, dtype)
    prove(program, graph, program.plan(graph), dtype, seed)
    without = program.plan(graph, EVERY - {name})
    assert name not in without.fired
    assert all(said[0] != name for kernel in without.kernels for said in kernel.reasons)
    prove(program, graph, without, dtype, seed)


@mechanisms
def test_fires_and_matters(name: str) -> None:
    """What it fires on becomes other kernels."""
    assert fires_on(name), "give tests/schedule_programs.py a program that it fires on"
    for program in fires_on(name):
        graph = program.graph(program.largest)
        made, without = program.plan(graph), program.plan(graph, EVERY - {name})
        assert str(made) != str(without)


@mechanisms
def test_says_why_not(name: str) -> None:
    """Somewhere in the pool it looks at a group and gives a reason, as one sentence about a value
    of that group."""
    found: list[Any] = []
    for program in POOL:
        made = program.plan(program.graph({n: low for n, low, _ in program.sizes}))
        found += [said for k in made.kernels for said in k.reasons if said[0] == name]
    assert all(bool(why) is not acted and about for _, acted, why, about in found)
    reasons = [why for _, acted, why, _ in found if not acted]
    assert reasons
    for why in reasons:
        assert why[0].islower() and why[-1] not in ".!" and len(why) < 100, why


TWICE = """op m(x: f32[n, n], w: f32[n, n]) -> (a: f32[n, n], b: f32[n, n]) {
  y = silu(x)
  a = matmul_nn(y, w)
  b = matmul_nn(w, y)
}"""


def test_reasons_are_explained() -> None:
    text = str(compile(TWICE, target="nvidia", sizes={"n": 24}).explain())
    assert "schedule inline_prologue did not fire for silu.out: it has 2 readers" in text
    why = "others of its extents have another left factor"
    assert f"schedule share_operand did not fire for matmul_nn.out: {why}" in text
    assert "schedule local_operands fired for matmul_nn.out" in text


def test_what_is_told_of_a_group() -> None:
    """Several refusals are kept; one that fired in the end has nothing more to say."""
    program = POOL[0]
    (group, *_) = (k.group for k in program.plan(program.graph(program.largest)).kernels)
    journal = Journal({"first", "second"})
    for why in ("it is long", "it is wide", "it is long"):
        journal.tell("first", group, why)
        journal.tell("second", group, why)
    journal.tell("second", group, "")
    journal.tell("third", group, "")
    about = group.stores[0].node.origin.path
    assert journal.of(group) == (
        ("second", True, "", about),
        ("first", False, "it is long", about),
        ("first", False, "it is wide", about),
    )


def test_beyond_its_border_an_inlined_map_is_what_the_reader_says() -> None:
    text = "op m(x: T[n]) -> T[n] { y[i] = exp(x[i])\n  out[i < n] = y[i - 1] else 0\n}"
    program = Pooled(text, (("n", 5, 5),), "cpu")
    graph = program.graph(program.largest)
    made = program.plan(graph)
    assert len(made.kernels) == 1 and "inline_prologue" in made.fired
    prove(program, graph, made, DType.F32, 0)


@pytest.mark.parametrize("registers", [0, 71, 72])
def test_a_transform_holds_no_more_than_registers_do(registers: int) -> None:
    """A tile of 6 x 6 that is normalised and activated as it is loaded, and what is made of it:
    72 values. A target that has fewer registers (0: they are not counted) stores it before."""
    program = next(p for p in POOL if "winograd_4" in p.rules and p.target == "apple")
    graph, target = program.graph(program.largest), program.machine()
    counted = replace(target, profile=replace(target.profile, registers=registers))
    made = plan(graph, counted)
    why = f"a work-item would hold 72 values at once (profile.registers is {registers})"
    said = [(acted, why) for k in made.kernels for _, acted, why, _ in k.reasons]
    assert ((False, why) in said) == (registers == 71)
    assert len(made.kernels) == (7 if registers == 71 else 6)


@pytest.mark.parametrize(
    "text",
    [
        # The same value in every column: a product without columns, of which nothing is streamed.
        """op m(x: T[n, c], u: T[c], r: T[d]) -> T[n, d] {
          v[p < c, j < d] = u[p]
          y = attention_online(x, v)
          out[i, j] = y[i, j] + r[j]
        }""",
        # Scores that are a reduction over no axis at all.
        """op m(x: T[n, c], v: T[c, d]) -> T[n, d] {
          return attention_online(global_avg_pool(x), v)
        }""",
    ],
)
def test_a_folded_state_of_few_axes_has_a_schedule(text: str) -> None:
    """Found by drawing."""
    for columns in (1, 16):
        program = Pooled(text, (("n", 2, 2), ("c", 5, 5), ("d", columns, columns)), "nvidia")
        graph = program.graph(program.largest)
        prove(program, graph, program.plan(graph), DType.F32, 0)


def test_strips_are_as_few_as_what_is_live_anyway_allows() -> None:
    """Two values of 512 elements beside others of 192: whole where 1,240 are live anyway, in two
    strips where 800 are, else in more."""
    pieces, most = [], []
    for wide in (10, 400, 620):
        graph = ROOM.graph({"b": 1, "c": 2, "h": 8, "e": 2, "n": wide})
        groups = [k.base for k in ROOM.plan(graph).kernels]
        results = frozenset(node for _, node, _ in graph.outputs)
        pieces.append(sum(g.stores[0].node is graph.outputs[0][1] for g in groups))
        most.append(max(live_bytes(groups, results)))
    assert pieces[0] > pieces[1] == 2 and pieces[2] == 1
    assert most[1:] == [2 * 400 * 4, 2 * 620 * 4]
