"""Distinct kernels of a program: what differs in names and origins only is one kernel."""

from __future__ import annotations

import numpy as np
import pytest

import sdlc

TEXT = """op grow(x: T[n]) -> T[n] { out[i] = (x[i] + 1) * 2 }
op rise(y: T[n]) -> T[n] { out[i] = (y[i] + 1) * FACTOR }
op sink(a: T[n], b: T[m]) -> (up: T[n], down: T[m]) {
  up = grow(a)
  down = rise(b)
}
"""


@pytest.mark.parametrize(("factor", "size", "kernels"), [("2", 8, 1), ("3", 8, 2), ("2", 9, 2)])
def test_equal_kernels_are_one_whatever_their_names(factor: str, size: int, kernels: int) -> None:
    text = TEXT.replace("FACTOR", factor)
    made = sdlc.compile(text, entry="sink", sizes={"n": 8, "m": size})
    program = made.program
    assert len(program.kernels) == kernels and len(program.dispatches) == 2
    bound = [tuple(tensor for _, tensor in d.bindings) for d in program.dispatches]
    assert bound == [("a", "up"), ("b", "down")]
    a, b = np.arange(8, dtype=np.float32), np.arange(size, dtype=np.float32) - 3
    found = made.run(a=a, b=b, device="cpu")
    np.testing.assert_array_equal(found["up"], (a + 1) * 2)
    np.testing.assert_array_equal(found["down"], (b + 1) * int(factor))
    kernel = program.kernels[program.dispatches[0].kernel]
    assert [o.definition for o in kernel.origins] == ["grow"]
