"""Checkpoints in the original layout, and models by name: read, described, refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints import SIZES, Sizes, arrays, expected, parts, with_sizes, write_checkpoint
from sdlc.cli_common import request_from
from sdlc.cli_models import model_requests
from sdlc.graph.node import Input, Role, topological
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.models.checkpoint import load_checkpoint
from sdlc.models.folder import SOURCES, Model, default_folder
from sdlc.models.model import load_model, part_weights
from sdlc.models.named import named, named_model
from sdlc.models.prompts import tokenize
from sdlc.models.tokenizer import load_tokenizer
from sdlc.models.vocabulary import CLIP, OPEN_CLIP
from sdlc.models.weights import check_weights, load_weights
from test_models_files import fails


@pytest.fixture(params=list(SIZES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_tensor_is_found_under_its_new_name(family: str, tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "model.safetensors", SIZES[family])
    model = load_checkpoint(file)
    wanted = expected(SIZES[family], arrays(SIZES[family]))
    for part, tensors in wanted.items():
        weights = model.weights(part)
        assert sorted(weights) == sorted(tensors)
        for name, array in tensors.items():
            assert weights.shape(name) == array.shape
            np.testing.assert_array_equal(weights[name], array, err_msg=name)
    assert bool(model.text_encoder_2) == ("text_encoder_2" in wanted)


@pytest.mark.parametrize("family", ["1.x", "2.x", "1.x inpainting"])
def test_the_configuration_makes_networks_of_the_weights(family: str, tmp_path: Path) -> None:
    """Each network that its configuration describes has exactly the weights that are there."""
    model = load_checkpoint(write_checkpoint(tmp_path / "model.safetensors", SIZES[family]))
    latent = {"b": 1, "h": 16, "w": 16}
    context = {"t": 7, "d": SIZES[family].text[0]}
    networks = (
        ("unet.sdl", "unet", model.unet, {**latent, **context, "c": SIZES[family].given}),
        ("text_encoder.sdl", "text_encoder", model.text_encoder, {"b": 1, "s": 7}),
        ("vae_decoder.sdl", "vae", model.vae, {**latent, "c": 4}),
    )
    for source, part, config, bound in networks:
        library = load(SOURCES / source)
        graph = build(library, None, bound, config, DType.F32)
        check_weights(graph, model.weights(part), library.sources, str(model.path))


def test_a_part_of_a_checkpoint_is_weights(tmp_path: Path) -> None:
    """What `--weights` of compile and run takes."""
    file = write_checkpoint(tmp_path / "model.safetensors", SIZES["1.x inpainting"])
    weights = part_weights(file / "vae")
    assert sorted(weights) == sorted(load_checkpoint(file).weights("vae"))
    assert "model_ema.decay" in part_weights(file)
    assert len(part_weights(default_folder() / "unet")) == 326
    fails("M002", "no part `unit`")(lambda: part_weights(file / "unit"))
    fails("W001", "no weights at")(lambda: part_weights(tmp_path / "x" / "unet"))


def test_sizes_are_read_from_shapes(tmp_path: Path) -> None:
    model = load_checkpoint(write_checkpoint(tmp_path / "a.safetensors", SIZES["xl"]))
    assert model.unet["block_out_channels"] == [64, 128, 128]
    assert model.unet["transformer_layers_per_block"] == [1, 2, 3]
    assert model.unet["attention_head_dim"] == [1, 2, 2]
    assert model.unet["down_block_types"] == ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2
    assert model.unet["cross_attention_dim"] == 192
    assert model.unet["projection_class_embeddings_input_dim"] == 96
    assert model.unet["addition_time_embed_dim"] == (96 - 48) // 6
    assert model.unet["addition_embed_type"] == "text_time"
    assert model.text_encoder_2["projection_dim"] == 48
    assert model.vae["scaling_factor"] == 0.13025
    assert model.tokenizers == {"tokenizer": CLIP, "tokenizer_2": OPEN_CLIP}
    model = load_checkpoint(write_checkpoint(tmp_path / "b.safetensors", SIZES["2.x"]))
    assert model.text_encoder["num_hidden_layers"] == 2  # the last of three is not used
    assert model.text_encoder["hidden_act"] == "gelu"
    assert model.tokenizers == {"tokenizer": OPEN_CLIP}


def test_what_the_network_predicts(tmp_path: Path) -> None:
    def prediction(model: Model) -> tuple[object, object]:
        return model.scheduler["prediction_type"], model.unet["sample_size"]

    file = write_checkpoint(tmp_path / "a.safetensors", SIZES["2.x"])
    assert prediction(load_checkpoint(file)) == ("v_prediction", 96)
    assert prediction(load_checkpoint(file, "epsilon")) == ("epsilon", 64)
    file.with_suffix(".yaml").write_text("model:\n  params: {}\n")
    assert prediction(load_checkpoint(file)) == ("epsilon", 64)
    held = arrays(SIZES["1.x"])
    save_file(held, file, {"modelspec.prediction_type": "v"})
    assert prediction(load_checkpoint(file)) == ("v_prediction", 64)
    file = write_checkpoint(tmp_path / "b.safetensors", SIZES["xl"], {"v_pred": np.ones(1)})
    assert prediction(load_checkpoint(file)) == ("v_prediction", 128)


def test_the_shipped_model_as_a_checkpoint(tmp_path: Path) -> None:
    """Its folder's weights, written under original names, are read back as they were."""
    sizes = Sizes((96, 160, 192), (1, 1, 0), 1, (64, 64, 96, 96), (192, 3, 2048))
    held = {}
    for part in ("unet", "text_encoder", "vae"):
        weights = load_weights(default_folder() / part)
        prefix, tensors = parts(sizes)[part]
        for tensor in tensors:
            for new in tensor.made:
                if new in weights:
                    held[prefix + tensor.original] = weights[new].reshape(tensor.shape)
    save_file({n: np.ascontiguousarray(a) for n, a in held.items()}, tmp_path / "m.safetensors")
    model = load_model(tmp_path / "m.safetensors", "v_prediction")
    for part in ("unet", "text_encoder", "vae"):
        again, weights = model.weights(part), load_weights(default_folder() / part)
        for name in again:
            np.testing.assert_array_equal(again[name], weights[name])
    shipped = load_model(None)
    for name in ("block_out_channels", "cross_attention_dim", "layers_per_block"):
        assert model.unet[name] == shipped.unet[name]
    for name in ("block_out_channels", "layers_per_block", "latent_channels"):
        assert model.vae[name] == shipped.vae[name]


# ---- what is refused -----------------------------------------------------------------------------


def test_pickles_are_refused_with_the_way_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    fails("M006", "pickle", "safetensors.torch.save_file")(
        lambda: load_model(tmp_path / "model.ckpt")
    )
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    fails("M006", "model.gguf")(lambda: load_model(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x.weight", "Stable Diffusion 3"),
        ("lora_unet_down_blocks_0_x.alpha", "--lora"),
        ("down_blocks.0.resnets.0.conv1.weight", "the folder above"),
        ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
        ("some.weight", "no checkpoint in the original layout"),
        ("model.diffusion_model.out.0.weight", "without its vae and text_encoder"),
    ],
)
def test_other_files_are_said_to_be_what_they_are(name: str, said: str, tmp_path: Path) -> None:
    save_file({name: np.ones(1, np.float32)}, tmp_path / "x.safetensors")
    fails("M007", "x.safetensors", said)(lambda: load_model(tmp_path / "x.safetensors"))


def test_checkpoints_with_a_hole(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    lost = "model.diffusion_model.middle_block.1.proj_in.weight"
    write_checkpoint(file, SIZES["1.x"], {lost: None})
    fails("M007", "mid_block.attentions.0.proj_in.weight")(lambda: load_model(file))
    odd = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    write_checkpoint(file, SIZES["1.x"], {odd: np.ones(3)})
    fails("M007", "has 1 axes, not 2")(lambda: load_model(file))
    write_checkpoint(file, with_sizes("1.x", given=5))
    fails("M007", "takes 5 channels")(lambda: load_model(file))
    twice = "cond_stage_model.transformer.final_layer_norm.bias"
    write_checkpoint(file, SIZES["1.x"], {twice: np.ones(64)})
    fails("W004", "final_layer_norm.bias")(lambda: load_model(file))


# ---- names ---------------------------------------------------------------------------------------


def test_named_models_have_the_published_sizes() -> None:
    small = named_model("stable-diffusion-1.5")
    assert small.unet == named_model("stable-diffusion-1.4").unet
    assert small.default_size == (512, 512) and small.granule == 8
    assert named_model("stable-diffusion-2.1").default_size == (768, 768)
    assert named_model("stable-diffusion-xl").default_size == (1024, 1024)
    fails("M005", "has no weights")(lambda: small.weights("unet"))
    fails("M001", "stable-diffusion-1.4")(lambda: named_model("stable-diffusion-9"))


def test_named_networks_have_the_published_number_of_parameters() -> None:
    model = named_model("stable-diffusion-1.4")
    sizes = {"b": 1, "h": 8, "w": 8, "t": 2, "c": 4, "d": 768}
    graph = build(load(SOURCES / "unet.sdl"), None, sizes, model.unet, DType.F32)
    weights = [n for n in topological(graph) if isinstance(n, Input) and n.role is Role.WEIGHT]
    assert sum(int(np.prod(n.shape)) for n in weights) == 859_520_964


def test_every_named_model_loads() -> None:
    for name in named():
        model = load_model(name)
        assert model.unet["in_channels"] in (4, 9) and model.vae["latent_channels"] == 4
        assert set(model.tokenizers) <= {"tokenizer", "tokenizer_2"}


def test_named_models_are_programs(tmp_path: Path) -> None:
    what = {"entry": None, "configs": (), "sizes": ("h=8",), "precision": "f16"}
    found = model_requests(Path("stable-diffusion-2.1"), "mali", what)
    assert list(found) == ["text_encoder", "unet", "vae"]
    assert found["unet"].sizes["d"] == 1024 and found["unet"].sizes["h"] == 8
    request = request_from(Path("stable-diffusion-2.1/vae"), "mali", **what)
    assert request.target.name == "mali" and request.sizes["w"] == 96
    fails("K001", "3 networks", "stable-diffusion-2.1/unet")(
        lambda: request_from(Path("stable-diffusion-2.1"), "mali", **what)
    )
    fails("K001", "no program or model")(lambda: request_from(tmp_path / "x", "mali", **what))
    fails("M001", "model_index.json")(lambda: request_from(tmp_path, "mali", **what))


def test_clip_s_vocabulary() -> None:
    """Ids that are published with the model's examples."""
    ids = tokenize(load_tokenizer(CLIP), "a photo of a cat", 1).ids[0]
    assert ids[:8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    ids = tokenize(load_tokenizer(OPEN_CLIP), "a cat", 1).ids[0]
    assert ids[:5].tolist() == [49406, 320, 2368, 49407, 0]


# ---- the hub -------------------------------------------------------------------------------------


@pytest.mark.parametrize("only_half", [False, True])
def test_names_of_the_hub(only_half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetch(name: str, **what: Any) -> str:
        asked.append((name, what))
        return str(default_folder())

    def described(name: str, timeout: float) -> SimpleNamespace:
        files = ["unet/config.json", "unet/model.fp16.safetensors"]
        files += [] if only_half else ["unet/model.safetensors"]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    library = SimpleNamespace(snapshot_download=fetch, model_info=described)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    assert load_model("some-one/a_model.v1").path == default_folder()
    ((name, what),) = asked
    assert name == "some-one/a_model.v1"
    assert not any("bin" in pattern for pattern in what["allow_patterns"])
    assert ("*.fp16.*" in what["ignore_patterns"]) != only_half


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, **_: Any) -> str:
        raise ConnectionError("no route to host\nmore")

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    fails("M008", "pip install huggingface_hub")(lambda: load_model("some/name"))
    library = SimpleNamespace(snapshot_download=fetch)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    fails("M008", "no route to host", "network")(lambda: load_model("some/name"))
    fails("M001", "there is no folder")(lambda: load_model("../some/name"))
