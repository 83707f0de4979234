"""The command line: what it prints, writes and returns, for good input and for bad."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import sdlc
from conftest import DOUBLE
from sdlc.cli import commands

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "emoji_diffusion" / "pipeline"
NET = """model net(x: T[b, n]) -> T[b, m] {
  config m = 3
  return proj: linear(x, m)
}
"""
OUTER = "-> T[b, n] { return again: linear(first: net(x), shape(x)[1]) }\n"


# ---- every command -------------------------------------------------------------------------------


def test_version(call: Any) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sdlc.__version__ == project["version"]
    assert call("--version").out == f"sdlc {sdlc.__version__}\n"
    assert call("version", "--json").json["sdlc"] == sdlc.__version__
    assert sdlc.__version__ in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_help_shows_an_example(name: str, call: Any) -> None:
    text = call(name, "--help").out
    assert "Example" in text and f"sdlc {name}" in text


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_every_command_is_documented_and_prints_json(name: str, call: Any) -> None:
    assert f"`sdlc {name}" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert "--json" in call(name, "--help").out


def test_the_list_of_commands_cuts_nothing_off(call: Any) -> None:
    lines = call("--help").out.partition("Commands:")[2].splitlines()
    assert len(lines) > 15 and not any(line.endswith("...") for line in lines)


def test_help_is_quick() -> None:
    """Nothing heavy is imported for it: no NumPy, no devices. Time is of the fastest of three."""
    code = "import sys; from sdlc.cli import status_of; status_of(['--help']); print(*sys.modules)"
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(time.perf_counter() - begin)
    loaded = set(done.stdout.split("\n")[-2].split())
    assert loaded.isdisjoint({"numpy", "rich.console", "pyopencl", "wgpu", "lark"})
    assert min(times) < 0.6  # 0.11 s alone on two cores; CI may be busy


# ---- sources -------------------------------------------------------------------------------------


def test_check_finds_errors_in_several_files(tmp_path: Path, double: Path, call: Any) -> None:
    broken = tmp_path / "broken.sdl"
    broken.write_text("op f(x: T[4]) -> T[4] {\n  out[i] = y[i] + z[i]\n}\n")
    worse = tmp_path / "worse.sdl"
    worse.write_text("op (\n\nop g( -> \n")
    found = call("check", "--syntax", double, broken, worse, status=1)
    assert f"{broken}:2" in found.err and f"{worse}:1" in found.err
    assert f"{double}: 0 definitions built; without sizes (--set): double (n)\n" in found.out
    record = call("check", "--syntax", "--json", double, broken, worse, status=1).json
    assert len(record["diagnostics"]) >= 2
    assert record["waiting"][str(double)] == {"double": ["n"]}
    assert record["diagnostics"][0]["span"]["line"] == 2


def test_check_builds_what_has_its_sizes(tmp_path: Path, double: Path, call: Any) -> None:
    assert "1 definition built" in call("check", "--syntax", double, "--set", "n=4").out
    assert "1 definition built\n" in call("check", double, "--set", "n=4").out
    tested = call("check", double, "--set", "n=4", "--target", "mali", "--examples", 2).out
    assert "double for mali: 1 kernel and the whole program agree on 4 examples" in tested


def test_the_standard_library_checks(call: Any) -> None:
    call("check", "--syntax", *sorted((ROOT / "stdlib").glob("*.sdl")))


def test_fmt(tmp_path: Path, call: Any) -> None:
    messy = tmp_path / "messy.sdl"
    text = "op  double( x:T[n] )->T[n]{\n out[i]=2*x[i]   # twice\n}\n"
    messy.write_text(text)
    assert call("fmt", "--check", messy, status=1).out == f"would change: {messy}\n"
    assert "+  out[i] = 2 * x[i]" in call("fmt", "--diff", messy, status=1).out
    assert messy.read_text() == text
    assert call("fmt", "--json", messy).json == {"changed": [str(messy)], "files": 1}
    assert "out[i] = 2 * x[i]" in messy.read_text() and "# twice" in messy.read_text()
    assert call("fmt", "--check", messy).out == "nothing to change\n"
    call("fmt", "--check", "--diff", messy, status=2)


def test_fmt_of_standard_input() -> None:
    made = CliRunner().invoke(commands, ["fmt", "-"], input=DOUBLE)
    assert made.stdout == DOUBLE


# ---- compile, run, explain -----------------------------------------------------------------------


def test_compile_then_run(tmp_path: Path, double: Path, x: Path, call: Any) -> None:
    bundle = tmp_path / "bundle"
    summary = call(
        "compile", double, "--set", "n=6", "--target", "adreno", "-o", bundle, "--json"
    ).json
    assert summary["inputs"] == {"x": [6]} and summary["dispatches"] >= 1
    assert (bundle / "manifest.json").exists()
    out = tmp_path / "out.npz"
    made = call("run", bundle, "--input", f"x={x}", "-o", out, "--json").json
    np.testing.assert_array_equal(np.load(out)["out"], 2 * np.arange(6, dtype=np.float32))
    assert made["outputs"]["out"]["max"] == 10


def test_run_binds_sizes_from_inputs(tmp_path: Path, double: Path, x: Path, call: Any) -> None:
    out = tmp_path / "out.npz"
    assert "10.0" in call("run", double, "--input", f"x={x}", "-o", out).out
    np.testing.assert_array_equal(np.load(out)["out"], 2 * np.arange(6, dtype=np.float32))


def test_run_with_weights_and_config(tmp_path: Path, call: Any) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "net.sdl").write_text(NET)
    (tmp_path / "config.json").write_text('{"m": 2}')
    random = np.random.default_rng(0)
    weights = {
        "proj.weight": random.standard_normal((2, 4)).astype(np.float32),
        "proj.bias": random.standard_normal(2).astype(np.float32),
    }
    save_file(weights, tmp_path / "w.safetensors")
    x = random.standard_normal((3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    expected = x @ weights["proj.weight"].T + weights["proj.bias"]
    common = ("--config", tmp_path / "config.json")
    out = tmp_path / "out.npz"
    inputs = ("--input", f"x={tmp_path / 'x.npy'}")
    call(
        *("run", tmp_path / "net.sdl", *inputs, *common, "-o", out),
        *("--weights", tmp_path / "w.safetensors"),
    )
    np.testing.assert_allclose(np.load(out)["out"], expected, rtol=1e-5, atol=1e-5)
    bundle = tmp_path / "bundle"
    call(
        *("compile", tmp_path / "net.sdl", "--set", "b=3", "n=4", *common, "-o", bundle),
        *("--weights", tmp_path / "w.safetensors"),
    )
    call("run", bundle, *inputs, "-o", out)
    np.testing.assert_allclose(np.load(out)["out"], expected, rtol=1e-5, atol=1e-5)
    lost = call("run", tmp_path / "net.sdl", *inputs, *common, status=1)
    assert "weight `proj.weight` is missing" in lost.err and "--weights" in lost.err
    assert "stdlib/matmul.sdl:" in lost.err and "param weight: T[o, i]" in lost.err
    bent = dict(weights, **{"proj.weight": np.zeros((2, 5), np.float32)})
    save_file(bent, tmp_path / "w.safetensors")
    path = ("--weights", tmp_path / "w.safetensors")
    wrong = call("run", tmp_path / "net.sdl", *inputs, *common, *path, status=1).err
    assert "`proj.weight` is float32[2, 5], but the program wants f32[2, 4]" in wrong
    assert "stdlib/matmul.sdl:" in wrong and "^^^^^ declared here" in wrong


def test_inputs_of_a_wrong_type(tmp_path: Path, double: Path, call: Any) -> None:
    path = tmp_path / "wrong.npy"
    for array, words in (
        (np.ones(3, complex), "complex128, which is no number"),
        (np.array(["a", "b"]), "which is no number"),
        (np.full(2, 1e300), "values that f32 cannot hold"),
        (np.zeros(0), "at least 1"),
    ):
        np.save(path, array)
        made = call("run", double, "--input", f"x={path}", status=1)
        assert words in made.err and "help:" in made.err


def test_configuration_that_is_not_used_is_listed(tmp_path: Path, call: Any) -> None:
    net, config = tmp_path / "net.sdl", tmp_path / "config.json"
    net.write_text(NET)
    config.write_text('{"m": 2, "mm": 3, "_class_name": "Net"}')
    common = ("compile", net, "--set", "b=1", "n=2", "--config", config, "-o", tmp_path / "b")
    assert "unused config  mm\n" in call(*common).out
    assert call(*common, "--json").json["unused_config"] == ["mm"]
    config.write_text('{"dropout": 0, "act": 1, "m": 2, "trained": 3, "betas": 4, "mm": 3}')
    assert "unused config  mm, " in call(*common).out
    assert "and 1 more (--json lists them)\n" in call(*common).out
    assert len(call(*common, "--json").json["unused_config"]) == 5
    config.write_text('{"m": "a"}')
    assert "E040" in call(*common, status=1).err
    net.write_text(f"{NET}model twice(x: T[b, n], y: T[b, n]? = none) {OUTER}")
    config.write_text('{"m": 2, "mm": 3, "y": false}')
    assert "unused config  mm\n" in call(*common, "--entry", "twice").out


def test_explain(double: Path, call: Any) -> None:
    common = ("explain", double, "--set", "n=6", "--target", "mali")
    text = call(*common).out
    titles = ("graph ==", "groups (1)", "dispatches (1, 6 FLOP", "kernels (1, opencl)")
    for title in (*titles, "tensors (2)", "memory"):
        assert title in text
    only = call(*common, "--section", "memory").out
    assert "arena" in only and "graph" not in only
    record = call(*common, "--json").json
    assert record["memory"]["arena"] == 0 and "__kernel" in record["kernels"][0]["text"]
    assert "lower_bound" in record["memory"]


TWICE = """
op twice(x: T[b, n], w: T[n, n]) -> T[b, n] {
  y[b, i] = sum over j < n of x[b, j] * w[j, i]
  out[b, i] = sum over j < n of y[b, j] * w[j, i]
}
"""


def test_explain_says_what_each_launch_reads_and_where_values_live(
    tmp_path: Path, call: Any
) -> None:
    file = tmp_path / "twice.sdl"
    file.write_text(TWICE)
    common = ("explain", file, "--set", "b=40", "n=64")
    text = call(*common, "--section", "dispatches", "--section", "tensors").out
    assert "0  twice_y(x, w) -> y " in text and "1  twice_y(y, w) -> out " in text
    assert "live in dispatches 0 to 1" in text and " grid " in text
    wgsl = call(*common, "--section", "kernels", "--target", "mali", "--language", "wgsl").out
    assert "@compute" in wgsl and "__kernel" not in wgsl
    refused = call(*common, "--target", "apple", "--language", "opencl", status=1).err
    assert "no opencl kernels" in refused and "use wgsl" in refused


# ---- reports -------------------------------------------------------------------------------------


def test_targets(call: Any) -> None:
    names = {t["name"] for t in call("targets", "--json").json}
    assert {"adreno", "mali", "apple", "nvidia", "cpu", "llvmpipe", "swiftshader"} <= names
    assert "adreno" in call("targets").out


def test_devices_and_doctor(call: Any) -> None:
    found = call("devices", "--json").json
    record = call("doctor", "--json").json
    assert [d["id"] for d in found] == [d["id"] for d in record["devices"]] != []
    assert all(m["help"] for m in record["missing"])
    assert found[0]["id"] in call("devices").out
    assert "numpy" in call("doctor").out


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile",),
        ("compile", "f.sdl", "--set", "n"),
        ("compile", "f.sdl", "--set", "n=two"),
        ("compile", "f.sdl", "--set", "n=0"),
        ("compile", "f.sdl", "--set", "n=1", "n=2"),
        ("compile", "f.sdl", "--precision", "f8"),
        ("run", "f.sdl", "--input", "x"),
        ("nonsense",),
        ("fmt",),
        ("generate", "x", "--size", "big"),
        ("generate", "x", "--steps", "0"),
        ("generate", "x", "--seed", "-1"),
        ("generate",),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], call: Any) -> None:
    assert "Usage:" in call(*arguments, status=2).err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compile", "{dir}/none.sdl"), "none.sdl"),
        (("compile", "{dir}"), "{dir}"),
        (("compile", "{double}", "--set", "n=4", "--target", "voodoo"), "voodoo"),
        (("compile", "{double}"), "n"),
        (("compile", "{double}", "--set", "n=4", "--entry", "triple"), "triple"),
        (("compile", "{double}", "--set", "n=4", "--config", "{dir}/no.json"), "no.json"),
        (("compile", "{double}", "--set", "n=4", "--config", "{double}"), "is not JSON"),
        (("compile", "{double}", "--set", "n=4", "-o", "{double}"), "is a file"),
        (("compile", "{double}", "--set", "n=4", "-o", "{dir}"), "no bundle"),
        (("compile", "{double}", "--set", "n=4", "-o", "{double}/x"), "`{double}` is a file"),
        (("compile", "{double}", "--set", "m=4"), "its sizes are n"),
        (("compile", "{double}", "--set", "n=4", "--weights", "{dir}/w"), "w"),
        (("run", "{dir}"), "is no bundle"),
        (("run", "{double}"), "missing"),
        (("run", "{double}", "--input", "x={dir}/none.npy"), "none.npy"),
        (("run", "{double}", "--input", "x={double}"), "no .npy file"),
        (("run", "{double}", "--input", "x=3"), "1 dimension"),
        (("run", "{double}", "--input", "x={x}", "y=1"), "no input `y`"),
        (("run", "{double}", "--input", "x={x}", "-o", "{dir}/no/out.npz"), "cannot write"),
        (("run", "{double}", "--input", "x={x}", "-o", "{double}/o.npz"), "`{double}` is a file"),
        (("run", "{double}", "--input", "x={x}", "-o", "{dir}"), "it is a folder"),
        (("run", "{double}", "--input", "x={dir}"), "cannot be read"),
        (("run", "{double}", "--input", "x={x}", "--device", "voodoo"), "voodoo"),
        (("fmt", "{x}"), "x.npy"),
        (("explain", "{dir}/none.sdl"), "none.sdl"),
    ],
)
def test_bad_input_is_one_clear_error(
    arguments: tuple[str, ...], words: str, tmp_path: Path, double: Path, x: Path, call: Any
) -> None:
    names = {"dir": tmp_path, "double": double, "x": x}
    made = call(*(a.format(**names) for a in arguments), status=1)
    assert "error[" in made.err and "help:" in made.err
    assert "X000" not in made.err and words.format(**names) in made.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["double.sdl", "x.npy"]
