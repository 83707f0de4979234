"""The step `Matrix`: what it makes of loops, what it is refused for, and that it computes the
definition for any instruction at any sizes, interpreted and legalised."""

from __future__ import annotations

from dataclasses import dataclass, replace

import hypothesis.strategies as st
import numpy as np
import pytest

from conftest import ForAll
from graphs import SUM, at, axes, read
from sdlc.backends.legalize import legalize
from sdlc.backends.target import load_target
from sdlc.graph.expr import ZERO, Index, Read, apply, i32
from sdlc.graph.node import Graph, Input, Map, Reduce, Role
from sdlc.graph.types import Array, DType, Origin
from sdlc.kernel.ir import Barrier, For, Load, statement_expressions, statements, walk
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_plan
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.nest import Bind, Kind, Matrix, Nest, Refused, Reorder, Step, Tile, initial
from sdlc.schedule.plan import Plan, plan
from sdlc.schedule.steps import apply as taken
from sdlc.schedule.steps import schedule
from sdlc.target import MatrixInstruction, Target
from test_matrix import SMALL, instructions

H, F = DType.F16, DType.F32
SIZES = st.sampled_from((1, 2, 3, 4, 5, 7, 8, 13, 16, 17))


def halves(name: str, *shape: int, role: Role = Role.INPUT) -> Input:
    return Input(name, shape, H, role, Origin(name, "test"))


def product_graph(m: int, k: int, n: int) -> Graph:
    """out = relu(x w^T + b), in halves."""
    i, c, o = axes(i=m, c=k, o=n)
    x, w, b = halves("x", m, k), halves("w", n, k), halves("b", n)
    lift = (apply("mul", read(x, i, c), read(w, o, c)),)
    y = Reduce((i, o), (c,), SUM, lift, (H,), Origin("y", "fc"))
    body = apply("max", apply("add", read(y, i, o), read(b, o)), ZERO)
    return Graph("product", (("out", Map((i, o), body, H, Origin("out", "fc")), 0),), (x, w, b))


def window_graph(channels: int, size: int, outputs: int) -> Graph:
    """A padded window of three, in halves."""
    b, o, x = axes(b=2, o=outputs, x=size)
    c, j = axes(c=channels, j=3)
    source, w = halves("x", 2, channels, size), halves("w", outputs, channels, 3)
    place = apply("sub", apply("add", Index(x), Index(j)), i32(1))
    inside = Read(source, (*at(b, c), place), 0, ZERO)
    lift = (apply("mul", inside, read(w, o, c, j)),)
    made = Reduce((b, o, x), (c, j), SUM, lift, (F,), Origin("y", "conv"))
    return Graph("window", (("y", made, 0),), (source, w))


def machine(of: MatrixInstruction) -> Target:
    target = load_target("nvidia")
    return replace(target, caps=replace(target.caps, matrix=(of,)))


@dataclass(frozen=True)
class Drawn:
    graph: Graph
    plan: Plan
    target: Target
    inputs: dict[str, Array]

    def __repr__(self) -> str:
        return "\n\n".join(map(str, (self.target.caps.matrix, *self.plan.kernels)))

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        printer.text(repr(self))  # type: ignore[attr-defined]


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    of = draw(instructions())
    if draw(st.booleans()):
        graph = product_graph(draw(SIZES), draw(SIZES), draw(SIZES))
        row, column, term = "i", "o", "c"
    else:
        graph = window_graph(draw(SIZES), draw(SIZES), draw(SIZES))
        row, column, term = draw(st.sampled_from(("x", "b"))), "o", "c"
    target = machine(of)
    made = plan(graph, target, enabled=frozenset({"inline_epilogue"}))
    kernels = [replace(k, group=k.base, planned=None) for k in made.kernels]
    steps = draw(some_steps(of, row, column, term))
    product = kernels[-1]
    nest = schedule(product.group, steps)
    kernels[-1] = replace(product, steps=steps, nest=nest)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    # Whole numbers: sums are exact in any order, so what is wrong is wrong by much.
    inputs = {i.name: rng.integers(-4, 5, i.shape).astype(np.float16) for i in graph.inputs}
    return Drawn(graph, replace(made, kernels=tuple(kernels)), target, inputs)


@st.composite
def some_steps(
    draw: st.DrawFn, of: MatrixInstruction, row: str, column: str, term: str
) -> tuple[Step, ...]:
    """Tiles of the instruction, some of them copies or other lanes; the rest over work-groups."""
    found: list[Step] = []
    for name, size in ((row, of.m), (column, of.n), (term, of.k)):
        more = draw(st.sampled_from((1, 2)))
        if more > 1:
            found += [
                Tile(name, more * size, f"{name}.more"),
                Tile(f"{name}.more", size, f"{name}.in"),
            ]
        else:
            found.append(Tile(name, size, f"{name}.in"))
        kinds = (
            (Kind.UNROLL, Kind.SERIAL) if name == term else (Kind.UNROLL, Kind.SERIAL, Kind.LANE)
        )
        kind = draw(st.sampled_from(kinds))
        if more > 1 and kind is not Kind.SERIAL:
            found.append(Bind(f"{name}.more", kind, 1))
    tiles = [(f"{n}.in",) for n in (row, column, term)]
    found.append(Matrix(tiles[0], tiles[1], tiles[2], of))
    found += [Bind(n, Kind.GROUP) for n in (row, column) if draw(st.booleans())]
    return tuple(found)


def test_matrix_nests_compute_the_definition(for_all: ForAll) -> None:
    def prove(each: Drawn) -> None:
        program = compile_plan(each.graph, each.plan, each.target, H)
        allowed = tolerance(each.graph, each.inputs, {})
        check(allowed, run_interpreted(program, each.inputs, {}), Numerics.REASSOCIATED)
        plain = replace(each.target.caps, matrix=(), f16_arithmetic=False)
        loops = run_interpreted(program, each.inputs, {}, lambda k: legalize(k, plain, "opencl"))
        check(allowed, loops, Numerics.REASSOCIATED)

    for_all(drawn(), prove, 25, 0.5)


# ---- the tactic


def gated_graph(m: int, k: int, n: int) -> Graph:
    """Two products of one left factor, which is computed as it is fetched."""
    i, c, o = axes(i=m, c=k, o=n)
    x, w, v = halves("x", m, k), halves("w", n, k), halves("v", n, k)
    positive = apply("max", read(x, i, c), ZERO)
    lifts = [apply("mul", positive, read(each, o, c)) for each in (w, v)]
    made = [
        Reduce((i, o), (c,), SUM, (lift,), (F,), Origin(name, "fc"))
        for lift, name in zip(lifts, ("y", "z"), strict=True)
    ]
    body = apply("mul", read(made[0], i, o), read(made[1], i, o))
    return Graph("gated", (("out", Map((i, o), body, F, Origin("out", "fc")), 0),), (x, w, v))


@st.composite
def compiled(draw: st.DrawFn) -> Drawn:
    of = draw(instructions())
    kind = draw(st.sampled_from((product_graph, gated_graph, window_graph)))
    sizes = [draw(st.integers(1, 40)) for _ in range(3)]
    graph = kind(*sizes)
    target = machine(of)
    profile = replace(target.profile, matrix=of.name, slice=draw(st.sampled_from((4, 8, 16))))
    target = replace(target, profile=profile)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    inputs = {i.name: rng.integers(-4, 5, i.shape).astype(np.float16) for i in graph.inputs}
    return Drawn(graph, plan(graph, target), target, inputs)


def test_contractions_by_instructions_compute_the_definition(for_all: ForAll) -> None:
    used = 0

    def prove(each: Drawn) -> None:
        nonlocal used
        used += any(k.nest.matrix is not None for k in each.plan.kernels)
        program = compile_plan(each.graph, each.plan, each.target, H)
        allowed = tolerance(each.graph, each.inputs, {})
        check(allowed, run_interpreted(program, each.inputs, {}), Numerics.REASSOCIATED)
        plain = replace(each.target.caps, matrix=(), f16_arithmetic=False)
        loops = run_interpreted(program, each.inputs, {}, lambda k: legalize(k, plain, "opencl"))
        check(allowed, loops, Numerics.REASSOCIATED)

    for_all(compiled(), prove, 25, 0.5)
    assert used > 5


def test_the_profile_switches_it() -> None:
    target = load_target("nvidia")
    graph = product_graph(256, 320, 128)
    assert plan(graph, target).kernels[0].nest.matrix is None
    name = target.caps.matrix[0].name
    made = plan(graph, replace(target, profile=replace(target.profile, matrix=name)))
    assert made.kernels[0].nest.matrix is not None
    other = plan(graph, replace(target, profile=replace(target.profile, matrix="none")))
    assert other.kernels[0].nest.matrix is None


def plane_graph(size: int, outputs: int) -> Graph:
    """A window of three over a plane, channels innermost."""
    o, y, x = axes(o=outputs, y=size, x=size)
    c, j = axes(c=64, j=3)
    source, w = halves("x", size, size + 2, 64), halves("w", outputs, 3, 64)
    place = apply("add", Index(x), Index(j))
    lift = (apply("mul", Read(source, (*at(y), place, *at(c)), 0, None), read(w, o, j, c)),)
    made = Reduce((y, x, o), (j, c), SUM, lift, (H,), Origin("y", "conv"))
    return Graph("plane", (("y", made, 0),), (source, w))


@pytest.mark.parametrize("outputs", [8, 64, 96, 112, 120])
def test_few_columns_waste_few_products(outputs: int) -> None:
    """However many rows there are; what is stored is proven to be free of races."""
    target = load_target("nvidia-matrix")
    made = plane_graph(256, outputs)
    chosen = plan(made, target)
    assert compile_plan(made, chosen, target, H).kernels
    nest = chosen.kernels[0].nest
    column = next(a for a in chosen.kernels[0].group.axes if a.name == "o")
    assert nest.matrix is not None and nest.covered(column) <= max(32, 1.25 * outputs)


@pytest.mark.parametrize("outputs", [40, 64])
def test_tiles_wider_than_the_columns_are_proven(
    outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were they taken: what guards leave of a tile of 128 columns belongs to one work-item each."""
    monkeypatch.setattr("sdlc.schedule.fragments.MOST_BEYOND", 0)
    target, made = load_target("nvidia-matrix"), plane_graph(256, outputs)
    chosen = plan(made, target)
    scheduled = chosen.kernels[0]
    column = next(a for a in scheduled.group.axes if a.name == "o")
    assert scheduled.nest.covered(column) == 128
    assert compile_plan(made, chosen, target, H).kernels


# ---- steps


def tiled(*steps: Step) -> tuple[Nest, object]:
    group = plan(product_graph(8, 6, 8), load_target("nvidia")).kernels[0].base
    nest = initial(group)
    for step in steps:
        nest = taken(nest, step, group)
    return nest, group


TILES = (Tile("i", 2, "i.in"), Tile("o", 2, "o.in"), Tile("c", 2, "c.in"))
WHOLE = Matrix(("i.in",), ("o.in",), ("c.in",), SMALL)
FRAGMENTS = (
    *(replace(tile, size=size) for tile, size in zip(TILES, (16, 8, 16), strict=True)),
    replace(WHOLE, instruction=load_target("nvidia").caps.matrix[0]),
)


def test_a_matrix_is_lanes_and_copies() -> None:
    nest, _ = tiled(*TILES, WHOLE)
    kinds = {lp.name: (lp.kind, lp.extent, lp.stride) for lp in nest.loops}
    assert kinds["i.in.0"] == (Kind.LANE, 2, 1)
    assert kinds["o.in.0"] == (Kind.UNROLL, 2, 1)
    assert kinds["c.in"] == (Kind.MATRIX, 2, 1)
    assert "matrix c.in < 2" in str(nest)


def test_rows_may_be_several_loops() -> None:
    of = load_target("nvidia").caps.matrix[0]
    group = plan(product_graph(64, 64, 64), load_target("nvidia")).kernels[0].base
    nest = initial(group)
    tiles = (
        Tile("i", 16, "i.a"),
        Tile("i.a", 4, "i.b"),
        Tile("o", 8, "o.in"),
        Tile("c", 16, "c.in"),
    )
    for step in (*tiles, Matrix(("i.a", "i.b"), ("o.in",), ("c.in",), of)):
        nest = taken(nest, step, group)
    assert nest.size(Kind.LANE, 0) == 32
    assert nest.is_exact(group.axes[0]) and nest.covered(group.axes[0]) == 64


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ((WHOLE,), "there is no loop `i.in`"),
        ((*TILES, replace(WHOLE, rows=("o.in",), columns=("i.in",))), "none of M"),
        ((*TILES, replace(WHOLE, rows=("i",))), "has 2 rows"),
        ((*TILES, Bind("i.in", Kind.UNROLL), WHOLE), "is bound already"),
        ((*TILES, WHOLE, replace(WHOLE, rows=("i",))), "there is no loop `o.in`"),
        ((*TILES, Bind("o", Kind.VECTOR), WHOLE), "consecutive"),
        ((*TILES, Bind("o", Kind.LANE), WHOLE), "dimension 0 of the lanes"),
        ((*TILES, WHOLE, Bind("o", Kind.LANE)), "dimension 0 of the lanes"),
        ((*TILES, WHOLE, Bind("i", Kind.VECTOR)), "or a matrix instruction"),
        ((*FRAGMENTS, Reorder(("o.in.0", "i.in.0"))), "in which order"),
        ((*FRAGMENTS, Reorder(("o.in.1", "i.in.1"))), "in which order"),
        ((Bind("c", Kind.MATRIX),), "bound together"),
        ((*TILES, replace(WHOLE, instruction=replace(SMALL, inputs="f32"))), "value of f32"),
    ],
)
def test_refusals_say_why(steps: tuple[Step, ...], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        tiled(*steps)
    assert reason in caught.value.reason


def joined_graph(m: int, k: tuple[int, int], n: int) -> Graph:
    """out = (x, y) w^T + r, the factors of x and y side by side along K."""
    i, o, c = axes(i=m, o=n, c=sum(k))
    x, y, w, r = (
        halves("x", m, k[0]),
        halves("y", m, k[1]),
        halves("w", n, sum(k)),
        halves("r", m, n),
    )
    behind = apply("sub", Index(c), i32(k[0]))
    either = Read(x, at(i, c), 0, Read(y, (*at(i), behind), 0, ZERO))
    made = Reduce((i, o), (c,), SUM, (apply("mul", either, read(w, o, c)),), (F,), Origin("s", "p"))
    body = apply("add", read(made, i, o), read(r, i, o))
    return Graph("joined", (("out", Map((i, o), body, H, Origin("out", "p")), 0),), (x, y, w, r))


@pytest.mark.parametrize("columns", [40, 80, 72])
def test_borders_of_whole_vectors_are_asked_once(columns: int) -> None:
    """Parts of K take vectors of one tensor or the other; columns beyond the last are whole
    fragments, so neighbours are pairs; what is added is loaded behind the sums."""
    made = joined_graph(64, (96, 64), columns)
    target = load_target("nvidia-matrix")
    target = replace(target, profile=replace(target.profile, groups=1))
    program = compile_plan(made, plan(made, target), target, H)
    (kernel,) = (k for k in program.kernels.values() if k.nest.count("matrix"))
    loads = [e for s in statements(kernel.body) for e in walk(*statement_expressions(s))]
    wide = {(e.buffer.name, e.lanes) for e in loads if isinstance(e, Load)}
    assert {lanes for name, lanes in wide if name in ("x", "y", "w")} == {8}
    assert {lanes for name, lanes in wide if name == "r"} <= {2}
    rng = np.random.default_rng(0)
    inputs = {i.name: rng.integers(-4, 5, i.shape).astype(np.float16) for i in made.inputs}
    check(tolerance(made, inputs, {}), run_interpreted(program, inputs, {}), Numerics.REASSOCIATED)


@pytest.mark.parametrize(("k", "room"), [(256, 0), (320, 0), (320, 36000), (192, 0)])
def test_two_slices_are_under_way(k: int, room: int) -> None:
    """Passes two by two, and one more where they are odd: one barrier each where local memory has
    room for both slices, two where it has not; too few passes stay as they are."""
    made, target = product_graph(64, k, 64), load_target("nvidia-matrix")
    caps = replace(target.caps, local_bytes=target.caps.local_bytes - room)
    target = replace(target, caps=caps)
    program = compile_plan(made, plan(made, target), target, H)
    (kernel,) = program.kernels.values()
    (loop,) = (s for s in statements(kernel.body) if isinstance(s, For))
    ring = k >= 256
    assert loop.extent == k // 64 // (2 if ring else 1)
    arrays = sum(a.name.startswith("left") for a in kernel.arrays)
    assert arrays == (2 if ring and not room else 1)
    barriers = sum(isinstance(s, Barrier) for s in statements(loop.body))
    assert barriers == (4 if ring and room else 2)
    rng = np.random.default_rng(0)
    inputs = {i.name: rng.integers(-4, 5, i.shape).astype(np.float16) for i in made.inputs}
    check(tolerance(made, inputs, {}), run_interpreted(program, inputs, {}), Numerics.REASSOCIATED)


def test_parts_of_products_are_whole_slices() -> None:
    """1280 terms in ten parts of two slices of 64, not in sixteen of five of 16."""
    target = load_target("nvidia-matrix")
    found = plan(product_graph(128, 11520, 1280), target)
    parts = [k.group for k in found.kernels if any(a.name.endswith(".part") for a in k.group.axes)]
    assert parts and all(g.over[0].extent % 64 == 0 for g in parts)


def test_loops_around_slices_are_one() -> None:
    """Beside an instruction the first slice of the next run of the innermost loop is loaded in
    time; without one, each loop stays."""
    made = plane_graph(16, 64)
    target = load_target("nvidia-matrix")
    program = compile_plan(made, plan(made, target), target, H)
    (kernel,) = program.kernels.values()
    (loop,) = (s for s in statements(kernel.body) if isinstance(s, For))
    assert loop.extent == 3 and not any(isinstance(s, For) for s in loop.body)
    rng = np.random.default_rng(0)
    inputs = {i.name: rng.integers(-4, 5, i.shape).astype(np.float16) for i in made.inputs}
    check(tolerance(made, inputs, {}), run_interpreted(program, inputs, {}), Numerics.REASSOCIATED)
    plain = load_target("nvidia")
    other = compile_plan(made, plan(made, plain), plain, H)
    outer = [s for k in other.kernels.values() for s in k.body if isinstance(s, For)]
    assert any(isinstance(s, For) for loop in outer for s in loop.body)
