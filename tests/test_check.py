"""`sdlc check --target`: kernels that are right pass, a broken compiler is caught and named."""

from __future__ import annotations

import json
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sdlc.backends.legalize
import sdlc.program.pipeline
import sdlc.proof.stages
import sdlc.proof.tolerance
from rule_programs import values_for
from schedule_programs import POOL, Pooled, fired_in
from sdlc.api import make_request
from sdlc.backends.devices import open_device, target_of
from sdlc.cli import status_of
from sdlc.graph.node import Input, topological
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import DType
from sdlc.kernel.ir import Call, Kernel, Literal, Store, statements
from sdlc.program.pipeline import plan_graph, tensors_of
from sdlc.proof.check import Compilation, check, compiled, sized
from sdlc.proof.falsify import Effort, falsify, judge
from sdlc.proof.inputs import KINDS, Given, declared, values
from sdlc.proof.meaning import stored_by
from sdlc.proof.pieces import definition
from sdlc.proof.sample import at_points, interpret_sample, sample_of, work
from sdlc.proof.source import source_of
from sdlc.proof.stages import Route, interpreted, on, reference

ROOT = Path(__file__).parents[1]
SOFTMAX = str(ROOT / "stdlib" / "softmax.sdl")
SIZES = ("--entry", "softmax", "--set", "b=3", "n=17")
SMALL = {"b": 1, "c": 3, "h": 4, "w": 4, "t": 3, "d": 5}
ROUTE = Route((reference(), interpreted()))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = status_of([str(w) for w in words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return status, said.out, said.err


def small(precision: str = "f32", target: str = "cpu") -> Compilation:
    file = ROOT / "tests" / "programs" / "small_network.sdl"
    request = make_request(file, target, None, SMALL, (None, precision))
    graph = request.graph()
    planned = plan_graph(graph, request.target)
    return compiled(graph, graph, planned, request.target, request.precision)


def broken(kernel: Kernel, *_: object) -> Kernel:
    """The kernel with its first stored value wrong at one element."""
    first = next(s for s in statements(kernel.body) if isinstance(s, Store))
    value = Call("add", (first.value, Literal(0.5, first.value.type)))
    if not first.value.type.dtype.is_float:
        return kernel
    return replace(kernel, body=_replaced(kernel.body, first, replace(first, value=value)))


def _replaced(body: tuple[Any, ...], old: Store, new: Store) -> tuple[Any, ...]:
    def change(stmt: Any) -> Any:
        if stmt is old:
            return new
        return replace(stmt, body=_replaced(stmt.body, old, new)) if hasattr(stmt, "body") else stmt

    return tuple(change(s) for s in body)


# ---- the command


def test_right_kernels_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("check", SOFTMAX, *SIZES, "--target", "adreno", "--examples", 5, "-o", tmp_path / "r")
    status, out, _ = run(capsys, *words, "--device", "pocl")
    assert status == 0
    assert "the whole program agree on" in out
    assert "reference = rewritten = interpreted = legalised = device pocl" in out
    assert not (tmp_path / "r").exists()


def test_devices_are_held_against_one_reference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is computed of the definition is computed once for devices whose functions are as
    accurate, and kernels that are the same for several devices are interpreted once."""
    sampled: list[set[str]] = []
    runs: list[str] = []
    samples, interpret = sdlc.proof.tolerance._samples, sdlc.proof.stages.run_interpreted

    def counted(given: Any, functions: Any, count: int) -> Any:
        sampled.append(set(functions))
        return samples(given, functions, count)

    def noted(program: Any, *given: Any) -> Any:
        runs.append(program.name)
        return interpret(program, *given)

    monkeypatch.setattr(sdlc.proof.tolerance, "_samples", counted)
    monkeypatch.setattr(sdlc.proof.stages, "run_interpreted", noted)
    words = ("--target", "cpu", "--examples", 1, "--device", "cpu,pocl,llvmpipe")
    status, out, _ = run(capsys, "check", SOFTMAX, *SIZES, *words)
    assert status == 0
    ways = (f"legalised for {name} = device {name}" for name in ("cpu", "pocl", "llvmpipe"))
    assert " = ".join(("reference = rewritten = interpreted", *ways)) in out
    subjects = len(set(runs))
    assert sampled == [{"exp", "div"}] * 2 * subjects and len(runs) <= 3 * subjects
    sampled.clear()
    sizes = ("--entry", "matmul", "--set", "b=1", "m=3", "k=4", "n=5")
    status, _, _ = run(capsys, "check", SOFTMAX.replace("softmax", "matmul"), *sizes, *words)
    assert status == 0 and sampled == [set()] * 2


def test_without_a_target_each_device_runs_kernels_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices of one target are held against what is computed once; the bar counts the kernels of
    all; and what fails is replayed for the target and devices that it failed for."""
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(
        "sdlc.cli_check.progress",
        lambda *_, **__: nullcontext(lambda name, done, total: told.append((name, done, total))),
    )
    words = ("check", SOFTMAX, *SIZES, "--device", "cpu,llvmpipe,pocl", "--examples", 1)
    status, out, _ = run(capsys, *words, "--json")
    made = json.loads(out)
    assert status == 0 and all(v["agrees"] for record in made for v in record["checked"])
    own = target_of(open_device("cpu").info).name
    places = [(record["target"], record["devices"]) for record in made]
    assert places == [(own, ["cpu", "pocl"]), ("llvmpipe", ["llvmpipe"])]
    names = [v["name"] for record in made for v in record["checked"]]
    assert [n for n, _, _ in told if not n.startswith("compiling")] == [
        "the whole program" if name == "softmax" else name for name in names
    ]
    assert [(done, total) for _, done, total in told][-len(names) :] == [
        (number, len(names)) for number in range(len(names))
    ]
    right = sdlc.backends.legalize.legalize
    monkeypatch.setattr(sdlc.backends.legalize, "legalize", lambda k, *_: broken(right(k, *_)))
    status, _, err = run(capsys, *words, "-o", tmp_path / "r")
    assert status == 1 and "--target llvmpipe --device llvmpipe" in err
    assert f"--target {own} --device cpu,pocl" in err


def test_a_wrong_pass_is_named_and_reproduced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as broke:
        passes = (*sdlc.program.pipeline.KERNEL_PASSES, ("break", broken))
        broke.setattr(sdlc.program.pipeline, "KERNEL_PASSES", passes)
        words = ("check", SOFTMAX, *SIZES, "--target", "cpu", "--examples", 5)
        status, _, err = run(capsys, *words)
        assert status == 1
        assert "guilty stage: interpreted" in err and "does not compute its definition" in err
        folder = tmp_path / "reproducer"
        assert {f.name for f in folder.iterdir()} == {"fault.txt", "inputs.npz", "kernel.sdl"}
        command = err.split("replay it: sdlc ")[1].splitlines()[0]
        assert "kernel.sdl" in command
        status, _, again = run(capsys, *shlex.split(command))
        assert status == 1 and "guilty stage: interpreted" in again
    assert run(capsys, *shlex.split(command))[0] == 0
    assert run(capsys, "fmt", "--check", folder / "kernel.sdl")[0] == 0


def test_a_wrong_legalisation_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = sdlc.backends.legalize.legalize
    monkeypatch.setattr(sdlc.backends.legalize, "legalize", lambda k, *_: broken(right(k, *_)))
    words = ("check", SOFTMAX, *SIZES, "--target", "mali", "--examples", 3, "--json")
    status, out, _ = run(capsys, *words, "-o", tmp_path / "r")
    assert status == 1
    (record,) = json.loads(out)
    (verdict,) = [v for v in record["checked"] if not v["agrees"]]
    assert verdict["stage"] == "legalised" and verdict["kernel"]
    assert record["reproducer"]["folder"] == str(tmp_path / "r")


def test_bad_questions_are_answered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = run(capsys, "check", SOFTMAX, "--entry", "softmax", "--target", "cpu")
    assert status == 1 and "C005" in err and "sizes are open" in err
    words = ("check", SOFTMAX, *SIZES, "--target", "cpu")
    status, _, err = run(capsys, *words, "--kernel", "no_such")
    assert status == 1 and "C005" in err and "softmax" in err
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("none.npz", "one.npy", "cut.npz", "empty.npz"):
        status, _, err = run(capsys, *words, "--replay", tmp_path / name)
        assert status == 1 and "C004" in err


# ---- kernels by themselves


@pytest.mark.parametrize(("precision", "target"), [("f32", "cpu"), ("f16", "adreno")])
def test_every_kernel_has_its_definition(precision: str, target: str) -> None:
    made = small(precision, target)
    found = made.pieces
    assert {s.name for s in found} == {k.name for k in made.program.all_kernels}
    for subject in found:
        given = {n.name: Given(n.name, n.dtype, n.shape).array for n in declared(subject.graph)}
        assert judge(subject, ROUTE, given) is None, subject.name


STATISTICS = """op statistics(x: T[b, n]) -> (p: T[b, n], top: T[b], total: T[b]) {
  s[i] = reduce softmax_stats over j < n of (m = x[i, j], l = 1)
  p[i, j] = exp(x[i, j] - s.m[i]) / s.l[i]
  top[i] = s.m[i] * 2
  total[i] = log(s.l[i])
}
"""


def test_fields_of_a_reduction_are_told_apart() -> None:
    request = make_request(STATISTICS, "adreno", None, {"b": 3, "n": 9}, (None, "f32"))
    graph = request.graph()
    found = compiled(graph, graph, plan_graph(graph, request.target), request.target).pieces
    assert any(name.endswith(".l") for s in found for name in s.program.inputs)
    for subject in found:
        given = {n.name: Given(n.name, n.dtype, n.shape).array for n in declared(subject.graph)}
        assert judge(subject, ROUTE, given) is None, subject.name


def test_a_kernel_alone_is_a_program_of_its_own() -> None:
    """The text of a definition means what the definition means."""
    made = small()
    for subject in made.pieces:
        source = source_of(subject.graph)
        again = make_request(source.text, "cpu", None, {}, (None, "f32")).graph()
        given = {n.name: Given(n.name, n.dtype, n.shape).array for n in declared(subject.graph)}
        renamed = {source.names[name]: array for name, array in given.items()}
        expected = tuple(evaluate(subject.graph, given, {}, Mode.F64).values())
        got = tuple(evaluate(again, renamed, {}, Mode.F64).values())
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)  # literals have nine digits


def test_a_sample_is_the_definition_at_its_points() -> None:
    made = small()
    for subject in made.pieces:
        sample = sample_of(subject.program)
        given = {n.name: Given(n.name, n.dtype, n.shape).array for n in declared(subject.graph)}
        whole = evaluate(subject.graph, given, {}, Mode.F64)
        few = evaluate(at_points(subject.graph, sample.points), given, {}, Mode.F64)
        for name, picked in sample.pick(whole).items():
            np.testing.assert_allclose(few[name], picked, rtol=1e-9, atol=1e-12)
        interpret_sample(subject.program, given, sample)


def test_large_kernels_are_sampled_and_large_programs_are_not_passed_over_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sdlc.proof.check.ALL_POINTS", 1 << 10)
    monkeypatch.setattr("sdlc.proof.check.WHOLE_POINTS", 1 << 10)
    made = small()
    report = check(made, ROUTE, Effort(examples=1), lambda *_: None)
    assert not report.failures and report.whole is None
    assert any("work-groups interpreted" in n for v in report.kernels for n in v.notes)
    assert [name for name, _ in report.skipped] == ["the whole program"]


def test_what_is_too_long_to_interpret_runs_on_devices_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sdlc.proof.check.ALL_POINTS", 1 << 10)
    monkeypatch.setattr("sdlc.proof.sample.MOST_STEPS", 1)
    route = Route((*ROUTE.stages, on(open_device("cpu"))), "opencl")
    subject = max(small().pieces, key=lambda s: work(s.graph))
    assert sized(subject, ROUTE).sample.groups  # type: ignore[union-attr]
    few = sized(subject, route)
    assert few.sample is not None and not few.sample.groups
    found = falsify(few, route, Effort(examples=1))
    assert found.fault is None and "too long to be interpreted" in found.notes[0]
    (kernel,) = few.program.kernels.values()
    wrong = replace(few.program, kernels={kernel.name: every_store_wrong(kernel)})
    fault = falsify(replace(few, program=wrong), route, Effort(examples=1)).fault
    assert fault is not None and fault.stage == "device cpu"


def every_store_wrong(kernel: Kernel) -> Kernel:
    """The kernel with all that it stores too large by a half."""

    def changed(stmt: Any) -> Any:
        if isinstance(stmt, Store) and stmt.buffer in kernel.buffers:
            value = Call("add", (stmt.value, Literal(0.5, stmt.value.type)))
            return replace(stmt, value=value)
        return replace(stmt, body=tuple(map(changed, stmt.body))) if hasattr(stmt, "body") else stmt

    return replace(kernel, body=tuple(map(changed, kernel.body)))


def test_a_wrong_sampled_kernel_is_seen() -> None:
    made = small()
    for subject in made.pieces[::4]:
        wrong = {n: broken(k) for n, k in subject.program.kernels.items()}
        bad = replace(subject, program=replace(subject.program, kernels=wrong))
        sample = sample_of(bad.program)
        few = at_points(bad.graph, sample.points)
        bad = replace(bad, graph=few, rewritten=few, sample=sample)
        given = {n.name: Given(n.name, n.dtype, n.shape).array for n in declared(subject.graph)}
        fault = judge(bad, ROUTE, given)
        assert fault is not None and fault.stage == "interpreted", subject.name


# ---- inputs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", list(DType))
def test_inputs_are_finite_and_the_same_each_time(dtype: DType, kind: str) -> None:
    made = values(dtype, (3, 5), kind, 7)
    assert made.dtype == dtype.numpy and made.shape == (3, 5)
    assert np.isfinite(made.astype(np.float64)).all()
    np.testing.assert_array_equal(made, values(dtype, (3, 5), kind, 7))
    assert values(dtype, (), kind, 7).shape == ()


def test_what_is_checked_is_what_is_compiled() -> None:
    """Mechanisms of the schedule that are off, and rules that do not pay on the target."""
    from sdlc.cli_prove import compilation

    softmax = ROOT / "stdlib" / "softmax.sdl"
    request = make_request(softmax, "nvidia", "softmax", {"b": (3,), "n": 96}, (None, "f32"))
    for without in ((), ("rows",)):
        rules = tuple(r for r in request.rules if r.name not in without)
        asked = replace(request, rules=rules)
        made = compilation(asked)
        assert made.program.kernels == asked.build().program.kernels
        assert ("rows" in made.fired) is not ("rows" in without)


@pytest.mark.parametrize("program", POOL, ids=lambda p: f"{p.target}-{POOL.index(p)}")
def test_a_group_means_what_the_graph_says(program: Pooled) -> None:
    """Of every kernel: with its inner groups, several stores, any arrangement, the sum of parts."""
    graph = program.graph(program.largest)
    planned = program.plan(graph)
    names, _ = tensors_of(graph, planned)
    values, compared = {name: value for value, name in names.items()}, 0
    for item in planned.kernels:
        written = [names[s.node, s.field] for s in item.group.stores]
        read = [names[value] for value in item.group.operands]
        wanted = definition("wanted", read, written, values)
        made = {value: (node, 0) for value, node in stored_by(item.group).items()}
        told = {n: made.get(v, v) if n in written else v for n, v in values.items()}
        got = definition("got", read, written, told)
        assert {n for n, _, _ in got.outputs} == set(written)
        if {i.name for i in topological(wanted) if isinstance(i, Input)} == set(read):
            compared += 1
            inputs = values_for(wanted, 0)
            expected = evaluate(wanted, inputs, {}, Mode.F64)
            for name, array in evaluate(got, inputs, {}, Mode.F64).items():
                np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-9)
    assert compared


def test_parts_of_a_reduction_are_checked_each() -> None:
    """A kernel that combines parts has nothing else to read, whatever the graph says."""
    program = next(p for p in POOL if "split_reductions" in fired_in(p))
    graph = program.graph(program.largest)
    target = program.machine()
    made = compiled(graph, graph, plan_graph(graph, target), target)
    for subject in made.pieces:
        inputs = {n for n in topological(subject.graph) if isinstance(n, Input)}
        assert inputs == set(subject.graph.inputs), subject.name
    assert any("_parts" in i.name for subject in made.pieces for i in subject.graph.inputs)
