"""Files that are damaged or made up: an error with its reason, no crash, and little memory."""

from __future__ import annotations

import json
import struct
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

import sdlc
from checkpoints import arrays, with_sizes, write_checkpoint
from sdlc.backends.target import load_target
from sdlc.graph.types import DType
from sdlc.language.diagnostics import Diagnostic, SdlError
from sdlc.models.checkpoint import load_checkpoint
from sdlc.models.fits import check_fits, refusal
from sdlc.models.lora import Lora, with_loras
from sdlc.models.networks import Network, networks
from sdlc.models.pipeline import _decoder, _network, _Place
from sdlc.models.settings import GenerateSettings
from sdlc.models.weights import load_weights
from sdlc.program.execute import TooLargeError
from sdlc.program.interpreted import InterpreterDevice
from stages import device
from test_models_files import fails

MEBI = 2**20
SMALL = with_sizes("1.x", channels=(32,), depths=(0,), layers=1, vae=(32,), text=(64, 1, 9))
TENSORS = {"a.weight": np.ones((2, 3), np.float16), "b": np.arange(4, dtype=np.float32)}
FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.sampled_from([0, 1, 2, 2**31, 2**62, 2**63, 2**64])
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.floats(), st.text(max_size=5))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)
names = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "../../x", "/etc/passwd", "a\\b", "x" * 600, "a\n"])
)
types = st.one_of(
    st.sampled_from(["F16", "F32", "F64", "BF16", "I64", "I8", "BOOL", "F8_E4M3"]), values
)


def parts_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: object, body: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def attempt(file: Path) -> None:
    """Opens a file and reads all that it holds. Only SdlErrors may come of it."""
    tracemalloc.start()
    try:
        weights = load_weights(file)
        for name in weights:
            with suppress(SdlError):
                assert weights[name].shape == weights.shape(name)
    except SdlError as error:
        assert "= help:" in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * MEBI


@FUZZ
@given(
    which=st.sampled_from(["dtype", "shape", "data_offsets"]),
    value=st.one_of(values, types, st.lists(numbers, max_size=70)),
)
def test_any_value_of_any_field(which: str, value: object, tmp_path: Path) -> None:
    header, body = parts_of(save(TENSORS))
    header["a.weight"][which] = value
    (tmp_path / "w.safetensors").write_bytes(joined(header, body))
    attempt(tmp_path / "w.safetensors")


@FUZZ
@given(name=names, entry=values, notes=values)
def test_any_name_entry_and_notes(name: str, entry: object, notes: object, tmp_path: Path) -> None:
    header, body = parts_of(save(TENSORS))
    for change in ({name: header["b"]}, {"b": entry}, {"__metadata__": notes}):
        held = {k: v for k, v in header.items() if k != "b"} | change
        (tmp_path / "w.safetensors").write_bytes(joined(held, body))
        attempt(tmp_path / "w.safetensors")


@FUZZ
@given(length=st.integers(0, 2**64 - 1), cut=st.integers(0, 200), at=st.integers(0, 199))
def test_any_length_end_and_byte(length: int, cut: int, at: int, tmp_path: Path) -> None:
    whole = save(TENSORS)
    header, body = parts_of(whole)
    flipped = bytearray(whole)
    flipped[at % len(whole)] ^= 0x41
    for data in (joined(header, body, length), whole[:cut], bytes(flipped)):
        (tmp_path / "w.safetensors").write_bytes(data)
        attempt(tmp_path / "w.safetensors")


def test_a_header_of_many_brackets(tmp_path: Path) -> None:
    body = b"[" * 200_000
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(body)) + body)
    fails("W002")(lambda: load_weights(tmp_path / "w.safetensors"))


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file(TENSORS, file)
    weights = load_weights(file)
    file.write_bytes(file.read_bytes()[:-8])
    fails("W002", "has changed")(lambda: weights["a.weight"])  # the last in the file


SHAPES = st.lists(st.integers(0, 3), max_size=5)
INTERESTING = [
    n
    for n in sorted(arrays(SMALL))
    if any(w in n for w in ("conv_in", "proj_in", "embedding", "out_layers.3", "to_k", "conv_out"))
    and n.endswith("weight")
]


@settings(FUZZ, max_examples=60)
@given(name=st.sampled_from(INTERESTING), shape=SHAPES, lost=st.booleans())
def test_checkpoints_with_any_shape(
    name: str, shape: list[int], lost: bool, tmp_path: Path
) -> None:
    change = None if lost else np.ones(shape, np.float16)
    file = write_checkpoint(tmp_path / "m.safetensors", SMALL, {name: change})
    try:
        model = load_checkpoint(file)
    except SdlError as error:
        assert "= help:" in str(error)
        return
    for part in ("unet", "vae", "text_encoder"):
        assert all(model.weights(part).shape(n) is not None for n in model.weights(part))
    assert model.granule > 0


@settings(FUZZ, max_examples=60)
@given(up=SHAPES, down=SHAPES, alpha=SHAPES)
def test_loras_with_any_shape(up: list[int], down: list[int], alpha: list[int], model: Any) -> None:
    place, folder = "lora_unet_mid_block_attentions_0_proj_in", model.path.parent
    shapes = {"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}
    held = {f"{place}.{n}": np.ones(s, np.float32) for n, s in shapes.items()}
    save_file(held, folder / "lora.safetensors")
    try:
        changed = with_loras(model, [Lora(folder / "lora.safetensors")])
        changed.weights("unet")["mid_block.attentions.0.proj_in.weight"]
    except SdlError as error:
        assert "= help:" in str(error)


def test_what_fits_a_device_that_is_too_small(model: Any) -> None:
    text = "op f(x: T[n]) -> T[n] { y[i < n] = sum over j < n of max(x[j], x[i]); "
    text += "out[i] = sum over j < n of y[j] * y[i] }"
    program = sdlc.compile(text, sizes={"n": 4096}).program
    sizes, info = {"b": 2, "h": 64, "w": 32}, InterpreterDevice().info
    arena = program.memory.arena
    assert arena and model.granule == 1
    check_fits(program, sizes, model, info)
    small = replace(info, largest_bytes=arena // 4)
    advice = (
        "--size 16x32 or --batch 1, which should fit by an estimate from its area, --precision f"
    )
    fails("P010", advice, f"arena of {arena:,}")(lambda: check_fits(program, sizes, model, small))
    half = replace(program, precision=DType.F16)
    with pytest.raises(SdlError) as caught:
        check_fits(half, sizes, model, small)
    assert "area, or another device" in str(caught.value)
    fails("P010", "no size of picture")(
        lambda: check_fits(program, sizes, model, replace(info, total_bytes=100))
    )
    fails("P010", "use smaller sizes")(lambda: check_fits(program, {"b": 2, "s": 77}, model, small))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    return load_checkpoint(write_checkpoint(folder / "m.safetensors", SMALL))


@pytest.mark.parametrize("power", [1, 2])
def test_the_largest_picture_that_is_bound_is_named(model: Any, power: int) -> None:
    """Whether the largest value grows with the area or with its square; by few plans."""
    tried, limit = [], 10_000**power

    def binds(height: int, width: int) -> bool:
        tried.append((height, width))
        return (height * width) ** power <= limit

    error = TooLargeError((Diagnostic("P007", "it is too large"),), {})
    sizes = {"b": 1, "h": 600, "w": 300}
    error.share = limit / (600 * 300) ** power
    network = Network("unet.sdl", "unet", {}, sizes)
    said = str(refusal(error, network, model, DType.F16, binds))
    plans = len(tried)
    assert "should fit, or another device" in said
    assert "fit, --precision f16, or" in str(refusal(error, network, model, DType.F32, binds))
    del tried[len(tried) // 2 :]
    assert "unet: it is too large" in said and "--size 70x141, which should fit" in said
    assert binds(141, 70) and not binds(142, 71) and plans <= 3


def test_values_that_a_target_does_not_bind(model: Any) -> None:
    """The decoder goes to tiles; of another network the message says what would do."""
    target, here = load_target("cpu"), device("cpu")
    asked = GenerateSettings("", steps=1, size=(80, 80), guidance=1.0)
    sizes = next(n.sizes for n in networks(model, asked) if n.role == "decoder")
    whole = 4 * 80 * 80 * 32
    bound = replace(target, caps=replace(target.caps, max_binding=whole * 3 // 4))
    ready = _decoder(asked, model, (), _Place(bound, here, {}))
    assert (sizes["h"], ready.network.sizes["h"]) == (80, 64)
    (drawn,) = (n for n in networks(model, asked) if n.role == "sampler")
    few = replace(target, caps=replace(target.caps, max_binding=whole // 4))
    fails("P010", "unet: `", "`cpu` binds", "--size 20x20, which should fit")(
        lambda: _network(asked, model, drawn, _Place(few, here, {}))
    )
    none = replace(target, caps=replace(target.caps, max_binding=4000))
    fails("P010", "vae: `", "no size of picture would fit")(
        lambda: _decoder(asked, model, (), _Place(none, here, {}))
    )
