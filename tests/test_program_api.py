"""The Python interface: sizes bind, results are right, errors say what to do.

The snippets of docs/api.md run in `test_docs.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import sdlc
from sdlc.api_sizes import entry_of, size_names, sizes_of
from sdlc.language.diagnostics import SdlError
from sdlc.language.parse import parse_module
from sdlc.language.syntax import Definition

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


def definition(header: str) -> Definition:
    module = parse_module(f"{header} {{ out = x }}", "f.sdl")
    found = entry_of(module, None)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("header", "shapes", "sizes"),
    [
        ("op f(x: T[a, b]) -> T[a, b]", {"x": (2, 3)}, {"a": 2, "b": 3}),
        ("op f(x: T[*b, n]) -> T[*b, n]", {"x": (2, 3, 4)}, {"b": (2, 3), "n": 4}),
        ("op f(x: T[*b, n]) -> T[*b, n]", {"x": (4,)}, {"b": (), "n": 4}),
        ("op f(x: T[n], y: T[n, m]) -> T[n]", {"x": (2,), "y": (2, 5)}, {"n": 2, "m": 5}),
        ("op f(x: T[2 * n, 4]) -> T[n]", {"x": (6, 4)}, {}),
        ("op f(x: T[n]; n: int) -> T[n]", {"x": (6,)}, {}),
    ],
)
def test_sizes_from_shapes(
    header: str, shapes: dict[str, tuple[int, ...]], sizes: dict[str, object]
) -> None:
    found = definition(header)
    assert sizes_of(found, {name: np.zeros(shape) for name, shape in shapes.items()}) == sizes
    assert set(size_names(found)) == set(sizes)


@pytest.mark.parametrize(
    ("header", "shapes", "words"),
    [
        ("op f(x: T[a, b]) -> T[a]", {"x": (2,)}, "has 1 axes, not 2"),
        ("op f(x: T[*b, n]) -> T[n]", {"x": ()}, "has 0 axes, not at least 1"),
        ("op f(x: T[n], y: T[n]) -> T[n]", {"x": (2,), "y": (3,)}, "size `n` is 2 and 3"),
    ],
)
def test_shapes_that_do_not_bind(
    header: str, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(SdlError, match=words):
        sizes_of(definition(header), {name: np.zeros(shape) for name, shape in shapes.items()})


def test_the_entry_is_the_only_model_else_the_only_definition() -> None:
    two = "op f(x: T[n]) -> T[n] { out = x }\nop g(x: T[n]) -> T[n] { out = x }\n"
    assert entry_of(parse_module(two, "f.sdl"), None) is None
    named = entry_of(parse_module(two, "f.sdl"), "g")
    assert named is not None and named.name == "g"
    model = two + "model m(x: T[n]) -> T[n] { return x }\n"
    found = entry_of(parse_module(model, "f.sdl"), None)
    assert found is not None and found.name == "m"
