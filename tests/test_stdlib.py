"""Every operator and block of the standard library against an independent NumPy formula.

Each case is drawn by Hypothesis: sizes, attributes, values. A program of one call is written, whose
result type is the formula's shape, so that declared shapes are tested as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stdlib_formulas_tensor  # noqa: F401  (adds its formulas)
import stdlib_formulas_winograd  # noqa: F401
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load, load_prelude
from sdlc.language.syntax import Definition, Function, MonoidDefinition
from stdlib_formulas import FORMULAS, Draw, Given

Floats = npt.NDArray[np.float64]


def program(case: Given) -> str:
    """The text of a model that makes the one call of a case."""
    inputs = ", ".join(f"{name}: {case.type_of(array)}" for name, array in case.inputs.items())
    results = ", ".join(f"r{i}: {case.type_of(r)}" for i, r in enumerate(case.expected))
    attributes = ", ".join(f"{name} = {written(v)}" for name, v in case.attributes.items())
    arguments = ", ".join([*case.inputs, *map(written, case.positional)])
    call = f"{case.name}({arguments}{'; ' + attributes if attributes else ''})"
    names = ", ".join(f"r{i}" for i in range(len(case.expected)))
    return f"model case({inputs}) -> ({results}) {{\n  {names} = {call}\n  return {names}\n}}\n"


def written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def run(case: Given) -> tuple[Floats, ...]:
    graph = build(load(None, program(case)), "case", {}, {}, DType.F32)
    outputs = evaluate(graph, case.inputs, case.weights, Mode.F64)
    return tuple(outputs[f"r{i}"] for i in range(len(case.expected)))


@pytest.mark.parametrize("name", sorted(FORMULAS))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_operator_is_its_formula(name: str, data: st.DataObject) -> None:
    case = FORMULAS[name](Draw(name, data))
    for got, expected in zip(run(case), case.expected, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_every_operator_and_block_has_a_formula() -> None:
    definitions = load_prelude().callables.values()
    names = {d.name for d in definitions if isinstance(d, Definition)}
    assert names == set(FORMULAS)


def test_every_definition_has_a_docstring() -> None:
    prelude = load_prelude()
    everything = [*prelude.callables.values(), *prelude.monoids.values()]
    helpers = {"resize_numerator", "resize_denominator"}
    assert [d.name for d in everything if not d.doc and d.name not in helpers] == []


def test_every_definition_is_documented() -> None:
    prelude = load_prelude()
    page = (Path(__file__).parent.parent / "docs" / "stdlib.md").read_text("utf-8")
    for definition in (*prelude.callables.values(), *prelude.monoids.values()):
        kind = getattr(definition, "kind", "")
        if isinstance(definition, Function):
            kind = "fn"
        if isinstance(definition, MonoidDefinition):
            kind = "monoid"
        assert f"`{kind} {definition.name}(" in page and definition.doc in page
