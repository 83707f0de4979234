"""What expressions know of themselves is what one finds by looking at every part of them; the quick
ways to copy and simplify give what the slow ones give."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from graphs import axes, given
from sdlc.graph import expr as g
from sdlc.graph.types import DType
from sdlc.kernel.intervals import Bounds
from sdlc.kernel.ir import (
    F32,
    I32,
    Buffer,
    Call,
    Cast,
    Expr,
    Extract,
    Literal,
    Load,
    Type,
    Var,
    Vector,
    WorkId,
    call,
    f32,
    i32,
    operands,
    walk,
)
from sdlc.kernel.linear import Linear, linear
from sdlc.kernel.simplify import Simplifier, simplify
from sdlc.kernel.simplify_forms import Order
from sdlc.kernel.vectorize import Copies, replaced
from test_kernel_simplify import INTEGERS, RANGES, VARIABLES, X

POINTS = st.dictionaries(st.sampled_from(VARIABLES), st.integers(-3, 9).map(i32), max_size=3)


def slowly(expr: Expr) -> Linear:
    """The linear form by its definition: operand by operand, remembering nothing."""
    terms: dict[Expr, int] = {}
    constant = 0
    sides = [slowly(o) for o in expr.args] if isinstance(expr, Call) and expr.type is I32 else []
    match expr:
        case Literal(type=kind) if kind is I32:
            return {}, int(expr.value)
        case Call(op="add" | "sub") if sides:
            factors = (1, 1 if expr.op == "add" else -1)
        case Call(op="neg") if sides:
            factors = (-1,)
        case Call(op="mul") if sides and not all(side[0] for side in sides):
            known, other = sides if not sides[0][0] else reversed(sides)
            sides, factors = [other], (known[1],)
        case _:
            return {expr: 1}, 0
    for factor, side in zip(factors, sides, strict=True):
        constant += factor * side[1]
        for atom, coefficient in side[0].items():
            terms[atom] = terms.get(atom, 0) + factor * coefficient
    return {a: c for a, c in terms.items() if c}, constant


@settings(max_examples=200, deadline=None)
@for_all(INTEGERS)
def test_integers_know_their_form_and_variables(expr: Expr) -> None:
    for e in walk(expr):
        assert linear(e) == slowly(e)
        assert e.variables == {v for v in walk(e) if isinstance(v, (Var, WorkId))}
        assert operands(e) == e.operands


def test_every_kind_knows_its_type_operands_and_variables() -> None:
    lane, buffer = WorkId("lane", 0), Buffer("x", DType.F16, 64)
    load = Load(buffer, call("add", lane, X), 4)
    wide = Cast(load, DType.F32)
    parts = (Extract(wide, 1), f32(2.0))
    vector = Vector(parts)
    assert load.type is Type(DType.F16, 4) and wide.type is Type(DType.F32, 4)
    assert vector.type is Type(DType.F32, 2) and Extract(wide, 0, 2).type is vector.type
    assert call("mul", vector, f32(1.0)).type is vector.type and parts[0].type is F32
    assert call("lt", X, lane).type is Type(DType.BOOL)
    assert vector.operands == parts and wide.operands == (load,) and parts[0].operands == (wide,)
    assert vector.variables == load.variables == {X, lane} and f32(2.0).variables == frozenset()
    assert load.form is None and i32(3).form == ({}, 3) and f32(3.0).form is None


@settings(max_examples=200, deadline=None)
@for_all(INTEGERS, POINTS)
def test_copies_are_replacements(expr: Expr, point: dict[Expr, Expr]) -> None:
    copies = Copies()
    assert copies.at(expr, {}) is expr
    for values in (point, {**point, X: i32(7)}, point):
        assert copies.at(expr, values) is replaced(expr, values)


@settings(max_examples=200, deadline=None)
@for_all(INTEGERS, st.dictionaries(st.sampled_from(VARIABLES), st.integers(0, 9)))
def test_a_shifted_sum_is_the_sum_at_these_numbers(expr: Expr, given: dict[Expr, int]) -> None:
    simplifier, numbers = Simplifier(Bounds(RANGES)), {v: i32(n) for v, n in given.items()}
    for e in walk(simplifier.visit(expr)):
        made = simplifier.shifted(e, numbers)
        assert made is None or made is simplify(replaced(e, numbers), RANGES)


@settings(max_examples=100, deadline=None)
@for_all(st.dictionaries(st.sampled_from(VARIABLES), st.integers(-3, 3), min_size=1), st.data())
def test_sums_that_differ_by_a_constant_are_written_as_if_alone(
    terms: dict[Expr, int], data: st.DataObject
) -> None:
    kept, order = {a: c for a, c in terms.items() if c}, Order()
    for constant in data.draw(st.lists(st.integers(-5, 5), min_size=2, max_size=4)):
        made = order.sum_of((kept, constant))
        assert made is Order().sum_of((kept, constant)) and linear(made) == (kept, constant)


# ---- expressions of the graph --------------------------------------------------------------------

ROW, COLUMN = axes(row=4, column=4)
SOURCES = (given("x", 4), given("y", 4))


def grow(inner: st.SearchStrategy[g.Expr]) -> st.SearchStrategy[g.Expr]:
    index = inner.map(lambda e: e if e.dtype is DType.I32 else g.Apply("i32", (e,)))
    number = inner.map(lambda e: e if e.dtype is DType.F32 else g.Apply("f32", (e,)))
    fill = st.one_of(st.none(), number)
    return st.one_of(
        st.builds(lambda a, b: g.apply("add", a, b), number, number),
        st.builds(lambda s, i, f: g.Read(s, (i,), 0, f), st.sampled_from(SOURCES), index, fill),
    )


SCALARS = st.recursive(
    st.sampled_from([g.Index(ROW), g.Index(COLUMN), g.f32(1.0), g.i32(2)]), grow, max_leaves=10
)


@settings(max_examples=200, deadline=None)
@for_all(st.lists(SCALARS, min_size=1, max_size=3))
def test_scalars_know_their_reads_and_axes(exprs: list[g.Expr]) -> None:
    assert g.reads_of(*exprs) == tuple(e for e in g.walk(*exprs) if isinstance(e, g.Read))
    assert g.axes_of(*exprs) == {e.axis for e in g.walk(*exprs) if isinstance(e, g.Index)}


# ---- interning -----------------------------------------------------------------------------------


def test_equal_numbers_of_different_types_are_different_literals() -> None:
    made = [Literal(v, F32) for v in (1, 1.0, True, 0.0, -0.0)]
    assert len({id(e) for e in made}) == 5
    assert Literal(value=1.0, type=F32) is Literal(1.0, F32)
    assert Type(DType.F32) is Type(DType.F32, 1) is Type(dtype=DType.F32, lanes=1)


@pytest.mark.parametrize("number", [10**6, 10**6 + 1])
def test_what_nobody_holds_is_forgotten(number: int) -> None:
    def entries() -> int:
        gc.collect()
        return len(Call._table)

    before = entries()
    made = call("add", X, Literal(number, I32))
    assert entries() == before + 1 and call("add", X, Literal(number, I32)) is made
    del made
    assert entries() == before
