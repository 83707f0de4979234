"""Results in the place of an operand: where it is done, where not, and that nobody can tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import ForAll
from graphs import SUM, axes, read, weight
from graphs import given as given_input
from program_samples import tensor
from sdlc.api_texts import target_texts
from sdlc.backends.target import load_target
from sdlc.graph.expr import ZERO, Expr, Index, Read, apply, i32
from sdlc.graph.mechanisms import MECHANISMS
from sdlc.graph.node import Graph, Map, Node, Reduce
from sdlc.graph.types import Array, DType, Origin
from sdlc.kernel import ir as k
from sdlc.kernel.interpret import Trap, interpret
from sdlc.kernel.overlay import overlaid, overlapping
from sdlc.kernel.verify import KernelError, verify
from sdlc.language.diagnostics import SdlError
from sdlc.program import inplace
from sdlc.program.bundle import read_bundle, write_bundle
from sdlc.program.execute import Executable
from sdlc.program.inplace import candidates
from sdlc.program.interpreted import HOST_CAPABILITIES, InterpreterDevice, run_interpreted
from sdlc.program.memory import (
    Lifetime,
    allocate,
    conflicts,
    has_overlaps,
    joined,
    lifetimes_of,
)
from sdlc.program.pipeline import compile_graph
from sdlc.program.program import Program, TensorRole
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.fuse import fuse
from stages import device
from strategies import Case, build_graph, cases, weights_of

F = DType.F32
N = 8
TARGET = load_target("cpu")
APART = InterpreterDevice(replace(HOST_CAPABILITIES, overlapping_bindings=False))
A, B, C = axes(i=N, j=N, k=N)


def product(x: Node, name: str, left: Callable[[Node], Expr] | None = None) -> Reduce:
    """x times a weight of its own."""
    found = read(x, A, C) if left is None else left(x)
    lift = apply("mul", found, read(weight(f"{name}.w", N, N), C, B))
    return Reduce((A, B), (C,), SUM, (lift,), (F,), Origin(name, "test"))


def added(a: Node, b: Expr, name: str) -> Map:
    return Map((A, B), apply("add", read(a, A, B), b), F, Origin(name, "test"))


def residual(b: Callable[[Node], Expr] = lambda h: read(h, A, B), last: bool = True) -> Graph:
    """h = x w; y = h t p + b(h); out = y q (and h once more if not `last`). Every kernel is one
    work-item, so that no verifier would find a race."""
    x = given_input("x", N, N)
    h = product(x, "h")
    y = added(product(product(h, "t"), "p"), b(h), "y")
    out: Node = product(y, "q")
    if not last:
        out = added(out, read(h, A, B), "out")
    return Graph("residual", (("out", out, 0),), (x,))


def taken(program: Program) -> dict[str, str]:
    return {t.name: t.in_place_of for t in program.tensors.values() if t.in_place_of}


def arrays_of(graph: Graph) -> tuple[dict[str, Array], dict[str, Array]]:
    rng = np.random.default_rng(0)
    return {
        i.name: rng.standard_normal(i.shape).astype(i.dtype.numpy) for i in graph.inputs
    }, weights_of(graph)


def assert_right(graph: Graph, program: Program) -> None:
    inputs, weights = arrays_of(graph)
    allowed = tolerance(graph, inputs, weights)
    check(allowed, run_interpreted(program, inputs, weights), Numerics.REASSOCIATED, "in place")
    apart = Executable(program, APART, weights)
    assert not has_overlaps(apart.program)
    check(allowed, apart.run(inputs), Numerics.REASSOCIATED, "apart")


# ---- where it is done ----------------------------------------------------------------------------


def chain(length: int) -> Graph:
    """A residual network: y + (y t) p, `length` times."""
    x = given_input("x", N, N)
    found: Node = product(x, "h")
    for step in range(length):
        inner = product(found, f"t{step}")
        found = added(product(inner, f"p{step}"), read(found, A, B), f"y{step}")
    return Graph("chain", (("out", product(found, "out"), 0),), (x,))


def test_a_sum_is_written_over_its_term() -> None:
    graph = chain(3)
    program = compile_graph(graph, TARGET)
    assert taken(program) == {"y0": "h", "y1": "y0", "y2": "y1"}
    assert len({program.tensors[n].offset for n in ("h", "y0", "y1", "y2")}) == 1
    size = N * N * 4
    assert (program.memory.arena, program.memory.lower_bound) == (2 * size, 2 * size)
    assert program.memory.naive == 7 * size
    assert allocate(program, TARGET.caps.offset_alignment).memory.arena == 3 * size
    assert_right(graph, program)


def test_it_is_a_mechanism() -> None:
    """Switched off by name, every value has a place of its own while it is read."""
    graph = chain(3)
    others = [m for m in MECHANISMS if m.name != "in_place"]
    program = compile_graph(graph, TARGET, rules=others)
    assert taken(program) == {} and program.memory.arena == 3 * N * N * 4
    assert taken(compile_graph(graph, TARGET, rules=MECHANISMS)) != {}
    assert_right(graph, program)


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (residual(lambda h: read(h, B, A)), "it is read at other places"),
        (
            residual(lambda h: Read(h, (apply("sub", Index(A), i32(1)), Index(B)), 0, ZERO)),
            "it is read beside what is written",
        ),
        (
            residual(lambda h: apply("add", read(h, A, B), read(h, B, A))),
            "it is read at other places too",
        ),
        (residual(last=False), "it is read later"),
    ],
)
def test_a_value_that_is_needed_elsewhere_stays(graph: Graph, why: str) -> None:
    assert taken(compile_graph(residual(), TARGET)) == {"y": "h"}
    program = compile_graph(graph, TARGET)
    assert "h" not in taken(program).values(), why
    assert all(k.grid == k.group == (1, 1, 1) for k in program.kernels.values())
    assert_right(graph, program)


def test_a_value_that_another_loop_of_the_kernel_reads_stays() -> None:
    x = given_input("x", N, N)
    h = product(x, "h")
    y = added(product(h, "p"), read(h, A, B), "y")
    graph = Graph("residual", (("out", product(y, "q"), 0),), (x,))
    program = compile_graph(graph, TARGET)
    assert taken(program) == {}
    assert_right(graph, program)


def test_a_value_of_another_shape_stays() -> None:
    (wide,) = axes(i=N + 1)
    x = given_input("x", N + 1, N)
    lift = apply("mul", read(x, wide, C), read(weight("h.w", N, N), C, B))
    h = Reduce((wide, B), (C,), SUM, (lift,), (F,), Origin("h", "test"))
    y = added(product(product(h, "t"), "p"), read(h, A, B), "y")
    graph = Graph("wide", (("out", product(y, "q"), 0),), (x,))
    program = compile_graph(graph, TARGET)
    assert taken(program) == {}
    assert_right(graph, program)


def test_a_value_in_another_arrangement_of_the_same_bytes_gives_its_place() -> None:
    """h[i, j], and y[k] = h[k / n, k % n] + …: one element number, whatever the axes."""
    x = given_input("x", N, N)
    h = product(x, "h")
    p = product(product(h, "t"), "p")
    (flat,) = axes(k=N * N)
    row, column = (apply(op, Index(flat), i32(N)) for op in ("floordiv", "mod"))
    total = apply("add", Read(p, (row, column)), Read(h, (row, column)))
    y = Map((flat,), total, F, Origin("y", "test"))
    turned = Map((flat,), apply("add", Read(p, (row, column)), Read(h, (column, row))), F)
    for node, expected in ((y, ["h"]), (turned, [])):
        made = apply("add", Index(A), apply("mul", Index(B), i32(N)))
        lift = apply("mul", Read(node, (made,)), read(weight("q.w", N, N), B, C))
        out = Reduce((A, C), (B,), SUM, (lift,), (F,), Origin("out", "test"))
        graph = Graph("arranged", (("out", out, 0),), (x,))
        program = compile_graph(graph, TARGET)
        assert [name for name in taken(program).values() if name == "h"] == expected
        assert_right(graph, program)


def test_what_else_the_kernel_computes_forbids_it() -> None:
    """A second result could read what the first has overwritten, an inner group all of it."""
    graph = residual()
    tensors = compile_graph(graph, TARGET).tensors
    groups = {g.stores[0].node.origin.name: g for g in fuse(graph, 8)}
    names = {
        v: v[0].origin.name for g in groups.values() for v in (*g.operands, (g.stores[0].node, 0))
    }
    group = groups["y"]
    assert list(candidates(group, names, tensors, {"h"})) == [("h", "y")]
    two = replace(group, stores=group.stores * 2)
    assert list(candidates(two, names, tensors, {"h"})) == []
    inner = replace(group, inner=(groups["t"],))
    assert list(candidates(inner, names, tensors, {"h"})) == []


def test_inputs_results_and_weights_stay() -> None:
    x = given_input("x", N, N)
    y = added(product(x, "p"), read(x, A, B), "y")
    graph = Graph(
        "ends", (("y", y, 0), ("out", added(product(y, "q"), read(y, A, B), "o"), 0)), (x,)
    )
    assert taken(compile_graph(graph, TARGET)) == {}


def test_other_targets_keep_bindings_apart() -> None:
    for name in ("nvidia", "adreno", "llvmpipe"):
        program = compile_graph(chain(2), load_target(name))
        assert taken(program) == {} and not has_overlaps(program)


def test_no_dispatch_is_for_nothing(for_all: ForAll) -> None:
    """What a dispatch writes is a result, or is read by a later one."""

    def needed(case: Case) -> None:
        program = compile_graph(build_graph(case), TARGET)
        wanted = set(program.outputs)
        for dispatch in reversed(program.dispatches):
            access = {b.name: b.access for b in program.kernels[dispatch.kernel].buffers}
            made = {t for b, t in dispatch.bindings if access[b] is not k.Access.READ}
            assert made & wanted, dispatch
            wanted |= {t for b, t in dispatch.bindings if access[b] is not k.Access.WRITE}

    for_all(cases(), needed, 20, 0.1)


def test_only_the_same_place_may_be_shared_and_only_as_the_other_ends() -> None:
    before, after = Lifetime("a", 0, 2, 64), Lifetime("b", 2, 3, 64)
    tensors = {n: tensor(n, TensorRole.TEMPORARY) for n in ("a", "b")}
    tensors["b"] = replace(tensors["b"], in_place_of="a")
    lives, offsets = (before, after), {"a": 0, "b": 0}
    assert conflicts(lives, offsets, tensors) == []
    assert conflicts(lives, offsets) == [("a", "b")]
    assert conflicts(lives, {"a": 0, "b": 16}, tensors) == [("a", "b")]
    assert conflicts((before, replace(after, first=1)), offsets, tensors) == [("a", "b")]
    assert conflicts((before, replace(after, nbytes=32)), offsets, tensors) == [("a", "b")]
    assert set(joined(lives, tensors).values()) == {Lifetime("a", 0, 3, 64)}


def test_random_programs_never_overlap_otherwise(for_all: ForAll) -> None:
    def legal(case: Case) -> None:
        program = compile_graph(build_graph(case), TARGET)
        lives = lifetimes_of(program.tensors, program.dispatches)
        offsets = {life.name: program.tensors[life.name].offset for life in lives}
        assert conflicts(lives, offsets, program.tensors) == []
        assert program.memory.lower_bound <= program.memory.arena <= program.memory.naive
        apart = allocate(program, TARGET.caps.offset_alignment)
        offsets = {life.name: apart.tensors[life.name].offset for life in lives}
        assert conflicts(lives, offsets) == []

    for_all(cases(), legal, 30, 0.2)


def test_the_interpreter_notices_a_wrong_overlap() -> None:
    graph = residual(lambda h: read(h, B, A))
    program = compile_graph(graph, TARGET)
    wrong = replace(program.tensors["y"], in_place_of="h")
    program = replace(program, tensors={**program.tensors, "y": wrong})
    program = allocate(program, TARGET.caps.offset_alignment, overlapping=True)
    inputs, weights = arrays_of(graph)
    got = run_interpreted(program, inputs, weights)
    with pytest.raises(AssertionError):
        check(tolerance(graph, inputs, weights), got, Numerics.REASSOCIATED)


def test_what_the_verifier_refuses_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kernel: k.Kernel) -> None:
        raise KernelError(kernel, ("a race",))

    monkeypatch.setattr(inplace, "verify", refuse)
    assert taken(compile_graph(residual(), TARGET)) == {}


# ---- what proves it ------------------------------------------------------------------------------

LANE = k.WorkId("lane", 0)


def kernel(value: Callable[[k.Buffer], k.Expr]) -> k.Kernel:
    """out[lane] = value(x) in one work-group."""
    x, out = k.Buffer("x", F, N), k.Buffer("out", F, N, access=k.Access.WRITE)
    body = (k.Store(out, LANE, value(x)),)
    return k.Kernel("each", (x, out), (), body, (1, 1, 1), (N, 1, 1))


def test_one_buffer_in_both_roles_is_proven_or_refused() -> None:
    own = kernel(lambda x: k.call("add", k.Load(x, LANE), k.f32(1)))
    verify(overlaid(own, "x", "out"))
    turned = kernel(lambda x: k.Load(x, k.call("sub", k.i32(N - 1), LANE)))
    verify(turned)
    with pytest.raises(KernelError):
        verify(overlaid(turned, "x", "out"))
    data = np.arange(N, dtype=np.float32)
    made = interpret(overlaid(own, "x", "out"), {"out": data})["out"]
    np.testing.assert_array_equal(made, data + 1)
    with pytest.raises(Trap):
        interpret(overlaid(turned, "x", "out"), {"out": data})


def test_overlapping_buffers_are_printed_without_restrict() -> None:
    program = compile_graph(chain(1), TARGET)
    texts = {t.name: t.text for t in target_texts(program, TARGET, ("opencl",))}
    dispatch = next(d for d in program.dispatches if "y0" in dict(d.bindings).values())
    assert dict(dispatch.bindings)["y0"] == "y0"
    head = next(line for line in texts[dispatch.kernel].splitlines() if line.startswith("void"))
    parameters = head[head.index("(") :].strip("(){ ").split(", ")
    restricted = ["restrict" in parameter for parameter in parameters]
    assert restricted == [b not in ("h", "y0") for b, _ in dispatch.bindings]
    marked = overlapping(program.kernels[dispatch.kernel], dispatch.bindings[0][0])
    assert sum(b.overlaps for b in marked.buffers) == 3


@pytest.mark.parametrize("selector", ["cpu", "pocl"])
def test_devices_write_in_place(selector: str) -> None:
    graph = chain(3)
    inputs, weights = arrays_of(graph)
    executable = Executable(compile_graph(graph, TARGET), device(selector), weights)
    assert has_overlaps(executable.program)
    for _ in range(2):
        check(tolerance(graph, inputs, weights), executable.run(inputs), Numerics.REASSOCIATED)


# ---- in bundles ----------------------------------------------------------------------------------


def written(tmp_path: Path, graph: Graph) -> Path:
    program = compile_graph(graph, TARGET)
    texts = target_texts(program, TARGET)
    return write_bundle(program, texts, TARGET.caps, tmp_path / "b")


def test_a_bundle_says_that_bindings_overlap(tmp_path: Path) -> None:
    directory = written(tmp_path, chain(2))
    bundle = read_bundle(directory)
    assert taken(bundle.program) == {"y0": "h", "y1": "y0"}
    with pytest.raises(SdlError, match="overlapping bindings"):
        bundle.texts_for(replace(TARGET.caps, overlapping_bindings=False))
    plain = read_bundle(written(tmp_path / "other", residual(last=False)))
    assert plain.texts_for(replace(TARGET.caps, overlapping_bindings=False))


def test_an_overlap_without_leave_is_refused(tmp_path: Path) -> None:
    directory = written(tmp_path, chain(2))
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for record in manifest["tensors"]:
        record.pop("in_place_of", None)
    path.write_text(json.dumps(manifest))
    with pytest.raises(SdlError, match="overlap in the arena"):
        read_bundle(directory)
