"""Any legal schedule of any program computes what the program means.

A few hundred here; `python tests/run_random.py` draws ten thousand, on every target and device.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis.strategies import SearchStrategy

import run_random
from conftest import ForAll
from random_cases import Drawn, Making, contractions, kept, kinds_of, prove, revived, scheduled
from sdlc.backends.target import load_target
from sdlc.graph.types import DType
from sdlc.kernel.ir import Declare, statements
from sdlc.program.pipeline import compile_graph
from sdlc.proof.stages import Arrays, Route, Subject, fault_of, interpreted, limits, on
from sdlc.schedule.nest import Bind, Kind, Matrix, Place, Refused, Spread, Stage
from sdlc.schedule.steps import schedule
from stages import device, legalised
from strategies import FLOATS, Case, Given, Tensor, build_graph, cases


def proven(
    strategy: SearchStrategy[Drawn], for_all: ForAll, examples: int, share: float
) -> set[str]:
    """The kinds of steps among drawn schedules, each interpreted and right."""
    seen: set[str] = set()

    def check(drawn: Drawn) -> None:
        prove(drawn, (interpreted(),))
        seen.update(kinds_of(drawn))

    for_all(strategy, check, examples, share)
    return seen


@pytest.mark.parametrize(("target", "share"), [("cpu", 0.4), ("adreno", 0.3), ("nvidia", 0.3)])
def test_schedules_interpreted(target: str, share: float, for_all: ForAll) -> None:
    """Between them the targets take `--examples` cases."""
    seen = proven(scheduled(target, cases(2)), for_all, 80, share)
    assert {
        "Tile",
        "Reorder",
        *(f"Bind {k}" for k in ("group", "lane", "unroll", "vector")),
    } <= seen


@pytest.mark.parametrize("target", ["cpu", "nvidia"])
def test_blocks_interpreted(target: str, for_all: ForAll) -> None:
    """Folds in blocks: their values live inside the kernel."""
    programs = cases(1, only=["attention_online", "softmax", "logsumexp"])
    assert "Stage" in proven(scheduled(target, programs, block=4), for_all, 20, 0.1)


@pytest.mark.parametrize(
    ("target", "floats", "steps"),
    [("nvidia", FLOATS, {"Stage", "Spread"}), ("nvidia-matrix", ("f16",), {"Stage", "Matrix"})],
)
def test_slices_interpreted(
    target: str, floats: tuple[str, ...], steps: set[str], for_all: ForAll
) -> None:
    """Factors that pass through local memory, and tiles by matrix instructions."""
    assert steps <= proven(scheduled(target, contractions(floats)), for_all, 20, 0.1)


@pytest.mark.parametrize(("target", "language"), [("mali", "opencl"), ("apple", "wgsl")])
def test_schedules_legalised(target: str, language: str, for_all: ForAll) -> None:
    stage = legalised(target, language)
    for_all(scheduled(target, cases(2)), lambda d: prove(d, (stage,), language), 20, 0.02)


@pytest.mark.parametrize(
    ("target", "language", "selector"),
    [("cpu", "opencl", "cpu"), ("adreno", "opencl", "pocl"), ("llvmpipe", "wgsl", "llvmpipe")],
)
def test_schedules_on_devices(target: str, language: str, selector: str, for_all: ForAll) -> None:
    def check(drawn: Drawn) -> None:
        prove(drawn, (on(device(selector)),), language)

    for_all(scheduled(target, cases(2)), check, 6, 0.01)


@pytest.mark.parametrize("selector", ["cpu", "pocl"])
def test_lanes_of_truth_values_are_stored_one_by_one(selector: str) -> None:
    """A vector across rows: its lanes lie apart in storage, and a mask's are 0 or -1."""
    text = "model drawn(x: bool[2, 3]) -> bool[2, 3] { out[i0, i1] = x[i0, i1] }"
    case = Case(text, (Given(Tensor("x", "bool", (2, 3)), "ordinary", 0),), DType.F32)
    making = Making("cpu")
    graph = making.graph(case)
    made = making.plan(graph)
    steps = (Bind("i0", Kind.VECTOR),)
    kernels = tuple(
        replace(item, steps=steps, nest=schedule(item.group, steps)) for item in made.kernels
    )
    drawn = Drawn(case, making, graph, replace(made, kernels=kernels))
    prove(drawn, (interpreted(), on(device(selector))), "opencl")


@pytest.mark.parametrize("target", ["adreno", "llvmpipe"])
def test_statistics_behind_an_epilogue_with_rows_of_its_own(target: str) -> None:
    """Found by drawing: one head's attention is read at a fixed index, which makes no rows."""
    x, y = Tensor("x", "f32", (5, 3, 3)), Tensor("y", "f32", (5, 3, 3))
    text = f"op drawn(x: {x.type}, y: {y.type}) -> f32[5, 3, 3, 3] {{\n"
    text += "  return outer(attention(x, x, x), y)\n}\n"
    case = Case(text, (Given(x, "ordinary", 0), Given(y, "ordinary", 1)), DType.F32)
    making = Making(target, rules=True)
    graph = making.graph(case)
    prove(Drawn(case, making, graph, making.plan(graph)), (interpreted(),))


def found(text: str, precision: DType, *given: Tensor) -> Case:
    """A program that was found by drawing, on ordinary inputs."""
    inputs = tuple(Given(t, "ordinary", n) for n, t in enumerate(given))
    words = ", ".join(f"{t.name}: {t.type}" for t in given)
    return Case(f"op drawn({words}) {text}", inputs, precision)


NAMED = found(
    "-> f32[3, 4] { y[r, c] = sum over i of x[r, i] * w[i, c]\n"
    "out[r, i < 4] = y[r, i] * exp(y[r, i + 4])\nreturn out }",
    DType.F32,
    Tensor("x", "f32", (3, 4)),
    Tensor("w", "f32", (4, 8)),
)
FIELDS = found(
    '-> f16[3, 1] { return attention_online(activate(global_avg_pool(x); name = "gelu"), w) }',
    DType.F16,
    Tensor("x", "f16", (3, 3, 3)),
    Tensor("w", "f16", (3, 1)),
)
ONE_KEY = found(
    "-> f32[2, 1] { return attention_online(global_avg_pool(x), w) }",
    DType.F32,
    Tensor("x", "f32", (2, 1)),
    Tensor("w", "f32", (1, 1)),
)
SCALAR = found(
    "-> f32[] { out = sum over i of x[i]\nreturn out }", DType.F32, Tensor("x", "f32", (3,))
)
WIDE = found(
    "-> f16[7, 4, 4, 1] { return attention_online(avg_pool2d(x; stride = 3, pad = 2), w) }",
    DType.F16,
    Tensor("x", "f16", (7, 4, 7, 2)),
    Tensor("w", "f16", (7, 4, 2, 1)),
)


@pytest.mark.parametrize(
    ("case", "making"),
    [
        (NAMED, Making("apple")),
        (ONE_KEY, Making("mali")),
        (SCALAR, Making("cpu")),
        (FIELDS, Making("cpu")),
        (WIDE, Making("cpu", True, (), (("block", 4), ("depth", 2), ("gather", 4)))),
    ],
    ids=[
        "a reduced axis with a name of the reader's",
        "a block folds a single value",
        "no axes of its own",
        "fields m2 and m, twice",
        "wide halves",
    ],
)
def test_programs_that_were_found(case: Case, making: Making) -> None:
    graph = making.graph(case)
    prove(Drawn(case, making, graph, making.plan(graph)), (interpreted(),))


def test_reductions_in_parts_are_made_again() -> None:
    x, w = Tensor("x", "f32", (5, 13)), Tensor("w", "f32", (7, 13))
    case = found("-> f32[5, 7] { return gelu(matmul_nt(x, w)) }", DType.F32, x, w)
    making = Making("nvidia")
    (item,) = making.plan(making.graph(case)).kernels
    making = replace(making, splits=((0, item.base.over[0].name, 4),))
    drawn = Drawn(case, making, making.graph(case), making.plan(making.graph(case)))
    assert len(drawn.plan.kernels) == 2 and "SplitReduce" in kinds_of(drawn)
    again = revived(json.loads(json.dumps(kept(drawn))))
    assert again.making == making
    prove(again, (interpreted(),))


def test_a_matrix_instruction_reads_no_work_items_own() -> None:
    """Found by drawing: each lane of a sub-group fetches what the instruction says it holds, which
    is not what it computes."""
    x, w = Tensor("x", "f16", (16, 16)), Tensor("w", "f16", (16, 16))
    case = found("-> f16[16, 16] { return gelu(matmul_nt(x, w)) }", DType.F16, x, w)
    making = Making("nvidia-matrix")
    item = making.plan(making.graph(case)).kernels[0]
    steps = tuple(s for s in item.steps if not isinstance(s, Spread))
    assert any(isinstance(s, Matrix) for s in steps)
    schedule(item.group, steps)
    own = (replace(s, place=Place.PRIVATE) if isinstance(s, Stage) else s for s in steps)
    with pytest.raises(Refused, match="elements that other work-items hold"):
        schedule(item.group, tuple(own))


def test_a_work_item_holds_only_what_it_computes() -> None:
    """Lanes along what is private would leave each with the others' elements unwritten."""
    x, w = Tensor("x", "f32", (64, 16)), Tensor("w", "f32", (64, 16))
    case = found("-> f32[64, 64] { return gelu(matmul_nt(x, w)) }", DType.F32, x, w)
    making = Making("nvidia")
    group = making.plan(making.graph(case)).kernels[0].group
    assert group.inner
    value = group.inner[0]
    steps = (
        Stage(value.name, "", Place.PRIVATE),
        Bind(f"{value.name}/{value.axes[0].name}", Kind.LANE),
    )
    with pytest.raises(Refused, match="computes all that it holds"):
        schedule(group, steps)


def test_slices_are_fetched_ahead_where_no_variable_holds_a_half() -> None:
    """Found by drawing: without f16 arithmetic, what is loaded a pass ahead is widened first."""
    x, w = Tensor("x", "f16", (64, 64)), Tensor("w", "f16", (64, 64))
    text = f"op drawn(x: {x.type}, w: {w.type}) -> {x.type} {{ return matmul_nt(x, w) }}\n"
    case = Case(text, (Given(x, "ordinary", 0), Given(w, "ordinary", 1)), DType.F16)
    graph, target = build_graph(case), load_target("nvidia")
    for f16 in (True, False):
        caps = replace(target.caps, f16_arithmetic=f16)
        program = compile_graph(graph, replace(target, caps=caps))
        (kernel,) = program.kernels.values()
        types = {s.var.type.dtype for s in statements(kernel.body) if isinstance(s, Declare)}
        assert (
            any("_next" in str(s) for s in statements(kernel.body)) and (DType.F16 in types) == f16
        )
        subject = Subject("drawn", graph, graph, program)
        arrays = Arrays(case.inputs, {})
        route = Route((interpreted(),))
        assert fault_of(interpreted(), subject, arrays, limits(subject, arrays, route)) is None


def test_what_failed_can_be_run_again(for_all: ForAll) -> None:
    """The record of a drawn program makes it anew, and survives JSON."""

    def check(drawn: Drawn) -> None:
        again = revived(json.loads(json.dumps(kept(drawn))))
        assert [k.steps for k in again.plan.kernels] == [k.steps for k in drawn.plan.kernels]
        assert again.case == drawn.case and again.plan.orders == drawn.plan.orders

    for_all(scheduled("nvidia", cases(2)), check, 10, 0.01)


def test_run_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_random.py` counts what is right, and leaves a record of what is wrong."""
    found = run_random.run_shard(("schedules-mali", 0, 3), tmp_path)
    assert (len(found.cases), found.failures) == (3, [])

    def wrong(drawn: Drawn, stages: object, language: str) -> None:
        raise AssertionError("it is wrong")

    monkeypatch.setattr(run_random, "prove", wrong)
    found = run_random.run_shard(("schedules-mali", 0, 3), tmp_path)
    assert (found.cases, len(found.failures)) == ([], 3)
    with pytest.raises(AssertionError, match="it is wrong"):
        run_random.replay(tmp_path / found.failures[-1])
    monkeypatch.undo()
    assert run_random.replay(tmp_path / found.failures[-1]) == 0


def test_a_shard_goes_on_where_its_process_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may end it: the case is left as a failure, and the others are drawn once."""
    proven: list[Drawn] = []

    def dies(drawn: Drawn, stages: object, language: str) -> None:
        if len(proven) == 1:
            raise KeyboardInterrupt
        proven.append(drawn)

    monkeypatch.setattr(run_random, "prove", dies)
    with pytest.raises(KeyboardInterrupt):
        run_random.run_shard(("schedules-mali", 0, 4), tmp_path)
    monkeypatch.setattr(run_random, "prove", lambda *given: proven.append(given[0]))
    found = run_random.run_shard(("schedules-mali", 0, 4), tmp_path, "exit status -6")
    assert (len(found.cases), len(found.failures), len(proven)) == (3, 1, 3)
    assert "exit status -6" in (tmp_path / found.failures[0]).read_text()
    assert [f.name for f in tmp_path.iterdir()] == found.failures


def test_a_shard_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong with the case that it was at: it is run again."""
    proven: list[Drawn] = []

    def stopped(drawn: Drawn, stages: object, language: str) -> None:
        if len(proven) == 2:
            raise KeyboardInterrupt
        proven.append(drawn)

    monkeypatch.setattr(run_random, "prove", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_random.run_shard(("schedules-mali", 0, 4), tmp_path)
    (begun,) = run_random.unfinished(tmp_path)
    assert (begun.kind, begun.shard, len(begun.cases)) == ("schedules-mali", 0, 2)
    monkeypatch.setattr(run_random, "prove", lambda *given: proven.append(given[0]))
    found = run_random.run_shard(("schedules-mali", 0, 4), tmp_path)
    assert (len(found.cases), found.failures, len(proven)) == (4, [], 4)
    assert begun.cases == found.cases[:2]


def test_another_process_draws_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "(name, number, count), ended, places = json.loads(sys.argv[2])\n"
        "open(f'{sys.argv[4]}/{name}-{number}.journal', 'a').write('0 begun\\n')\n"
        "if not ended: os.abort()\n"
        "print(json.dumps({'kind': name, 'shard': number, 'failures': [ended]}))\n"
    )
    monkeypatch.setattr(run_random, "__file__", str(script))
    found = run_random.Run(tmp_path).shard(("mali", 2, 7))
    assert isinstance(found, run_random.Found)
    assert "exit status -6" in found.failures[0]
    script.write_text("raise SystemExit('it never begins')")
    assert "it never begins" in str(run_random.Run(tmp_path).shard(("mali", 3, 7)))
    script.write_text("import time; time.sleep(60)")
    ends = time.monotonic() + 0.3
    assert run_random.Run(tmp_path, ends=ends).shard(("mali", 4, 7)) is None
    assert run_random.Run(tmp_path, ends=ends).shard(("mali", 5, 7)) is None
    assert time.monotonic() < ends + 20


def test_cases_run_on_the_devices_that_are_asked_for(tmp_path: Path) -> None:
    """By schedules of their own targets as well; a record says on which."""
    where = (run_random.Place("opencl:1", "opencl", "nvidia-matrix"),)
    names = [n for n in run_random.kinds(where) if n.startswith("device-")]
    targets = ("cpu", "adreno", "llvmpipe", "nvidia-matrix", "programs")
    assert names == [f"device-opencl1-{target}" for target in targets]
    asked = {name for name, _, _ in run_random.shards(100, ["device"], where)}
    assert asked == set(names)
    assert not [n for n in run_random.kinds(()) if n.startswith("device-")]
    assert run_random.places("") == ()
    (here,) = run_random.places("cpu")
    assert (here.language, here.selector) == ("opencl", "cpu") and here.target.startswith("cpu")
    found = run_random.run_shard(("device-cpu-programs", 0, 2), tmp_path, where=(here,))
    assert (len(found.cases), found.failures) == (2, [])


def test_other_shards_are_other_cases() -> None:
    first = {shard[:2] for shard in run_random.shards(1000)}
    assert not first & {shard[:2] for shard in run_random.shards(1000, first=1000)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "cpu,warp drive"], "error[D001]: no device matches `warp drive`"),
        (["--devices", "", "--only", "schedules-cray"], "no kind of case has schedules-cray"),
        (["--replay", "nowhere.json"], "there is no record nowhere.json"),
    ],
)
def test_what_is_not_there_ends_a_run_at_once(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["run_random.py", *words, "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        run_random.main()
    assert ended.value.code == 2 and said in "".join(capsys.readouterr())
    assert not list(tmp_path.iterdir())
