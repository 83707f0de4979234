"""The Python interface: sizes bind, results are right, errors say what to do.

The snippets of docs/api.md run in `test_docs.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import sdlc
from sdlc.language.diagnostics import SdlError

ROOT = Path(__file__).parents[1]
DOUBLE = "op double(x: T[n]) -> T[n] { out[i] = 2 * x[i] }"


def test_every_public_name_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    for name in set(sdlc.__all__) - {"__version__"}:
        assert getattr(sdlc, name) is not None
        assert f"`sdlc.{name}" in text or f"`{name}`" in text
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sdlc.nothing  # noqa: B018


def test_sizes_left_open_are_bound_by_each_run() -> None:
    program = sdlc.compile(DOUBLE)
    for n in (3, 5, 3):
        np.testing.assert_array_equal(program.run(x=np.ones(n))["out"], np.full(n, 2.0))
    with pytest.raises(SdlError, match=r"P008.*\n.*sizes=\{\"n\": 1\}"):
        program.save("nowhere")


def test_rules_are_chosen_by_name() -> None:
    text = "op f(x: T[s, t], v: T[t, e]) -> T[s, e] { return matmul(softmax(x), v) }"
    sizes = {"s": 9, "t": 40, "e": 8}

    def fired(**chosen: tuple[str, ...]) -> set[str]:
        found = sdlc.compile(text, sizes=sizes, **chosen).explain()
        return {rule.name for rule in found.rules if rule.fired}

    usual = fired()
    assert "flash_attention" in usual and "softmax_split" not in usual
    assert "flash_attention" not in fired(without=("flash_attention",))
    assert fired(only=("softmax_split",)) == {"softmax_split"}
    assert "softmax_split" in fired(only=("default", "softmax_split"), without=("flash_attention",))
    with pytest.raises(SdlError, match="did you mean `softmax_split`"):
        sdlc.compile(text, sizes=sizes, only=("softmax_splt",))


def test_inputs_may_be_a_mapping() -> None:
    program = sdlc.compile(DOUBLE.replace("x", "device"))
    made = program.run({"device": np.ones(2)}, device="cpu")
    np.testing.assert_array_equal(made["out"], [2, 2])


def test_what_is_compiled_is_kept() -> None:
    program = sdlc.compile(DOUBLE, sizes={"n": 3})
    first = program.program
    program.run(x=np.ones(3))
    assert program.program is first
    with pytest.raises(SdlError, match="P004"):
        program.run(x=np.ones(4))


def test_save_explain_and_memory(tmp_path: Path) -> None:
    program = sdlc.compile(DOUBLE, sizes={"n": 4}, target="mali", precision="f16")
    assert (program.save(tmp_path / "b") / "manifest.json").exists()
    explanation = program.explain()
    assert "mali" in str(explanation) and explanation.memory["arena"] == program.memory.arena
    json.dumps(explanation.as_json(), default=str)


def test_configurations_merge(tmp_path: Path) -> None:
    text = (
        "model m(x: T[n]) -> T[n] {\n  config a = 1.0\n  config b = 1.0\n"
        "  y[i] = a * x[i] + b\n  return y\n}"
    )
    (tmp_path / "config.json").write_text('{"a": 3.0, "b": 4.0}')
    program = sdlc.compile(text, config=[tmp_path / "config.json", {"b": 5.0}])
    np.testing.assert_array_equal(program.run(x=np.ones(2))["out"], [8, 8])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"precision": "f8"}, "unknown precision"),
        ({"target": "voodoo"}, "voodoo"),
        ({"entry": "triple", "sizes": {"n": 3}}, "triple"),
        ({"config": "none.json"}, "cannot be read"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(SdlError, match=words) as caught:
        sdlc.compile(DOUBLE, **arguments)  # type: ignore[arg-type]
    assert all(d.help for d in caught.value.diagnostics)


def test_devices_and_targets() -> None:
    assert "cpu" in {d.id for d in sdlc.devices()}
    assert {"adreno", "nvidia"} <= {t.name for t in sdlc.targets()}


# ---- sizes ---------------------------------------------------------------------------------------

SUM = "op f(x: T[*b, n], y: T[n], mask: T[n]? = none) -> T[*b, n] {\n"
SUM += "  z[*b, i] = x[*b, i] + y[i]\n  if mask != none {\n"
SUM += "    z[*b, i] = z[*b, i] * mask[i]\n  }\n  return z\n}"


def test_spreads_and_optional_inputs_are_bound_by_arrays() -> None:
    program = sdlc.compile(SUM)
    assert program.request.missing_sizes() == ("b", "n")
    x, y, mask = np.ones((2, 3, 4)), np.arange(4.0), np.full(4, 2.0)
    np.testing.assert_array_equal(program.run(x=x, y=y)["out"], x + y)
    np.testing.assert_array_equal(program.run(x=x, y=y, mask=mask)["out"], (x + y) * 2)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"x": (), "y": (2,)}, "at least 1 dimension"),
        ({"x": (2,), "y": (2, 2)}, "has 1 dimension"),
        ({"x": (2,), "y": (3,)}, "`n` is 3 in the input `y`, but 2 in `x`"),
        ({"x": (2,)}, "input `y` of `f` is missing"),
        ({"x": (2,), "y": (2,), "w": (2,)}, "no input `w`"),
        ({"x": (0,), "y": (0,)}, "size `n` is 0"),
    ],
)
def test_arrays_that_bind_no_sizes(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(SdlError, match=re.escape(words)) as caught:
        sdlc.compile(SUM).run({name: np.zeros(shape) for name, shape in shapes.items()})
    assert all(d.help for d in caught.value.diagnostics)
