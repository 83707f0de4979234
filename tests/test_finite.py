"""Values that are no numbers: the first operator to make one is named, on every device."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import sdlc
from backend_run import DEVICES, device
from sdlc.api import CompiledProgram
from sdlc.backends.devices import target_of
from sdlc.cli import status_of
from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import SdlError
from sdlc.models.painter import check_finite
from sdlc.models.pipeline import generate
from sdlc.models.settings import GenerateSettings, Progress
from sdlc.program.execute import Executable
from sdlc.program.watch import NotFiniteError, Watch
from small_models import small_model

NET = """op gate(x: T[b, n]) -> T[b, n] { out[b, i] = x[b, i] * x[b, i] }
block layer(x: T[b, n]) -> T[b, n] {
  y = up: linear(x, n; bias = false)
  return x + down: linear(act: gate(y), n)
}
model net(x: T[b, n]) -> T[b, n] {
  for i < 3 {
    x = blocks.{i}: layer(x)
  }
  return softmax(x)
}
"""
SIZES = {"b": 4, "n": 16}


@cache
def net(target: str, f32: tuple[str, ...] = (), precision: str = "f16") -> CompiledProgram:
    return sdlc.compile(NET, target=target, sizes=SIZES, precision=precision, f32=f32)


def weights(large: float = 60.0) -> dict[str, Array]:
    """Those of the second block's first product are large: their squares overflow."""
    rng = np.random.default_rng(0)
    names = [t.weight for t in net("cpu").program.raw_weights]
    shapes = {t.weight: t.shape for t in net("cpu").program.raw_weights}
    factors = {n: large if n.startswith("blocks.1.up") else 0.1 for n in names}
    return {n: factors[n] * rng.standard_normal(shapes[n]) for n in names}


X = np.random.default_rng(1).standard_normal((4, 16))


def said(made: CompiledProgram, on: object, large: float = 60.0, x: Array = X) -> str:
    """The error of a checked run."""
    with pytest.raises(SdlError) as error:
        made.run(x=x, weights=weights(large), device=on, check_finite=True)  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.parametrize("selector", DEVICES)
def test_the_first_operator_is_named(selector: str) -> None:
    target = target_of(device(selector).info).name
    text = said(net(target), device(selector))
    assert text.startswith("error[F001]: `net.blocks.1.act` made ") and "of 64 values" in text
    assert "--> <text>:1:34" in text and "operator: gate.out" in text
    assert "stored in f16, which holds at most 65,504" in text and "largest before: " in text
    assert "help: `--f32 net.blocks.1.act` keeps it in f32" in text


def test_what_the_help_says_helps() -> None:
    """Step by step: each remedy moves the overflow on, until there is none."""
    scopes: tuple[str, ...] = ()
    for _ in range(6):
        made = net("cpu", scopes)
        try:
            values = made.run(x=X, weights=weights(), device=device("cpu"), check_finite=True)
            break
        except SdlError as error:
            scopes = (*scopes, str(error).split("`--f32 ")[1].split("`")[0])
    exact = net("cpu", (), "f32").run(x=X, weights=weights(), device=device("cpu"))
    assert len(scopes) > 1 and np.abs(values["out"] - exact["out"]).max() < 2e-2


def test_a_checked_run_gives_what_a_run_gives() -> None:
    for selector in DEVICES:
        made = net(target_of(device(selector).info).name)
        arrays = {"x": X, "weights": weights(0.1), "device": device(selector)}
        plain, checked = made.run(**arrays), made.run(**arrays, check_finite=True)  # type: ignore[arg-type]
        np.testing.assert_array_equal(plain["out"], checked["out"])


def test_inputs_are_looked_at_first() -> None:
    text = said(net("cpu"), device("cpu"), 0.1, np.where(X > 2, np.inf, X))
    assert "the input `x` of `net` holds" in text and "what was given is at fault" in text


def test_where_all_is_in_f32_the_weights_are_at_fault() -> None:
    text = said(net("cpu", (), "f32"), device("cpu"), 1e30)
    assert "`net.blocks.1.act`" in text and "the weights, the inputs or the device" in text


INNER = """op root(x: T[n]) -> T[n] { out[i] = sqrt(x[i] - 1) }
op bend(x: T[n]) -> T[n] { out[i] = 2 * x[i] + 1 }
model inside(x: T[n]) -> T[n] { return bend(root(bend(x))) }
"""


@pytest.mark.parametrize("precision", ["f16", "f32"])
def test_an_operator_inside_a_kernel_is_named(precision: str) -> None:
    """`root` is computed where its values are used, and never stored."""
    made = sdlc.compile(INNER, sizes={"n": 8}, precision=precision)
    assert len(made.program.dispatches) == 1
    text = said(made, device("cpu"), x=np.linspace(-1, 1, 8))
    assert "`inside.root` made 4 of 8 values" in text and "computed in f32, and not stored" in text
    assert "which also computes bend.out" in text


IN_PLACE = """op spike(x: T[b, n]) -> T[b, n] { out[b, i] = 0.001 * x[b, i] * x[b, i] }
op boost(x: T[b, n], y: T[b, n]) -> T[b, n] { out[b, i] = 4e4 * x[b, i] + y[b, i] }
model written(x: T[b, n], w: T[n, n]) -> T[b, n] {
  h = matmul_nt(x, w)
  y = boost(matmul_nt(matmul_nt(h, w), w), spike(h))
  return matmul_nt(y, w)
}
"""


def test_a_result_in_the_place_of_its_operand_is_named() -> None:
    """The result takes the place of what it is made from."""
    made = sdlc.compile(IN_PLACE, sizes={"b": 4, "n": 16}, precision="f16")
    assert any(t.in_place_of for t in made.program.tensors.values())
    with pytest.raises(SdlError) as error:
        arrays = {"x": X, "w": np.random.default_rng(2).standard_normal((16, 16))}
        made.run(arrays, device=device("cpu"), check_finite=True)
    assert "operator: boost.out" in str(error.value) and "stored in f16" in str(error.value)


def test_what_was_overwritten_is_known() -> None:
    """A kernel's operands are those from before it ran, also the one that its result replaces."""
    made = sdlc.compile(IN_PLACE, sizes={"b": 4, "n": 16}, precision="f16")
    executable = Executable(made.program, device("cpu"), {})
    executable.give({"x": X, "w": np.random.default_rng(2).standard_normal((16, 16))})
    with pytest.raises(NotFiniteError) as error:
        Watch(executable).step()
    bad = error.value.bad
    replaced = made.program.tensors[bad.tensor].in_place_of
    assert replaced in bad.operands and np.isfinite(bad.operands[replaced]).all()
    assert not np.isfinite(bad.stored).all()


LOADED = """op sharpen(w: T[m, n]) -> T[m, n] {
  e[i, j] = exp(9 * w[i, j])
  s[j] = sum over i < m of e[i, j]
  out[i, j] = 60 * e[i, j] * s[j]
}
block loaded(x: T[b, n]) -> T[b, n] {
  param weight: T[n, n]
  return matmul_nt(x, sharpen(weight))
}
"""


def test_what_is_computed_of_weights_is_looked_at() -> None:
    made = sdlc.compile(LOADED, sizes={"b": 2, "n": 8}, precision="f16", entry="loaded")
    assert made.program.load is not None
    with pytest.raises(SdlError) as error:
        arrays = {"weight": np.ones((8, 8))}
        made.run(x=np.ones((2, 8)), weights=arrays, device=device("cpu"), check_finite=True)
    text = str(error.value)
    assert "sharpen" in text and "when: as weights were loaded" in text


def test_a_bundle_has_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is stored is named there."""
    made = sdlc.compile(INNER, sizes={"n": 8}, precision="f16")
    made.save(tmp_path / "bundle")
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 8))
    command = ["run", str(tmp_path / "bundle"), "--device", "cpu", "--check-finite"]
    assert status_of([*command, "--input", f"x={tmp_path / 'x.npy'}"]) == 1
    text = capsys.readouterr().err
    assert "error[F001]" in text and "operator: bend.out" in text


def test_a_file_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.sdl").write_text(INNER.replace("+ 1", "+ 1.5"))
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 8))
    command = ["run", str(tmp_path / "f.sdl"), "--device", "cpu", "--precision", "f16"]
    given = ["--input", f"x={tmp_path / 'x.npy'}", "--check-finite"]
    assert status_of([*command, *given]) == 1
    text = capsys.readouterr().err
    assert "`inside.root` made" in text and "1  | op root" in text
    np.save(tmp_path / "x.npy", np.linspace(1, 2, 8))
    assert status_of([*command, *given]) == 0


def test_the_step_of_a_picture_is_told(tmp_path: Path) -> None:
    """The weight is as large as f16 holds, what it multiplies is larger."""
    large = {"down_blocks.0.resnets.0.conv1.weight": 1e5}
    folder = small_model("image", tmp_path / "model", factors=large)
    settings = GenerateSettings("a cat", model=folder, device="cpu", steps=2, size=(16, 16))
    seen: list[Progress] = []
    with pytest.raises(SdlError) as error:
        half = replace(settings, precision=DType.F16)
        generate(half, seen.append, check_finite=True)
    text = str(error.value)
    assert "`unet.down_blocks.0.resnets.0` made " in text and "step: 1 of 2" in text
    assert "models/stable_diffusion/unet.sdl:" in text and "`--f32 unet.down_blocks.0" in text
    parts = {p.label for p in seen if p.stage == "check"}
    assert parts == {"text_encoder", "unet"}


def test_a_picture_that_is_no_number_says_how_to_find_out() -> None:
    with pytest.raises(SdlError, match="--check-finite"):
        check_finite(np.full(3, np.nan), "picture decoder")
