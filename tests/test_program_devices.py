"""Hand-made programs and bundles on every device of this machine: no device is skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from program_samples import COLUMNS, ROWS, affine, affine_arrays, counter
from sdlc.api_texts import target_texts
from sdlc.backends.devices import open_device
from sdlc.backends.target import load_target, target_names
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.program.bundle import read_bundle, write_bundle
from sdlc.program.execute import Executable

DEVICES = ("cpu", "pocl", "llvmpipe")
TOLERANCE = {DType.F32: 1e-6, DType.F16: 2e-3}


@pytest.mark.parametrize("weight", [DType.F32, DType.F16])
@pytest.mark.parametrize("device", DEVICES)
def test_weights_constants_and_arena(device: str, weight: DType) -> None:
    inputs, weights, expected = affine_arrays()
    made = Executable(affine(weight), open_device(device), weights).run(inputs)
    np.testing.assert_allclose(
        made["out"], expected, rtol=TOLERANCE[weight], atol=TOLERANCE[weight]
    )


@pytest.mark.parametrize("device", DEVICES)
def test_state_stays_on_the_device(device: str) -> None:
    """Writes between steps take effect in order, though nobody waits for the steps."""
    loop = Executable(counter(), open_device(device), {}, feedback={"state": "next"})
    loop.write("state", np.zeros((ROWS, COLUMNS)))
    for step in range(1, 6):
        loop.write("step", np.full((ROWS, COLUMNS), float(step)))
        loop.step()
    np.testing.assert_array_equal(loop.read("next"), np.full((ROWS, COLUMNS), 15.0))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("target", target_names())
def test_a_bundle_of_every_target(target: str, device: str, tmp_path: Path) -> None:
    """Texts made for another GPU run here, or are refused with what the device lacks."""
    program, wanted = affine(DType.F16), load_target(target)
    inputs, weights, expected = affine_arrays()
    directory = tmp_path / "b"
    write_bundle(program, target_texts(program, wanted), wanted.caps, directory, weights)
    opened = open_device(device)
    bundle = read_bundle(directory)
    spoken = set(opened.info.caps.languages) & set(wanted.caps.languages)
    moved = wanted.caps.packed_halves and wanted.caps.languages == ("opencl",)
    arithmetic = wanted.caps.f16_arithmetic and not moved
    needs_f16 = arithmetic and not opened.info.caps.f16_arithmetic
    if not spoken or needs_f16:
        with pytest.raises(SdlError, match="B006"):
            bundle.executable(opened)
        return
    made = bundle.executable(opened).run(inputs)
    np.testing.assert_allclose(made["out"], expected, rtol=2e-3, atol=2e-3)
