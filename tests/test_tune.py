"""Tuning: the points of a group's space, digests, records, and what a plan makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import sdlc
from graphs import map_graph, matmul_graph, statistics_graph, window_graph
from sdlc.backends import tune as tuning
from sdlc.backends.target import load_target
from sdlc.backends.tune import Effort, Timed
from sdlc.backends.tuner import Settings, Work, tune
from sdlc.cli import status_of
from sdlc.graph.node import Graph
from sdlc.kernel.ir import Kernel
from sdlc.program.interpreted import InterpreterDevice, run_interpreted
from sdlc.program.isolated import Isolation
from sdlc.program.pipeline import compile_plan
from sdlc.program.profile_data import RandomWeights, random_inputs
from sdlc.program.records import (
    NO_RECORDS,
    Record,
    TuningWarning,
    append_record,
    read_records,
    records_path,
)
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.digest import digest_of, label_of
from sdlc.schedule.fits import misfit
from sdlc.schedule.plan import Plan, plan
from sdlc.schedule.point import DEFAULT, Point, point_of
from sdlc.schedule.space import Candidate, Situation, candidates, in_order, space
from sdlc.target import Target

GRAPHS = {
    "map": lambda: map_graph(7, 24),
    "matmul": lambda: matmul_graph(17, 6, 24),
    "window": lambda: window_graph(2, 5, 16, 3),
    "statistics": lambda: statistics_graph(3, 40),
}
TARGETS = ("cpu", "nvidia", "llvmpipe")


def situated(graph: Graph, target: Target) -> tuple[Plan, Situation]:
    made = plan(graph, target)
    return made, Situation(target, made.orders)


@cache
def spaces(graph: str, name: str) -> tuple[Graph, Plan, tuple[tuple[Candidate, ...], ...]]:
    made, situation = situated(GRAPHS[graph](), load_target(name))
    found = tuple(candidates(k.base, k.lanes, situation) for k in made.kernels)
    return GRAPHS[graph](), made, found


# ---- points


def test_a_point_overrides_a_profile_and_names_only_its_fields() -> None:
    profile = load_target("cpu").profile
    point = point_of({"unroll": 2, "vector": profile.vector}, profile)
    assert point == Point((("unroll", 2),)) and str(point) == "unroll 2"
    assert point.applied(profile) == replace(profile, unroll=2) and str(DEFAULT) == "default"
    with pytest.raises(ValueError, match="no field `speed`"):
        Point((("speed", 2),)).applied(profile)
    with pytest.raises(ValueError, match="`register_tile` cannot be 4"):
        Point((("register_tile", 4),)).applied(profile)


def test_the_space_comes_from_the_target() -> None:
    cpu, gpu = space(load_target("cpu")), space(load_target("nvidia"))
    assert cpu["lanes"] == (1,) and len(gpu["lanes"]) > 2
    assert cpu["reduction_lanes"] == (1,) and 128 in gpu["reduction_lanes"]
    for values in (cpu, gpu):
        assert all(values.values())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_candidates_fit_and_hold_the_default(name: str, graph: str) -> None:
    target = load_target(name)
    _, made, every = spaces(graph, name)
    assert len(every) == len(made.kernels)
    for found in every:
        assert [c.point for c in found].count(DEFAULT) == 1
        assert len({c.kernel.steps for c in found}) == len(found)
        seconds = [c.estimate.seconds for c in found]
        assert seconds == sorted(seconds)
        for each in found:
            if each.point != DEFAULT:
                assert misfit(each.kernel.group, each.kernel.nest, made.orders, target) is None
        first = in_order(found, 3)
        assert first[0].point == DEFAULT and len(first) <= 4


@st.composite
def offered(draw: st.DrawFn) -> tuple[Graph, Plan]:
    """A program at random points of every group's space."""
    names = st.sampled_from(sorted(GRAPHS)), st.sampled_from(TARGETS)
    graph, made, found = spaces(draw(names[0]), draw(names[1]))
    kernels = tuple(c[draw(st.integers(0, len(c) - 1))].kernel for c in found)
    return graph, replace(made, kernels=kernels)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(offered())
def test_every_offered_point_computes_the_definition(case: tuple[Graph, Plan]) -> None:
    graph, made = case
    program = compile_plan(graph, made, load_target("cpu"))
    inputs, weights = random_inputs(program), RandomWeights(program)
    found = run_interpreted(program, inputs, weights)
    check(tolerance(graph, inputs, weights), found, Numerics.REASSOCIATED)


def test_an_isolated_kernel_computes_its_part() -> None:
    target = load_target("cpu")
    graph = matmul_graph(9, 8, 16)
    made = plan(graph, target)
    alone = Isolation.of(graph, made, target).program(made.kernels[0])
    assert len(alone.dispatches) == 1 and not any(t.weight for t in alone.tensors.values())
    inputs = random_inputs(alone)
    (result,) = run_interpreted(alone, inputs, {}).values()
    given_: Mapping[str, np.ndarray] = inputs
    x, w, b = (given_[n] for n in ("x", "fc.weight", "fc.bias"))
    assert np.allclose(result, np.maximum(x @ w.T + b, 0), atol=1e-5)


# ---- digests


def digests(graph: Graph, target: Target) -> list[str]:
    made = plan(graph, target)
    return [digest_of(k.base, k.lanes, made.orders, made.blocks) for k in made.kernels]


def test_digests_are_the_same_in_every_run() -> None:
    """Pinned: a change of the text that is digested makes every user's records stale."""
    cpu = load_target("cpu")
    assert digests(matmul_graph(8, 16, 32), cpu) == digests(matmul_graph(8, 16, 32), cpu)
    assert digests(matmul_graph(8, 16, 32), cpu) != digests(matmul_graph(8, 16, 33), cpu)
    assert digests(matmul_graph(8, 16, 32), cpu) == ["6480c32f987703bc"]


def test_labels_say_what_a_group_is() -> None:
    made = plan(matmul_graph(8, 16, 32), load_target("cpu"))
    assert label_of(made.kernels[0].group) == "fc out [8 × 32] over 16"


# ---- a plan at chosen points


def test_a_plan_takes_a_chosen_point_and_says_so() -> None:
    target = load_target("cpu")
    graph = matmul_graph(32, 16, 32)
    (digest,) = digests(graph, target)
    point = Point((("register_tile", (2, 8)),))
    (tuned,) = plan(graph, target, choices={digest: point}).kernels
    (default,) = plan(graph, target).kernels
    assert tuned.note == "tuned: register_tile 2 × 8" and not default.note
    assert tuned.nest != default.nest
    (other,) = plan(graph, target, choices={"0" * 16: point}).kernels
    assert other == default


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        (Point((("register_tile", (64, 64)),)), "registers"),
        (Point((("speed", 1),)), "no field `speed`"),
        (Point((("vector", 0),)), "`vector` cannot be 0"),
    ],
)
def test_an_illegal_point_gives_the_default_with_a_reason(point: Point, reason: str) -> None:
    target = load_target("cpu")
    graph = matmul_graph(64, 16, 64)
    (digest,) = digests(graph, target)
    (made,) = plan(graph, target, choices={digest: point}).kernels
    assert made.note.startswith("tuning record not used") and reason in made.note
    assert made.nest == plan(graph, target).kernels[0].nest


# ---- records


def record(**changes: object) -> Record:
    values: dict[str, Any] = {
        "target": "cpu",
        "device": "device, driver",
        "group": "6480c32f987703bc",
        "label": "fc out [8 × 32] over 16",
        "point": {"register_tile": [2, 8]},
        "seconds": 1e-5,
        "default_seconds": 2e-5,
        "estimate": 1.5e-5,
        "measured": 9,
    }
    return Record(**{**values, **changes})


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.sdl.tuning.jsonl"
    append_record(path, record())
    append_record(path, record(group="b" * 16, point={}))
    append_record(path, record(point={"register_tile": [4, 8], "unroll": 2}))
    found = read_records(path, "cpu", "device, driver")
    assert found.warning == "" and set(found.by_group) == {"6480c32f987703bc", "b" * 16}
    point = Point((("register_tile", (4, 8)), ("unroll", 2)))
    assert found.choices == {"6480c32f987703bc": point}
    assert found.by_group["b" * 16].chosen() == DEFAULT
    assert read_records(path, "cpu", None).choices == found.choices
    assert read_records(tmp_path / "none", "cpu", None) == NO_RECORDS


def test_other_records_are_ignored_with_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_record(path, record(target="llvmpipe"))
    assert read_records(path, "cpu", "device, driver") == NO_RECORDS
    append_record(path, record(compiler="0.0.1+abc"))
    append_record(path, record(device="another, driver"))
    append_record(path, record(schema=0))
    with path.open("a") as file:
        file.write('{"torn": \n[1]\n{"point": 3}\n')
    found = read_records(path, "cpu", "device, driver")
    assert not found.choices
    assert "1 of another compiler, 1 of another device, 4 that cannot be read" in found.warning
    assert found.warning.count("\n") == 0 and "sdlc tune" in found.warning


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"target": "cp')
    append_record(path, record())
    found = read_records(path, "cpu", None)
    assert len(found.choices) == 1 and "1 that cannot be read" in found.warning


def test_records_lie_beside_the_program(tmp_path: Path) -> None:
    assert records_path(tmp_path / "a.sdl") == tmp_path / "a.sdl.tuning.jsonl"
    assert records_path(tmp_path) == tmp_path / "tuning.jsonl"


# ---- measuring, on the interpreter


EFFORT = Effort(rounds=1, turn_seconds=0.0)


def test_tuning_measures_the_default_and_the_best(tmp_path: Path) -> None:
    target, graph = load_target("cpu"), matmul_graph(6, 5, 16)
    work = Work(graph, plan(graph, target), target)
    (job,) = work.jobs
    outcome = tune(work, InterpreterDevice(), job, Settings(2, EFFORT))
    assert outcome.record is not None and not outcome.refused
    assert outcome.record.measured == 3 and outcome.record.group == job.digest
    assert 0 < outcome.record.seconds <= outcome.record.default_seconds
    append_record(tmp_path / "r", outcome.record)
    found = read_records(tmp_path / "r", "cpu", outcome.record.device)
    (made,) = plan(graph, target, choices=found.choices).kernels
    assert bool(made.note) == bool(outcome.record.point)


def test_a_launch_that_was_held_up_does_not_pass_for_a_long_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kernel of 10 µs whose first launch waited for 50 ms is repeated 1000 times a turn."""
    taken = iter([0.05, 1e-5, 1e-5, 1e-5])
    monkeypatch.setattr(tuning, "_turn", lambda *_: Timed(next(taken), 0.0))
    bench = SimpleNamespace(device=SimpleNamespace(record=lambda _, launches: launches))
    made = SimpleNamespace(built={}, launch="launch")
    launches, repeats = tuning._recording(cast(Any, bench), cast(Any, made), 0.02)
    assert repeats == len(launches) == 1000


def test_equal_groups_are_one_job() -> None:
    target = load_target("cpu")
    graph = window_graph(2, 5, 16, 3)
    work = Work(graph, plan(graph, target), target)
    assert sum(j.launches for j in work.jobs) == len(work.plan.kernels)
    assert len({j.digest for j in work.jobs}) == len(work.jobs)


def test_a_wrong_kernel_is_left_out() -> None:
    """A device that computes something else: nothing is recorded, and the reason is said."""

    def spoiled(kernel: Kernel) -> Kernel:
        return replace(kernel, body=())

    target, graph = load_target("cpu"), matmul_graph(6, 5, 16)
    work = Work(graph, plan(graph, target), target)
    outcome = tune(work, InterpreterDevice(change=spoiled), work.jobs[0], Settings(1, EFFORT))
    assert outcome.record is None
    assert all("wrong result" in reason for reason in outcome.refused) and outcome.refused


# ---- the command and the compiler


SOFTMAX = """
op twice(x: T[b, n]) -> T[b, n] {
  out[i, j] = 2 * exp(x[i, j])
}
"""


def test_the_command_records_and_the_compiler_consults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    file = tmp_path / "a.sdl"
    file.write_text(SOFTMAX)
    sizes = ["--set", "b=4", "n=64"]
    command = ["tune", str(file), *sizes, "--top", "1", "--device", "cpu", "--target", "cpu"]
    assert status_of([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["measured"]) == 1 and told["known"] == 0
    assert Path(told["records"]) == file.with_name("a.sdl.tuning.jsonl")
    assert status_of([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known"] == 1
    path = file.with_name("a.sdl.tuning.jsonl")
    values = json.loads(path.read_text()) | {"point": {"vector": 4}}
    path.write_text(json.dumps(values) + "\n")
    size = {"b": 4, "n": 64}
    program = sdlc.compile(file, sizes=size)
    assert "tuned: vector 4" in str(program.explain())
    assert not recwarn.list
    path.write_text(json.dumps(values | {"compiler": "0+0"}) + "\n")
    with pytest.warns(TuningWarning, match="1 of another compiler") as said:
        program = sdlc.compile(file, sizes=size)
    assert len(said) == 1 and "tuned" not in str(program.explain())
    path.write_text(json.dumps(values | {"point": {"wings": 4}}) + "\n")
    program = sdlc.compile(file, sizes=size)
    assert "tuning record not used (wings 4): a profile has no field" in str(program.explain())


def test_a_budget_that_is_spent_leaves_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.sdl"
    file.write_text(SOFTMAX)
    command = ["tune", str(file), "--set", "b=4", "n=64", "--budget", "1e-9", "--device", "cpu"]
    assert status_of([*command, "-o", str(tmp_path / "r.jsonl")]) == 0
    assert "0 measured, 1 left: call again" in capsys.readouterr().out
    assert not (tmp_path / "r.jsonl").exists()
    for other in ("-o", "--records"):
        assert status_of([*command, other, str(file)]) == 1
        assert f"`{file}` holds no tuning records" in capsys.readouterr().err
    assert file.read_text() == SOFTMAX
    assert status_of([*command, "-o", str(tmp_path / "no" / "r.jsonl")]) == 1
    assert "X003" in capsys.readouterr().err
