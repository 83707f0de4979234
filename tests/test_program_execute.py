"""Programs in a device's memory: storage, state, checks. The device is the kernel interpreter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from program_samples import COLUMNS, ROWS, affine, affine_arrays, counter, tensor
from sdlc.graph.types import DType
from sdlc.kernel.ir import Kernel
from sdlc.language.diagnostics import SdlError
from sdlc.program.device import DeviceInfo
from sdlc.program.execute import Executable
from sdlc.program.interpreted import HOST_CAPABILITIES, InterpreterDevice, run_interpreted
from sdlc.program.load import weight_pools
from sdlc.program.memory import conflicts, lifetimes_of, relocate
from sdlc.program.program import Dispatch, TensorRole
from sdlc.program.values import load, store


@pytest.mark.parametrize("weight", [DType.F32, DType.F16])
def test_a_program_runs_with_permuted_weights_and_constants(weight: DType) -> None:
    inputs, weights, expected = affine_arrays()
    result = run_interpreted(affine(weight), inputs, weights)
    tolerance = 1e-6 if weight is DType.F32 else 2e-3
    np.testing.assert_allclose(result["out"], expected, rtol=tolerance, atol=tolerance)


def test_an_executable_runs_again_with_other_inputs() -> None:
    _, weights, _ = affine_arrays()
    executable = Executable(affine(), InterpreterDevice(), weights)
    for seed in (1, 2):
        inputs, _, _ = affine_arrays(seed)
        expected = inputs["x"] * weights["layer.w"] + affine().constants["c"]
        np.testing.assert_allclose(executable.run(inputs)["out"], expected, rtol=1e-6)


def test_every_kernel_can_be_changed_before_it_is_interpreted() -> None:
    inputs, weights, _ = affine_arrays()
    seen: list[str] = []

    def note(kernel: Kernel) -> Kernel:
        seen.append(kernel.name)
        return kernel

    run_interpreted(affine(), inputs, weights, note)
    assert seen == ["scale", "shift"]


def test_feedback_keeps_the_state_on_the_device() -> None:
    device = CountingDevice()
    loop = Executable(counter(), device, {}, feedback={"state": "next"})
    loop.write("state", np.zeros((ROWS, COLUMNS)))
    loop.write("step", np.full((ROWS, COLUMNS), 2.0))
    for _ in range(5):
        loop.step()
    assert device.reads == 0
    np.testing.assert_array_equal(loop.read("next"), np.full((ROWS, COLUMNS), 10.0))
    np.testing.assert_array_equal(loop.read("state"), loop.read("next"))
    loop.write("state", np.ones((ROWS, COLUMNS)))
    loop.step()
    np.testing.assert_array_equal(loop.read("next"), np.full((ROWS, COLUMNS), 3.0))


class CountingDevice(InterpreterDevice):
    reads = 0

    def read(self, memory: object, offset: int, nbytes: int) -> bytes:
        self.reads += 1
        return super().read(memory, offset, nbytes)  # type: ignore[arg-type]


def test_feedback_between_unlike_tensors_is_refused() -> None:
    with pytest.raises(SdlError, match="P003"):
        Executable(counter(), InterpreterDevice(), {}, feedback={"state": "nxt"})
    program = counter()
    unlike = {**program.tensors, "state": tensor("state", TensorRole.INPUT, (COLUMNS, ROWS))}
    with pytest.raises(SdlError, match="P006"):
        Executable(
            replace(program, tensors=unlike),
            InterpreterDevice(),
            {},
            feedback={"state": "next"},
        )


# ---- weights -------------------------------------------------------------------------------------


def test_a_missing_weight_names_shape_line_and_near_names() -> None:
    inputs, _, _ = affine_arrays()
    with pytest.raises(SdlError) as caught:
        run_interpreted(affine(), inputs, {"layer.ww": np.zeros((ROWS, COLUMNS), np.float32)})
    assert str(caught.value) == (
        "error[P001]: weight `layer.w` is missing: the program wants f32[3, 5]\n"
        "  --> affine.sdl:2:3\n"
        "   = in: affine\n"
        "   = help: did you mean `layer.ww`?"
    )


def test_a_weight_of_another_shape_names_both_shapes() -> None:
    inputs, _, _ = affine_arrays()
    with pytest.raises(SdlError) as caught:
        run_interpreted(affine(), inputs, {"layer.w": np.zeros((COLUMNS, ROWS), np.float16)})
    message = str(caught.value)
    assert "P002" in message and "float16[5, 3]" in message and "f32[3, 5]" in message
    assert "affine.sdl:2:3" in message


def test_a_weight_beyond_f16_is_refused() -> None:
    inputs, weights, _ = affine_arrays()
    weights["layer.w"] = weights["layer.w"] + 1e6
    with pytest.raises(SdlError, match="that f16 cannot hold"):
        run_interpreted(affine(DType.F16), inputs, weights)


# ---- inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({}, "P003", "input `x` of `affine` is missing"),
        ({"x": np.zeros((3, 5)), "y": 1}, "P003", "has no input `y`"),
        (
            {"x": np.zeros((5, 3))},
            "P004",
            "float64[5, 3], but the program was compiled for f32[3, 5]",
        ),
        ({"x": np.array([["a"]])}, "P005", "which is no number"),
        ({"x": np.full((3, 5), 1e60)}, "P005", "values that f32 cannot hold"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, object], code: str, words: str) -> None:
    _, weights, _ = affine_arrays()
    with pytest.raises(SdlError) as caught:
        run_interpreted(affine(), inputs, weights)
    assert code in str(caught.value) and words in str(caught.value)


def test_integers_are_taken_for_floats_but_not_the_other_way() -> None:
    _, weights, _ = affine_arrays()
    result = run_interpreted(affine(), {"x": np.ones((ROWS, COLUMNS), np.int64)}, weights)
    np.testing.assert_allclose(result["out"], weights["layer.w"] + affine().constants["c"])
    whole = {**affine().tensors, "x": tensor("x", TensorRole.INPUT, dtype=DType.I32)}
    with pytest.raises(SdlError, match="convert the array to integers"):
        run_interpreted(replace(affine(), tensors=whole), {"x": np.ones((ROWS, COLUMNS))}, weights)


def test_unknown_names_suggest_the_nearest() -> None:
    executable = Executable(counter(), InterpreterDevice(), {})
    with pytest.raises(SdlError, match="did you mean `state`"):
        executable.write("stat", 0)
    with pytest.raises(SdlError, match="did you mean `next`"):
        executable.read("nxt")


# ---- memory --------------------------------------------------------------------------------------


def test_a_tensor_larger_than_a_binding_is_refused() -> None:
    device = InterpreterDevice(replace(HOST_CAPABILITIES, max_binding=32))
    with pytest.raises(SdlError, match=r"P007.*60 bytes, more than"):
        Executable(affine(), device, affine_arrays()[1])


class SmallDevice(InterpreterDevice):
    """A device that says how much memory it has, and allocates none."""

    def __init__(self, largest: int, total: int) -> None:
        super().__init__()
        self._limits = {"largest_bytes": largest, "total_bytes": total}

    @property
    def info(self) -> DeviceInfo:
        return replace(super().info, **self._limits)

    def allocate(self, nbytes: int) -> Any:
        raise AssertionError(f"{nbytes} bytes were allocated")


@pytest.mark.parametrize(("largest", "total"), [(32, 0), (0, 100)])
def test_more_memory_than_there_is_is_refused_before_any_is_allocated(
    largest: int, total: int
) -> None:
    with pytest.raises(SdlError, match=r"P010.*kernel interpreter") as caught:
        Executable(affine(), SmallDevice(largest, total), affine_arrays()[1])
    text = str(caught.value)
    assert f"limit: {largest or total} bytes" in text and "arena: " in text
    with pytest.raises(AssertionError, match="allocated"):
        Executable(affine(), SmallDevice(2**20, 2**20), affine_arrays()[1])


def test_weights_are_split_at_the_binding_limit() -> None:
    pools = weight_pools(affine(), alignment=64, limit=128)
    assert [[(t.name, offset) for t, offset in pool] for pool in pools] == [[("w", 0), ("c", 64)]]
    assert len(weight_pools(affine(), alignment=64, limit=100)) == 2


def test_a_program_is_placed_anew_for_a_coarser_alignment() -> None:
    program = affine()
    caps = replace(HOST_CAPABILITIES, offset_alignment=256)
    moved = relocate(program, caps)
    assert moved.tensors["t"].offset == 0 and relocate(moved, caps) is moved
    lives = lifetimes_of(moved.tensors, moved.dispatches)
    assert conflicts(lives, {"t": moved.tensors["t"].offset}) == []
    inputs, weights, expected = affine_arrays()
    result = Executable(program, InterpreterDevice(caps), weights).run(inputs)
    np.testing.assert_allclose(result["out"], expected, rtol=1e-6)


def test_a_tensor_that_nobody_wrote_shows() -> None:
    """The arena begins as NaN, so an order of dispatches that reads too early is seen."""
    inputs, weights, _ = affine_arrays()
    program = affine()
    early = replace(program, dispatches=(program.dispatches[1],))
    assert np.isnan(run_interpreted(early, inputs, weights)["out"]).all()


def test_lifetimes_span_the_first_and_last_dispatch() -> None:
    tensors = {n: tensor(n, TensorRole.TEMPORARY) for n in ("a", "b")}
    dispatches = [Dispatch("k", (("p", n),)) for n in ("a", "b", "a", "b")]
    lives = lifetimes_of(tensors, dispatches)
    assert [(life.name, life.first, life.last) for life in lives] == [("a", 0, 2), ("b", 1, 3)]


@given(st.permutations(range(4)), st.tuples(*[st.integers(1, 4)] * 4), st.sampled_from(list(DType)))
def test_storage_is_undone_by_loading(
    order: list[int], shape: tuple[int, ...], dtype: DType
) -> None:
    stored = tensor("s", TensorRole.WEIGHT, shape, dtype, order=tuple(order))
    values = (np.arange(np.prod(shape)) % 100).reshape(shape).astype(dtype.numpy)
    data = store(values, replace(stored, nbytes=stored.nbytes + 6))
    assert len(data) == stored.nbytes + 6
    np.testing.assert_array_equal(load(data, stored), values)
    first = np.frombuffer(data, dtype.numpy, count=shape[order[-1]])
    index = [0, 0, 0, 0]
    for i in range(shape[order[-1]]):
        index[order[-1]] = i
        assert first[i] == values[tuple(index)]
