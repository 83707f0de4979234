"""The laws of every monoid of the standard library, on states that programs reach.

A program that uses the monoid is drawn, its lifted states are computed, and three groups of them
are combined in decimal arithmetic of 200 digits: there the laws hold to 50 digits or are wrong.
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume

from conftest import ForAll
from sdlc.cli import status_of
from sdlc.graph.expr import Apply, Slot
from sdlc.graph.node import Graph, Map, Monoid, Reduce, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.reference_expr import Arithmetic
from sdlc.graph.reference_reduce import combine, identity
from sdlc.graph.types import Array, DType
from sdlc.language.library import load_prelude
from sdlc.language.syntax import Reduction
from sdlc.proof.laws import DIGITS, State, broken_law, exact, folded
from strategies import Case, build_graph, cases, drawable, parts, weights_of

MONOIDS = tuple(load_prelude().monoids)
F32 = Arithmetic(np.dtype(np.float32))


@dataclass(frozen=True)
class Reached:
    """A monoid of a drawn program and three groups of states that its lift gives."""

    monoid: Monoid
    groups: tuple[tuple[State, ...], ...]


def users(name: str) -> list[str]:
    """The definitions that fold a monoid."""
    return [
        key
        for key, definition in drawable().items()
        if any(isinstance(p, Reduction) and p.monoid == name for p in parts(definition.body))
    ]


@st.composite
def reached(draw: st.DrawFn, name: str) -> Reached:
    case = draw(cases(1, only=users(name)))
    graph = build_graph(case)
    found = [n for n in reductions(graph) if n.monoid.name == name]
    assume(found)
    node = draw(st.sampled_from(found))
    columns = [lifted(case, graph, node, f) for f in range(len(node.lift))]
    groups = draw(
        st.lists(st.lists(st.integers(0, columns[0].size - 1), max_size=4), min_size=3, max_size=3)
    )
    states = tuple(tuple(tuple(exact(c[i]) for c in columns) for i in g) for g in groups)
    assume(all(np.isfinite(float(v)) for group in states for state in group for v in state))
    return Reached(node.monoid, states)


def reductions(graph: Graph) -> Iterator[Reduce]:
    return (n for n in topological(graph) if isinstance(n, Reduce))


def lifted(case: Case, graph: Graph, node: Reduce, field: int) -> Array:
    """What a reduction folds for this case: one field of the lift over all axes, flat."""
    dtype = node.monoid.fields[field].dtype
    points = Map(node.axes + node.over, node.lift[field], dtype)
    made = Graph("lifted", (("out", points, 0),), graph.inputs)
    values = evaluate(made, case.inputs, weights_of(made), Mode.F64)["out"].reshape(-1)
    return values.astype(np.bool_) if dtype is DType.BOOL else values


@pytest.mark.parametrize("name", MONOIDS)
def test_laws(name: str, for_all: ForAll) -> None:
    assert users(name), f"no operator of the standard library uses the monoid {name}"

    def check(case: Reached) -> None:
        with decimal.localcontext(DIGITS):
            a, b, c = (folded(case.monoid, g) for g in case.groups)
        assert broken_law(case.monoid, a, b, c) is None

    for_all(reached(name), check, 30, 0.1)


@pytest.mark.parametrize("name", MONOIDS)
def test_identity_is_finite_in_f32(name: str, for_all: ForAll) -> None:
    def check(case: Reached) -> None:
        none = identity(case.monoid, F32)
        both = combine(case.monoid, none, none, F32)
        for value, start in zip(both, none, strict=True):
            assert np.isfinite(value) and value == start, "combine(identity, identity)"
        for state in case.groups[0]:
            kinds = zip(state, case.monoid.fields, strict=True)
            held = [F32.hold(float(v), f.dtype) for v, f in kinds]
            for kept in (held, [enlarged(v) for v in held]):
                with np.errstate(over="ignore"):
                    made = combine(case.monoid, none, kept, F32)
                for value, start in zip(made, kept, strict=True):
                    assert value == start, "combine(identity, state)"

    for_all(reached(name), check, 5, 0.01)


def enlarged(value: Array) -> Array:
    """A float whose square overflows, if it is not zero."""
    return (
        np.clip(value * np.float64(1e30), -1e37, 1e37).astype(np.float32)
        if value.dtype.kind == "f"
        else value
    )


def test_a_wrong_monoid_is_caught() -> None:
    """Softmax statistics without the rescaling are not associative."""
    slots = [[Slot(side, f, DType.F32) for f in range(2)] for side in range(2)]
    (am, al), (bm, bl) = slots
    top = Apply("max", (am, bm))
    shifted = Apply("exp", (Apply("sub", (bm, top)),))
    wrong = Apply("add", (al, Apply("mul", (bl, shifted))))
    name = "softmax_stats"
    fields = next(
        n.monoid.fields for n in reductions(build_graph(softmax_case())) if n.monoid.name == name
    )
    monoid = Monoid("wrong", fields, (top, wrong))
    a, b = (Decimal(0), Decimal(1)), (Decimal(3), Decimal(1))
    broken = broken_law(monoid, a, b, b)
    assert broken is not None and broken.law == "combine(a, b) = combine(b, a)"


@pytest.mark.parametrize(
    ("start", "combine", "law"),
    [
        ("0", "a.v - b.v", "combine(identity, a) = a"),
        ("1", "a.v + b.v", "combine(identity, a) = a"),
        ("0", "a.v + b.v + a.v * a.v * b.v", "combine(a, b) = combine(b, a)"),
        ("0", "max(a.v, b.v) + min(a.v, b.v) / 2", "combine(combine(a, b), c)"),
        ("0", "a.v + b.v + a.v * b.v / (a.v - b.v)", "combine(a, b) = combine(b, a)"),
    ],
)
def test_check_finds_what_is_no_monoid(
    start: str, combine: str, law: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A monoid of a user's own that breaks a law is an error, with states at which it does; one
    that breaks none is not."""
    text = f"""
monoid own {{
  v: f32 = {start}
  combine(a, b) {{ v = a.v + b.v + 3 * a.v * b.v }}
}}
op folded(x: T[n]) -> T[] {{ out[] = reduce own over i < n of x[i] }}
"""
    file = tmp_path / "a.sdl"
    file.write_text(text.replace(f"= {start}", "= 0"))
    assert status_of(["check", str(file), "--set", "n=4"]) == 0
    file.write_text(text.replace("a.v + b.v + 3 * a.v * b.v", combine))
    for where in ([], ["--target", "cpu"]):
        capsys.readouterr()
        assert status_of(["check", str(file), "--set", "n=4", *where]) == 1
        said = capsys.readouterr().err
        assert "error[E051]: `own` is no monoid" in said and law in said
        assert "= left: v = " in said and "= right: v = " in said


def softmax_case() -> Case:
    text = "model m(x: f32[4]) -> f32[4] {\n  return softmax(x)\n}\n"
    return Case(text, (), DType.F32)
