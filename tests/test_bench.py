"""`sdlc bench`: what it measures and writes. No test looks at how long anything takes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdlc.api import make_request
from sdlc.backends.devices import open_device
from sdlc.cli import status_of
from sdlc.cli_bench import figures, profile_rows
from sdlc.cli_bench_run import ablation_rows, largest_error, requests, with_rules
from sdlc.graph.mechanisms import DEFAULT
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate_rule import load_rules
from sdlc.language.library import load
from sdlc.program.execute import Executable
from sdlc.program.interpreted import InterpreterDevice
from sdlc.program.profile import Measured, moved_bytes, profile, summed
from sdlc.program.profile_data import RandomWeights, random_inputs

NET = """model net(x: T[b, n]) -> T[b, n] {
  y = first: linear(x, 8)
  return softmax(second: linear(gelu(y), n))
}
"""
SIZES = ("--set", "b=3", "n=5")
WHAT: dict[str, Any] = {"entry": None, "configs": (), "sizes": (), "precision": "f32"}
WHAT |= {"without": (), "only": (), "records": None}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.sdl"
    path.write_text(NET)
    return path


@pytest.fixture
def bench(net: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object, status: int = 0, program: object = net) -> str:
        capsys.readouterr()
        got = status_of(["bench", str(program), *(str(a) for a in arguments)])
        out, err = capsys.readouterr()
        assert got == status, out + err
        return out if status == 0 else err

    return run


def test_small_numbers_keep_three_figures() -> None:
    assert [figures(x) for x in (0, 4.04, 1639.2)] == ["0.0", "4.0", "1639.2"]
    assert [figures(x, 2) for x in (0.0123456, 0.25, 74.9)] == ["0.0123", "0.25", "74.90"]


def test_table(bench: Any) -> None:
    text = bench(*SIZES, "-n", 2, "--profile")
    assert "median ms" in text and "against the reference" in text
    assert "kernel" in text and "GB/s" in text and "%" in text


def test_json(bench: Any) -> None:
    got = json.loads(bench(*SIZES, "-n", 3, "--profile", "--json"))
    assert got["device"]["id"] and got["rounds"] == 3
    (program,) = got["programs"]
    assert program["name"] == "net" and program["row"] == "" and program["precision"] == "f32"
    assert len(program["seconds"]) == 3 and program["flop"] > 0
    assert min(program["seconds"]) <= program["median_seconds"] <= max(program["seconds"])
    assert program["against"] == "reference" and program["max_error"] < 1e-5
    assert program["weight_bytes"] == 4 * (8 * 5 + 8 + 5 * 8 + 5)
    assert len(program["profile"]) == program["dispatches"]
    assert sum(d["flop"] for d in program["profile"]) == program["flop"]
    assert program["compile_seconds"] > 0


def test_ablation(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    got = bench(*SIZES, "-n", 1, "--ablation", "--json", "--plot", tmp_path / "plot.html")
    rows = json.loads(got)["programs"]
    assert [r["row"] for r in rows] == [r.name for r in ablation_rows()]
    assert all(r["max_error"] < 1e-5 and r["against"] == "reference" for r in rows)
    assert rows[0]["rules"] == [] and set(DEFAULT) <= set(rows[-1]["rules"])
    page = (tmp_path / "plot.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "<svg" in page and "<script" not in page
    assert "Baseline" in page and "Winograd" in page


def test_ablation_without_a_reference(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large program is compared with the baseline's f32 results, and the table says so."""
    monkeypatch.setattr("sdlc.cli_bench_run.REFERENCE_FLOP", 0)
    text = bench(*SIZES, "-n", 1, "--ablation", "--precision", "f16")
    assert "against the baseline f32" in text


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of programs, once for each run of one; every row is timed alone, and a row is what
    others are compared with."""
    made: list[str] = []
    step = Executable.step

    def counted(self: Executable) -> None:
        made.append(self.program.name)
        step(self)

    monkeypatch.setattr(Executable, "step", counted)
    monkeypatch.setattr("sdlc.cli_bench_run.LONG_SECONDS", 0.0)
    monkeypatch.setattr("sdlc.cli_bench_run.REFERENCE_FLOP", 0)
    return made


def test_runs_of_an_ablation(bench: Any, steps: list[str]) -> None:
    """Each row runs once to give its outputs and be warm, then as often as asked for and as there
    is time; the first row's outputs are those that others are compared with."""
    rows = json.loads(bench(*SIZES, "-n", 2, "--ablation", "--json"))["programs"]
    assert len(steps) == 3 * len(rows) and all(len(r["seconds"]) == 2 for r in rows)
    assert rows[0]["max_error"] is None and not rows[0]["against"]
    assert all(r["max_error"] < 1e-5 and r["against"] == "baseline f32" for r in rows[1:])
    steps.clear()
    rows = json.loads(bench(*SIZES, "-n", 2, "--seconds", 0, "--ablation", "--json"))["programs"]
    assert len(steps) == 2 * len(rows) and all(len(r["seconds"]) == 1 for r in rows)


@pytest.mark.parametrize(("run", "kept"), [(1, 0), (6, 2)])
def test_what_an_interrupted_ablation_has_timed(
    net: Path,
    run: int,
    kept: int,
    steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rows are printed when they are there, and one of which a run was timed is."""
    step = Executable.step

    def interrupted(self: Executable) -> None:
        step(self)
        if len(steps) == run:
            raise KeyboardInterrupt

    monkeypatch.setattr(Executable, "step", interrupted)
    for more in ((), ("--json",)):
        steps.clear()
        assert status_of(["bench", str(net), *SIZES, "-n", "2", "--ablation", *more]) == 130
        out, err = capsys.readouterr()
        assert "interrupted" in err
        named = [row.name for row in ablation_rows() if row.name in out]
        assert named == [row.name for row in ablation_rows()][:kept]
        assert not (more and kept) or len(json.loads(out)["programs"]) == kept


def test_rows_of_the_ablation() -> None:
    """Rules that there are; each row has those of the one above, the first none."""
    rows = ablation_rows()
    known = {rule.name for rule in load_rules(load(None, NET))}
    assert not rows[0].rules and set(rows[-1].rules) >= set(DEFAULT)
    for above, below in pairwise(rows):
        assert set(above.rules) <= set(below.rules) <= known


def test_rows_store_less() -> None:
    """Scores and probabilities in the baseline, one of them once softmax is split, then neither."""
    sizes = {"b": 2, "s": 256, "t": 256, "w": 16, "u": 16}
    text = Path(__file__).parent.parent / "stdlib" / "attention.sdl"
    request = make_request(text, "cpu", "attention", sizes, (None, "f32"))
    found = {
        row.name: with_rules(request, row.rules).build().program.memory.arena
        for row in ablation_rows()
    }
    scores = 2 * 256 * 256 * 4
    assert 2 * scores <= found["Baseline"] < 3 * scores
    assert scores <= found["+ Opt. Softmax"] < 1.2 * scores
    assert found["+ FlashAttention"] < scores / 2


def test_trace(bench: Any, tmp_path: Path) -> None:
    """What the trace-event format asks for; the device's slices lie in the phase that ran them."""
    path = tmp_path / "trace.json"
    bench(*SIZES, "-n", 2, "--trace", path)
    events = json.loads(path.read_text())["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X"}
    for event in events:
        assert isinstance(event["name"], str) and {"pid", "tid", "args"} <= set(event)
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0
    threads = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert set(threads) == {"host", "device"}
    slices = [e for e in events if e["ph"] == "X"]
    device = [e for e in slices if e["tid"] == threads["device"]]
    phase = next(e for e in slices if e["name"] == "profile")
    assert device and all(e["args"]["FLOP"] >= 0 and e["args"]["bytes"] > 0 for e in device)
    assert all(phase["ts"] <= e["ts"] for e in device)
    assert any("second" in e["name"] for e in device)


def test_plot_of_a_profile(bench: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    bench(*SIZES, "-n", 1, "--plot", tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes(bench: Any, tmp_path: Path) -> None:
    assert "no program or model `nothing`" in bench(program="nothing", status=1)
    assert "no network" in bench(program="emoji_diffusion/tokens", status=1)
    assert ".html" in bench(*SIZES, "--plot", tmp_path / "plot.gif", status=2)
    assert "cannot write" in bench(*SIZES, "--trace", tmp_path / "no" / "t.json", status=1)
    assert "no target `cpi`" in bench(*SIZES, "--target", "cpi", status=1)
    assert "-n" in bench(*SIZES, "-n", 0, status=2)
    assert "--only" in bench(*SIZES, "--ablation", "--only", "halo", status=2)
    assert "`halo`" in bench(*SIZES, "--without", "hallo", status=1)
    assert "`b`" in bench(status=1)


def test_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The shipped model by name or path, whole or one network; sizes go where they belong."""
    from sdlc.backends.target import load_target
    from sdlc.models.folder import default_folder

    monkeypatch.chdir(tmp_path)
    target = load_target("cpu")
    whole = requests(Path("emoji_diffusion"), target, WHAT)
    assert list(whole) == ["text_encoder", "unet", "vae"]
    small = {**WHAT, "sizes": ("h=8", "w=8")}
    (unet,) = requests(default_folder() / "unet", target, small).values()
    assert unet.sizes["h"] == 8 and unet.sizes["t"] == whole["unet"].sizes["t"]
    assert "h" not in requests(Path("emoji_diffusion"), target, small)["text_encoder"].sizes
    with pytest.raises(SdlError, match="K001"):
        requests(tmp_path / "none" / "there", target, WHAT)


def test_profile_of_a_program() -> None:
    """Every dispatch has a time; the bytes are those of what it binds."""
    program = make_request(NET, "cpu", None, {"b": 3, "n": 5}, (None, "f32")).build().program
    executable = Executable(program, InterpreterDevice(), RandomWeights(program))
    for name, array in random_inputs(program).items():
        executable.write(name, array)
    measured = profile(executable, rounds=2)
    assert [m.kernel for m in measured] == [d.kernel for d in program.dispatches]
    assert all(m.seconds > 0 for m in measured)
    assert all(a.begin < b.begin for a, b in pairwise(measured))
    assert moved_bytes(program, program.dispatches[0]) == measured[0].nbytes > 4 * 3 * 5


@pytest.mark.parametrize("device", ["cpu", "pocl", "llvmpipe"])
def test_devices_say_when_launches_ran(device: str) -> None:
    """In order, none before the one before it had ended; the outputs are those of a plain step."""
    program = make_request(NET, "cpu", None, {"b": 3, "n": 5}, (None, "f32")).build().program
    executable = Executable(program, open_device(device), RandomWeights(program))
    outputs = executable.run(random_inputs(program))
    timings = executable.profile()
    assert len(timings) == len(program.dispatches) and timings[0].begin == 0
    assert all(t.end >= t.begin for t in timings)
    assert all(a.end <= b.begin for a, b in pairwise(timings))
    np.testing.assert_array_equal(executable.read("out"), outputs["out"])


def test_a_device_without_a_clock(monkeypatch: pytest.MonkeyPatch, bench: Any) -> None:
    """It is timed as a whole; asking for more is an error that says so."""
    monkeypatch.setattr("sdlc.backends.webgpu_device.CLOCK", "a clock that no adapter has")
    assert "median ms" in bench(*SIZES, "-n", 1, "--device", "llvmpipe")
    assert "D033" in bench(*SIZES, "-n", 1, "--device", "llvmpipe", "--profile", status=1)


def test_sums_of_a_profile() -> None:
    one = Measured("a", "k", 10, 4, 0.0, 1.0)
    two, three = Measured("b", "l", 30, 4, 1.0, 3.0), Measured("c", "k", 20, 4, 4.0, 1.5)
    first, second = summed((one, two, three), lambda m: m.kernel)
    assert (first.name, first.count, first.flop_rate) == ("l", 1, 10)
    assert (second.count, second.seconds, second.flop, second.nbytes) == (2, 2.5, 30, 8)
    many = tuple(Measured("", f"k{n}", 1, 1, 0.0, 1.0 + n) for n in range(60))
    rows = profile_rows(many)
    assert rows[-1][0] == "20 others" and rows[0][0] == "k59"


def test_random_values_are_repeatable() -> None:
    program = make_request(NET, "cpu", None, {"b": 3, "n": 5}, (None, "f16")).build().program
    first, again = RandomWeights(program), RandomWeights(program)
    assert len(first) == 4 and set(first) == {
        "first.weight",
        "first.bias",
        "second.weight",
        "second.bias",
    }
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert array.dtype == np.float16 and np.isfinite(array).all()
    other = RandomWeights(program, seed=1)
    assert not np.array_equal(first["first.weight"], other["first.weight"])


def test_largest_error() -> None:
    assert largest_error(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert largest_error(np.zeros(2), np.zeros(2)) == 0
