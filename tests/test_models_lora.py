"""Low-rank changes of weights: both styles of names, scales, and files for other models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints import Sizes, Tensor, parts, with_sizes, write_checkpoint
from sdlc.models.folder import Model
from sdlc.models.lora import Lora, parse_lora, with_loras
from sdlc.models.model import load_model
from test_models_files import fails

Array = np.ndarray[Any, Any]
RANK, ALPHA = 3, 1.5
SMALL = with_sizes("1.x", channels=(32, 64), depths=(1, 0), layers=1, vae=(32,), text=(64, 2, 9))
LARGE = with_sizes(
    "xl", channels=(64, 128), depths=(0, 1), vae=(32,), text=(64, 2, 9), second=(64, 2, 9), middle=1
)


@pytest.fixture(params=[SMALL, LARGE], ids=["1.x", "xl"])
def sizes(request: pytest.FixtureRequest) -> Sizes:
    made: Sizes = request.param
    return made


def model_of(sizes: Sizes, folder: Path) -> Model:
    return load_model(write_checkpoint(folder / "model.safetensors", sizes))


def changed(sizes: Sizes) -> Iterator[tuple[str, Tensor, str]]:
    """Part, tensor and diffusers' module of every matrix and convolution of the networks."""
    for part, (_, tensors) in parts(sizes).items():
        for tensor in tensors if part != "vae" else ():
            for new in tensor.made:
                if new.endswith(".weight") and len(tensor.shape) > 1 and "embedding" not in new:
                    yield part, tensor, new.removesuffix(".weight")


def shape_of(model: Model, part: str, module: str) -> tuple[int, ...]:
    return model.weights(part).shape(f"{module}.weight")


def factors(shape: tuple[int, ...], generator: Any) -> tuple[Array, Array]:
    """Up and down; the window of a convolution is in the second."""
    up = generator.standard_normal((shape[0], RANK, *(1 for _ in shape[2:])))
    down = generator.standard_normal((RANK, *shape[1:]))
    return up.astype(np.float16), down.astype(np.float16)


def kohya(part: str, tensor: Tensor, module: str, sizes: Sizes) -> str:
    """Its name of a module: of SDXL's network by original names, else by diffusers'."""
    start = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}[part]
    if sizes.second and part == "unet":
        module = tensor.original.removesuffix(".weight")
    return (start if not sizes.second else start.replace("te_", "te1_")) + module.replace(".", "_")


STYLES = {
    "kohya": (kohya, "lora_up.weight", "lora_down.weight", True),
    "diffusers": (lambda p, t, m, s: f"{p}.{m}", "lora_B.weight", "lora_A.weight", False),
    "diffusers with alpha": (
        lambda p, t, m, s: f"{p}.{m}",
        "lora.up.weight",
        "lora.down.weight",
        True,
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_every_layer_is_changed(style: str, sizes: Sizes, tmp_path: Path) -> None:
    naming, up, down, with_alpha = STYLES[style]
    model, generator = model_of(sizes, tmp_path), np.random.default_rng(1)
    held: dict[str, Array] = {}
    products: dict[tuple[str, str], Array] = {}
    for part, tensor, module in changed(sizes):
        a, b = factors(shape_of(model, part, module), generator)
        name = naming(part, tensor, module, sizes)
        held |= {f"{name}.{up}": a, f"{name}.{down}": b}
        if with_alpha:
            held[f"{name}.alpha"] = np.array(ALPHA, np.float32)
        columns = (m.astype(np.float64).reshape(n, -1) for m, n in ((a, len(a)), (b, RANK)))
        products[part, module] = np.matmul(*columns)
    save_file(held, tmp_path / "lora.safetensors")
    after = with_loras(model, [Lora(tmp_path / "lora.safetensors", 0.5)])
    factor = 0.5 * (ALPHA / RANK if with_alpha else 1)
    for (part, module), product in products.items():
        before = model.weights(part)[f"{module}.weight"].astype(np.float64)
        wanted = before + factor * product.reshape(before.shape)
        got = after.weights(part)[f"{module}.weight"]
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5, err_msg=module)
    untouched = "conv_norm_out.weight"
    np.testing.assert_array_equal(
        after.weights("unet")[untouched], model.weights("unet")[untouched]
    )
    assert after.weights("vae").changes == {}


def one(model: Model, **changes: Any) -> dict[str, Array]:
    """A change of one matrix, in the first diffusers' names."""
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    a, b = factors(shape_of(model, "unet", name), np.random.default_rng(2))
    old = f"unet.{name.replace('.to_k', '.processor.to_k_lora')}"
    return {f"{old}.up.weight": a, f"{old}.down.weight": b} | changes


def test_changes_add_up_and_old_names_are_known(tmp_path: Path) -> None:
    model = model_of(SMALL, tmp_path)
    save_file(one(model), tmp_path / "a.safetensors")
    twice = with_loras(model, [Lora(tmp_path / "a.safetensors", s) for s in (0.25, 0.5)])
    once = with_loras(model, [Lora(tmp_path / "a.safetensors", 0.75)])
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    x, y, z = (m.weights("unet")[name] for m in (model, once, twice))
    np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)
    assert np.abs(x - y).max() > 0.1


def test_how_they_are_given(tmp_path: Path) -> None:
    assert parse_lora("a/b.safetensors") == Lora(Path("a/b.safetensors"), 1.0)
    assert parse_lora("b.safetensors:-0.5") == Lora(Path("b.safetensors"), -0.5)
    assert parse_lora("b:x.safetensors") == Lora(Path("b:x.safetensors"), 1.0)
    assert str(parse_lora("b.safetensors:0.80")) == "b.safetensors:0.8"
    fails("L001", "nan")(lambda: parse_lora("b.safetensors:nan"))


def test_files_that_are_refused(tmp_path: Path) -> None:
    model, file = model_of(SMALL, tmp_path), tmp_path / "x.safetensors"

    def refused(held: dict[str, Array], code: str, *words: str) -> None:
        save_file(held, file)
        fails(code, *words)(lambda: with_loras(model, [Lora(file)]))

    fails("L001", "no such file")(lambda: with_loras(model, [Lora(tmp_path / "none")]))
    matrix = np.ones((RANK, 64), np.float32)
    good = one(model)
    down = next(n for n in good if "down" in n)
    refused({"some.weight": matrix}, "L001", "is no LoRA", "some.weight")
    refused({down: matrix}, "L001", "without the factors")
    refused(good | {"lora_unet_x.hada_w1_a": matrix}, "L003", "hada_w1_a")
    refused(good | {"lora_unet_x.lora_mid.weight": matrix}, "L003", "lora_mid")
    refused(good | {down: np.ones((RANK, 2048), np.float32)}, "L002", "[32, 64]", "1.x")
    refused(good | {down: np.ones((RANK + 1, 64), np.float32)}, "L002", "another model")


def test_a_file_for_another_family_says_whose_it_is(tmp_path: Path) -> None:
    large = "lora_unet_input_blocks_8_1_transformer_blocks_3_attn2_to_k"
    second = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    held = {
        f"{name}.lora_{kind}.weight": np.ones(shape, np.float32)
        for name, wide in ((large, 2048), (second, 1280))
        for kind, shape in (("up", (1280, 4)), ("down", (4, wide)))
    }
    model, file = model_of(SMALL, tmp_path), tmp_path / "x.safetensors"
    for part in (held, {name: factor for name, factor in held.items() if second in name}):
        save_file(part, file)
        fails("L002", "for one of Stable Diffusion XL", "1.x", second)(
            lambda: with_loras(model, [Lora(file)])
        )


def test_factors_that_are_not_finite(tmp_path: Path) -> None:
    model = model_of(SMALL, tmp_path)
    held = one(model)
    save_file({n: np.full_like(a, np.nan) for n, a in held.items()}, tmp_path / "x.safetensors")
    after = with_loras(model, [Lora(tmp_path / "x.safetensors")])
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    fails("W006", "not a number")(lambda: after.weights("unet")[name])
