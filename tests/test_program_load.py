"""Load-time programs: what depends only on weights is computed once, where the runs read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from conftest import ForAll
from graphs import SUM, axes, read, weight
from graphs import given as given_input
from sdlc.backends.target import load_target
from sdlc.graph.expr import apply
from sdlc.graph.hoist import MARK, hoist, reading
from sdlc.graph.node import Const, Graph, Input, Map, Node, Reduce, Role, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import Array, DType, Origin
from sdlc.language.diagnostics import SdlError
from sdlc.program.device import Launch
from sdlc.program.execute import Executable
from sdlc.program.interpreted import HOST_CAPABILITIES, InterpreterDevice, run_interpreted
from sdlc.program.load import fitting
from sdlc.program.memory import LOAD, conflicts, lifetimes_of
from sdlc.program.pipeline import compile_graph, compile_hoisted, compile_plan
from sdlc.program.program import Program, TensorRole
from sdlc.proof.tolerance import Numerics, check, mode_of, tolerance
from sdlc.schedule.plan import plan
from sdlc.schedule.storage import Block
from stages import device
from strategies import Case, build_graph, cases, weights_of

F = DType.F32
Arrays = dict[str, Array]


# ---- graphs --------------------------------------------------------------------------------------


def scaled_matmul(rows: int, inner: int, columns: int, layers: int = 1) -> Graph:
    """x (s w), `layers` times: a product of weights in the right factor."""
    x = given_input("x", rows, inner)
    found: Node = x
    for layer in range(layers):
        scope = f"layers.{layer}"
        i, k, n = axes(i=rows, k=inner, n=columns)
        w, s = weight(f"{scope}.w", inner, columns), weight(f"{scope}.s", inner)
        product = apply("mul", read(w, k, n), read(s, k))
        scaled = Map((k, n), product, F, Origin("scaled", "test", scope=scope))
        lift = apply("mul", read(found, i, k), read(scaled, k, n))
        found = Reduce((i, n), (k,), SUM, (lift,), (F,), Origin("y", "test", scope=scope))
    return Graph("scaled", (("out", found, 0),), (x,))


def hoisted_names(graph: Graph) -> list[str]:
    return [w.name for w in hoist(graph).weights.values()]


def nodes(graph: Graph | None) -> list[Node]:
    return [] if graph is None else list(topological(graph))


# ---- what is hoisted -----------------------------------------------------------------------------


def test_what_depends_on_weights_is_a_weight_of_the_run() -> None:
    parts = hoist(scaled_matmul(4, 5, 6, layers=2))
    assert [w.name for w in parts.weights.values()] == [
        "~layers.0.test.scaled",
        "~layers.1.test.scaled",
    ]
    assert parts.load is not None and parts.load.inputs == ()
    assert {n.name for n in nodes(parts.run) if isinstance(n, Input)} == {
        "x",
        "~layers.0.test.scaled",
        "~layers.1.test.scaled",
    }
    raw = {n.name for n in nodes(parts.load) if isinstance(n, Input)}
    assert raw == {"layers.0.w", "layers.0.s", "layers.1.w", "layers.1.s"}


def test_names_are_unique_and_begin_with_a_mark() -> None:
    """Two values of one name in one scope, and a weight that is named like a hoisted one."""
    j, i = axes(j=7, i=40)
    x, w = given_input("x", 40, 7), weight("w", 7)
    odd = weight("~test.h", 7)
    first, second = (
        Map((j,), apply(op, read(w, j)), F, Origin("h", "test")) for op in ("exp", "sqrt")
    )
    terms = apply("add", read(first, j), apply("add", read(second, j), read(odd, j)))
    out = Map((i, j), apply("mul", read(x, i, j), terms), F, Origin("out", "test"))
    names = hoisted_names(Graph("two", (("out", out, 0),), (x,)))
    assert sorted(names) == ["~test.h_2", "~test.h_3"] and all(n.startswith(MARK) for n in names)


def test_a_view_of_a_weight_is_not_stored_twice() -> None:
    i, k, n = axes(i=4, k=5, n=6)
    x, w = given_input("x", 4, 5), weight("w", 6, 5)
    turned = Map((k, n), read(w, n, k), F, Origin("t", "test"))
    lift = apply("mul", read(x, i, k), read(turned, k, n))
    out = Reduce((i, n), (k,), SUM, (lift,), (F,), Origin("out", "test"))
    graph = Graph("view", (("out", out, 0),), (x,))
    assert hoist(graph).load is None and hoist(graph).run is graph


def test_what_is_beneath_a_view_is_hoisted() -> None:
    k, n, i = axes(k=5, n=6, i=4)
    x, w = given_input("x", 4, 5), weight("w", 6, 5)
    root = Map((n, k), apply("exp", read(w, n, k)), F, Origin("root", "test"))
    turned = Map((k, n), read(root, n, k), F, Origin("t", "test"))
    lift = apply("mul", read(x, i, k), read(turned, k, n))
    out = Reduce((i, n), (k,), SUM, (lift,), (F,), Origin("out", "test"))
    assert hoisted_names(Graph("view", (("out", out, 0),), (x,))) == ["~test.root"]


def broadcast(extent: int) -> Graph:
    """out[i, j] = x[i, j] + (exp(w[j]) over i), the second computed as a map of [i, j]."""
    i, j = axes(i=extent, j=7)
    x, w = given_input("x", extent, 7), weight("w", 7)
    wide = Map((i, j), apply("exp", read(w, j)), F, Origin("wide", "test"))
    body = apply("add", read(x, i, j), read(wide, i, j))
    return Graph("broadcast", (("out", Map((i, j), body, F, Origin("out", "test")), 0),), (x,))


def test_a_broadcast_is_computed_where_it_is_read() -> None:
    assert hoisted_names(broadcast(40)) == []
    assert hoisted_names(broadcast(10000)) == []


def test_a_large_broadcast_is_not_stored_though_it_is_read_twice() -> None:
    i, j = axes(i=10000, j=7)
    x, w = given_input("x", 10000, 7), weight("w", 7)
    wide = Map((i, j), apply("exp", read(w, j)), F, Origin("wide", "test"))
    outputs = tuple(
        (op, Map((i, j), apply(op, read(x, i, j), read(wide, i, j)), F, Origin(op, "test")), 0)
        for op in ("add", "mul")
    )
    assert hoisted_names(Graph("wide", outputs, (x,))) == []


def test_sums_of_weights_are_hoisted_with_what_they_read() -> None:
    """A reduction, and constants: a transform of a weight by a constant matrix."""
    a, k, n, i = axes(a=4, k=3, n=6, i=2)
    x, w = given_input("x", 2, 4), weight("conv.w", 3, 6)
    g = Const(np.arange(12, dtype=np.float32).tobytes(), (4, 3), F)
    lift = apply("mul", read(g, a, k), read(w, k, n))
    u = Reduce((a, n), (k,), SUM, (lift,), (F,), Origin("u", "test", scope="conv"))
    lift = apply("mul", read(x, i, a), read(u, a, n))
    out = Reduce((i, n), (a,), SUM, (lift,), (F,), Origin("out", "test"))
    parts = hoist(Graph("transform", (("out", out, 0),), (x,)))
    assert [w.name for w in parts.weights.values()] == ["~conv.test.u"]
    assert not any(isinstance(n, Const) for n in nodes(parts.run))


def test_results_are_computed_at_each_run() -> None:
    (j,) = axes(j=7)
    w = weight("w", 7)
    inner = Map((j,), apply("exp", read(w, j)), F, Origin("h", "test"))
    outer = Map((j,), apply("sqrt", read(inner, j)), F, Origin("out", "test"))
    graph = Graph("static", (("h", inner, 0), ("out", outer, 0)), ())
    assert hoist(graph).run is graph


def test_a_result_that_runs_read_is_written_at_each_run() -> None:
    i, j = axes(i=40, j=7)
    x, w = given_input("x", 40, 7), weight("w", 7)
    inner = Map((j,), apply("exp", read(w, j)), F, Origin("h", "test"))
    outer = Map((i, j), apply("mul", read(x, i, j), read(inner, j)), F, Origin("out", "test"))
    graph = Graph("both", (("h", inner, 0), ("out", outer, 0)), (x,))
    assert hoist(graph).run is graph
    inputs, weights = arrays_of(graph)
    program = compile_graph(graph, load_target("cpu"))
    assert_right(graph, inputs, weights, run_interpreted(program, inputs, weights), "result")


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(cases(), st.data())
def test_only_what_no_input_reaches_is_hoisted(case: Case, data: st.DataObject) -> None:
    """And the load graph before the run graph means the graph, exactly."""
    graph, _ = with_weights(case, data.draw)
    parts = hoist(graph)
    assert not any(isinstance(n, Input) and n.role is Role.INPUT for n in nodes(parts.load))
    assert parts.run.inputs == graph.inputs
    inputs = {i.name: case.inputs[i.name] for i in graph.inputs}
    weights = weights_of(graph)
    mode = mode_of(graph)
    made = {} if parts.load is None else dict(evaluate(parts.load, {}, weights, mode))
    whole = evaluate(graph, inputs, weights, mode)
    for name, value in evaluate(parts.run, inputs, weights | made, mode).items():
        np.testing.assert_array_equal(value, whole[name])


def with_weights(case: Case, draw: Callable[[st.SearchStrategy[bool]], bool]) -> tuple[Graph, int]:
    """A drawn program some of whose inputs are weights, and how many."""
    graph = build_graph(case)
    chosen = [i for i in graph.inputs if draw(st.booleans())]
    weights = {(i, 0): Input(f"given.{i.name}", i.shape, i.dtype, Role.WEIGHT) for i in chosen}
    made = reading(graph, list(topological(graph)), weights)
    return replace(made, inputs=tuple(i for i in graph.inputs if i not in chosen)), len(chosen)


# ---- what is computed ----------------------------------------------------------------------------


def arrays_of(graph: Graph, seed: int = 0) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(seed)
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in graph.inputs}
    return inputs, weights_of(graph)


def assert_right(graph: Graph, inputs: Arrays, weights: Arrays, got: Arrays, who: str) -> None:
    check(tolerance(graph, inputs, weights), got, Numerics.REASSOCIATED, who)


@pytest.mark.parametrize("target", ["cpu", "nvidia", "adreno"])
def test_random_programs_are_the_same_with_and_without(target: str, for_all: ForAll) -> None:
    chosen = load_target(target)

    @st.composite
    def drawn(draw: st.DrawFn) -> tuple[Case, Graph]:
        case = draw(cases())
        return case, with_weights(case, draw)[0]

    def same(pair: tuple[Case, Graph]) -> None:
        case, graph = pair
        inputs = {i.name: case.inputs[i.name] for i in graph.inputs}
        weights = weights_of(graph)
        hoisted = compile_graph(graph, chosen)
        plain = compile_plan(graph, plan(graph, chosen), chosen)
        assert plain.load is None
        for who, program in (("not hoisted", plain), ("hoisted", hoisted)):
            got = run_interpreted(program, inputs, weights)
            assert_right(graph, inputs, weights, got, who)

    for_all(drawn(), same, 20, 0.1)


@pytest.mark.parametrize("selector", ["cpu", "llvmpipe"])
def test_devices_compute_what_is_hoisted(selector: str) -> None:
    graph = scaled_matmul(9, 17, 17, layers=3)
    inputs, weights = arrays_of(graph)
    program = compile_graph(graph, load_target(selector))
    assert program.load is not None
    executable = Executable(program, device(selector), weights)
    for _ in range(2):
        assert_right(graph, inputs, weights, executable.run(inputs), selector)


class Counting(InterpreterDevice):
    """Counts launches, and the bytes that are allocated and read back."""

    launches = 0
    reads = 0
    allocated: tuple[int, ...] = ()

    def record(self, built: object, launches: Sequence[Launch]) -> object:
        made = super().record(built, launches)  # type: ignore[arg-type]
        return list(made)

    def submit(self, recording: Sequence[object]) -> None:
        self.launches += len(recording)
        super().submit(recording)

    def read(self, memory: object, offset: int, nbytes: int) -> bytes:
        self.reads += 1
        return super().read(memory, offset, nbytes)  # type: ignore[arg-type]

    def allocate(self, nbytes: int) -> object:  # type: ignore[override]
        self.allocated = (*self.allocated, nbytes)
        return super().allocate(nbytes)


def test_the_load_program_runs_once_and_on_the_device() -> None:
    graph = scaled_matmul(4, 5, 5, layers=2)
    inputs, weights = arrays_of(graph)
    program, host = compile_graph(graph, load_target("cpu")), Counting()
    executable = Executable(program, host, weights)
    assert program.load is not None and len(program.load.dispatches) == 2
    assert (host.launches, host.reads) == (2, 0)
    for runs in (1, 2):
        executable.run(inputs)
        assert host.launches == 2 + 2 * runs


@pytest.mark.parametrize(
    ("name", "order", "block"), [("cpu", (0, 1), Block(0, 32)), ("nvidia", (1, 0), None)]
)
def test_what_is_hoisted_is_stored_as_the_runs_read_it(
    name: str, order: tuple[int, ...], block: Block | None
) -> None:
    """A weight [o][k] whose reader wants o innermost, on a CPU in blocks: the load program writes
    it so."""
    i, k, n = axes(i=8, k=24, n=64)
    x, w = given_input("x", 8, 24), weight("w", 64, 24)
    root = Map((n, k), apply("exp", read(w, n, k)), F, Origin("root", "test"))
    lift = apply("mul", read(x, i, k), read(root, n, k))
    out = Reduce((i, n), (k,), SUM, (lift,), (F,), Origin("out", "test"))
    graph = Graph("order", (("out", out, 0),), (x,))
    program = compile_graph(graph, load_target(name))
    assert program.load is not None
    run, load = program.tensors["~test.root"], program.load.tensors["~test.root"]
    assert run.order == load.order == order and run.block == load.block == block
    inputs, weights = arrays_of(graph)
    assert_right(graph, inputs, weights, run_interpreted(program, inputs, weights), "order")


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1), st.integers(1, 33), st.sampled_from(("cpu", "nvidia")))
def test_what_is_hoisted_may_be_stored_in_blocks(axis: int, size: int, name: str) -> None:
    graph, target = scaled_matmul(4, 9, 17), load_target(name)
    parts = hoist(graph)
    made = {(w, 0): Block(axis, size) for w in parts.weights.values()}
    program = compile_hoisted(parts, replace(plan(parts.run, target), blocks=made), target)
    assert program.load is not None
    assert program.load.tensors["~layers.0.test.scaled"].block == Block(axis, size)
    inputs, weights = arrays_of(graph)
    assert_right(graph, inputs, weights, run_interpreted(program, inputs, weights), "blocks")


def test_padding_of_what_is_hoisted_is_zero() -> None:
    """Memory of the interpreter begins as NaN: what nobody wrote would show."""
    graph, target = scaled_matmul(4, 9, 17), load_target("cpu")
    parts = hoist(graph)
    made = {(w, 0): Block(1, 8) for w in parts.weights.values()}
    program = compile_hoisted(parts, replace(plan(parts.run, target), blocks=made), target)
    _, weights = arrays_of(graph)
    executable = Executable(program, InterpreterDevice(), weights)
    place = executable.places["~layers.0.test.scaled"]
    held = np.frombuffer(executable.device.read(place.memory, place.offset, place.nbytes), "f4")
    expected = weights["layers.0.w"] * weights["layers.0.s"][:, None]
    assert held.size == 9 * 24 and np.count_nonzero(held) == np.count_nonzero(expected)


# ---- memory --------------------------------------------------------------------------------------


def test_weights_count_what_stays() -> None:
    program = compile_graph(scaled_matmul(4, 16, 16, layers=3), load_target("cpu"))
    assert program.memory.weights == 3 * 16 * 16 * 4
    assert not {t.weight for t in program.tensors.values()} & {
        t.weight for t in program.raw_weights
    }


def test_a_weight_that_runs_read_too_stays_and_is_given_once() -> None:
    i, j = axes(i=40, j=8)
    x, w = given_input("x", 40, 8), weight("w", 8)
    root = Map((j,), apply("exp", read(w, j)), F, Origin("root", "test"))
    body = apply("mul", apply("add", read(x, i, j), read(w, j)), read(root, j))
    graph = Graph("both", (("out", Map((i, j), body, F, Origin("out", "test")), 0),), (x,))
    program = compile_graph(graph, load_target("cpu"))
    assert [t.weight for t in program.raw_weights] == ["w"]
    assert program.memory.weights == 2 * 8 * 4
    inputs, weights = arrays_of(graph)
    assert_right(graph, inputs, weights, run_interpreted(program, inputs, weights), "both")


def test_loading_needs_the_memory_of_one_layer_at_a_time() -> None:
    one, many = (
        compile_graph(scaled_matmul(4, 16, 16, layers=n), load_target("cpu")).load for n in (1, 8)
    )
    assert one is not None and many is not None
    assert many.memory.arena == one.memory.arena
    assert many.memory.naive == 8 * one.memory.naive


def test_the_arena_of_loading_is_the_largest_memory_beside_the_weights() -> None:
    graph, host = scaled_matmul(4, 16, 16, layers=8), Counting()
    program = compile_graph(graph, load_target("cpu"))
    assert program.load is not None
    Executable(program, host, weights_of(graph))
    pool, arena = host.allocated[:2]
    assert pool == program.memory.weights and arena == program.load.memory.arena


def test_devices_of_coarser_alignment_load_too() -> None:
    """The arena of loading is laid out anew."""
    graph = scaled_matmul(3, 7, 7, layers=2)
    inputs, weights = arrays_of(graph)
    coarse = InterpreterDevice(replace(HOST_CAPABILITIES, offset_alignment=1024))
    executable = Executable(compile_graph(graph, load_target("cpu")), coarse, weights)
    load = executable.program.load
    assert load is not None and max(t.offset for t in load.tensors.values()) == 1024
    assert all(t.offset % 1024 == 0 for t in load.tensors.values())
    assert_right(graph, inputs, weights, executable.run(inputs), "coarse")


def load_programs() -> list[Program]:
    graphs = [scaled_matmul(3, 7, 7, layers=n) for n in (1, 2, 5)]
    targets = [load_target(name) for name in ("cpu", "nvidia", "adreno")]
    found = [compile_graph(g, t).load for g in graphs for t in targets]
    return [p for p in found if p is not None]


def test_what_loading_still_needs_is_not_overwritten() -> None:
    for program in load_programs():
        lives = lifetimes_of(program.tensors, program.dispatches, LOAD)
        assert {t.name for t in lives} == {
            t.name for t in program.tensors.values() if t.role is not TensorRole.OUTPUT
        }
        offsets = {life.name: program.tensors[life.name].offset for life in lives}
        assert not conflicts(lives, offsets)
        assert program.inputs == () and program.load is None


def test_kernels_of_both_programs_have_names_of_their_own() -> None:
    program = compile_graph(scaled_matmul(3, 7, 7, layers=2), load_target("cpu"))
    names = [kernel.name for kernel in program.all_kernels]
    assert len(set(names)) == len(names)
    assert program.load is not None
    assert {d.kernel for d in program.load.dispatches} == set(program.load.kernels)


# ---- what is given -------------------------------------------------------------------------------


def test_missing_raw_weights_are_named_and_hoisted_ones_never_asked_for() -> None:
    graph = scaled_matmul(4, 5, 5, layers=2)
    inputs, weights = arrays_of(graph)
    del weights["layers.0.s"], weights["layers.1.w"]
    program = compile_graph(graph, load_target("cpu"))
    for attempt in (
        lambda: run_interpreted(program, inputs, weights),
        lambda: list(fitting(program, weights)),
    ):
        with pytest.raises(SdlError) as caught:
            attempt()
        text = str(caught.value)
        assert "`layers.0.s` is missing" in text and "`layers.1.w` is missing" in text
        assert text.count("P001") == 2 and MARK not in text


def test_nothing_is_launched_on_weights_that_do_not_fit() -> None:
    graph = scaled_matmul(4, 5, 5)
    _, weights = arrays_of(graph)
    weights["layers.0.w"] = np.zeros((5, 6), np.float32)
    host = Counting()
    with pytest.raises(SdlError, match="P002"):
        Executable(compile_graph(graph, load_target("cpu")), host, weights)
    assert host.launches == 0


def test_what_was_computed_before_is_taken_as_it_is() -> None:
    graph = scaled_matmul(4, 5, 5)
    inputs, weights = arrays_of(graph)
    load = hoist(graph).load
    assert load is not None
    prepared = dict(evaluate(load, {}, weights, Mode.F32))
    host = Counting()
    executable = Executable(compile_graph(graph, load_target("cpu")), host, prepared)
    assert host.launches == 0 and executable.program.load is None
    assert_right(graph, inputs, weights, executable.run(inputs), "prepared")


def test_what_was_computed_in_part_is_computed_again() -> None:
    graph = scaled_matmul(4, 5, 5, layers=2)
    inputs, weights = arrays_of(graph)
    wrong = {"~layers.0.test.scaled": np.zeros((5, 5), np.float32)}
    program = compile_graph(graph, load_target("cpu"))
    got = run_interpreted(program, inputs, weights | wrong)
    assert_right(graph, inputs, weights, got, "in part")
