"""`sdlc info` and `sdlc memory`: what a model holds and takes."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import SIZES, arrays, with_sizes, write_checkpoint
from sdlc.api import Request
from sdlc.cli import status_of
from sdlc.cli_models import built, model_requests
from sdlc.graph.types import DType
from sdlc.language.diagnostics import SdlError
from sdlc.models.family import family_of
from sdlc.models.folder import default_folder
from sdlc.models.inventory import inventory
from sdlc.models.model import load_model
from sdlc.program.execute import check_sizes
from sdlc.program.program import Tensor, TensorRole
from test_models_files import fails

SMALL = with_sizes("1.x", channels=(32, 64), depths=(1, 0), layers=1, vae=(32,), text=(64, 1, 9))
NETWORK = Path(__file__).parent / "programs" / "small_network.sdl"


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert status_of([str(a) for a in (*arguments, "--json")]) == 0
    return json.loads(capsys.readouterr().out)


def test_families() -> None:
    families = {
        "emoji_diffusion": "Stable Diffusion 1.x, in sizes of its own",
        "stable-diffusion-1.5": "Stable Diffusion 1.x",
        "stable-diffusion-1.5-inpainting": "Stable Diffusion 1.x, inpainting",
        "stable-diffusion-2.1-base": "Stable Diffusion 2.x",
        "stable-diffusion-xl": "Stable Diffusion XL",
    }
    assert {name: family_of(load_model(name)) for name in families} == families


def test_parts_of_two_families_are_refused(tmp_path: Path) -> None:
    """Before a network is built, and without its weights."""
    for entry in default_folder().iterdir():
        if entry.name != "unet":
            (tmp_path / entry.name).symlink_to(entry)
    config = {**load_model("stable-diffusion-xl").unet, "_class_name": "UNet2DConditionModel"}
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    fails("M009", "2048 wide", "write 192", "XL")(lambda: load_model(tmp_path))
    config["cross_attention_dim"] = 192
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    fails("M009", "text_encoder_2")(lambda: load_model(tmp_path))


def test_a_checkpoint_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_checkpoint(tmp_path / "model.safetensors", SMALL)
    found = printed(capsys, "info", file)
    assert found["complete"] and found["prediction"] == "epsilon" and found["size"] == [64, 64]
    held = arrays(SMALL)
    starts = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
    for part in found["parts"]:
        if part["name"] in starts:
            count = sum(a.size for n, a in held.items() if n.startswith(starts[part["name"]]))
            assert part["dtypes"] == {"F16": count} and part["nbytes"] == 2 * count
        assert part["missing"] == part["misshapen"] == part["unused"] == []
    assert "model_ema.decay" in found["unread"]
    encoder = "first_stage_model.encoder."
    lost = {n: None for n in held if n.startswith(encoder)}
    found = inventory(load_model(write_checkpoint(file, SMALL, lost)))
    assert found.complete and found.parts[-1].unused == ("quant_conv.bias", "quant_conv.weight")


def test_a_checkpoint_of_xl_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In sizes of its own, of what it reads beside the texts as well."""
    found = printed(capsys, "info", write_checkpoint(tmp_path / "xl.safetensors", SIZES["xl"]))
    assert found["complete"] and found["family"] == "Stable Diffusion XL, in sizes of its own"
    assert [p["name"] for p in found["parts"]][1:] == ["text_encoder_2", "unet", "vae"]


def test_a_pooled_text_that_does_not_fit(tmp_path: Path) -> None:
    """Six sizes cannot share 95 - 48 numbers."""
    name = "model.diffusion_model.label_emb.0.0.weight"
    changes = {name: np.ones((256, 95), np.float32)}
    file = write_checkpoint(tmp_path / "model.safetensors", SIZES["xl"], changes)
    fails("M007", "add_embedding.linear_1.weight", "95", "48")(lambda: load_model(file))


def test_what_is_missing_and_what_is_too_much(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = "model.diffusion_model."
    changes = {
        f"{unet}out.2.bias": None,
        f"{unet}out.0.bias": np.ones(7, np.float32),
        f"{unet}middle_block.1.proj_on.weight": np.ones(3, np.float32),
    }
    file = write_checkpoint(tmp_path / "model.safetensors", SMALL, changes)
    found = inventory(load_model(file))
    (part,) = (p for p in found.parts if p.name == "unet")
    assert not found.complete and part.missing == ("conv_out.bias",)
    assert part.misshapen == ("conv_norm_out.bias: [7], not [32]",)
    assert part.unused == ("mid_block.attentions.0.proj_on.weight",)
    assert part.dtypes["F32"] == 10
    assert status_of(["info", str(file)]) == 0
    text = capsys.readouterr().out
    assert "missing in unet: conv_out.bias" in text and "not used in unet: mid_block.att" in text


def test_names_have_sizes_and_no_weights(capsys: pytest.CaptureFixture[str]) -> None:
    found = inventory(load_model("stable-diffusion-1.4"), has_weights=False)
    assert {p.name: p.files for p in found.parts} == dict.fromkeys(
        ("text_encoder", "unet", "vae"), ()
    )
    assert [p.parameters for p in found.parts][:2] == [123_060_480, 859_520_964]
    for nothing in ("no/where/at.all", "nothing.safetensors"):
        assert status_of(["info", nothing]) == 1
        assert "error[M001]" in capsys.readouterr().err


def test_memory_of_a_model_s_part(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("memory", "emoji_diffusion/vae", "--set", "b=2", "h=4", "w=9", "--tile", "4")
    (found,) = printed(capsys, *asked).values()
    assert 0 < found["lower_bound_bytes"] <= found["arena_bytes"] <= found["naive_bytes"]
    assert found["weights_bytes"] > 2**22 and found["staging_bytes"] > 0
    assert status_of(["memory", "stdlib/softmax.sdl"]) == 1
    sizes = ("b=1", "c=3", "h=8", "w=8", "t=5", "d=20")
    assert status_of(["memory", str(NETWORK), "--set", *sizes]) == 0
    text = capsys.readouterr().out
    assert "bytes live over its" in text and "most in dispatch" in text and "█" in text


def test_tiles_of_what_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["memory", "emoji_diffusion/unet", "--tile", "8"]) == 1
    assert "emoji_diffusion/pipeline/vae" in capsys.readouterr().err
    assert status_of(["compile", str(NETWORK), "--tile", "8"]) == 2
    assert "--set" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "tile"), [("2.1", 64), ("xl", 40)])
def test_a_decoder_that_is_too_large_is_told_of_tiles(
    name: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the share of its largest value, 256 channels of the whole picture, that can be bound."""
    what = {"precision": "f16", "sizes": (), "configs": (), "entry": None}
    place = Path(f"stable-diffusion-{name}/vae")
    (request,) = model_requests(place, "mali", what).values()
    side = load_model(place.parent).default_size[0]
    kind = DType.F16 if name == "2.1" else DType.F32
    shape = (1, 256, side, side)
    large = Tensor(
        "y", shape, kind, (0, 1, 2, 3), TensorRole.TEMPORARY, prod(shape) * kind.itemsize
    )
    monkeypatch.setattr(Request, "build", lambda _: check_sizes([large], 2**27, "the target"))
    with pytest.raises(SdlError) as caught:
        built(request)
    (said,) = caught.value.diagnostics
    assert said.code == "P007" and f"--tile {tile}, " in str(said.help)
    assert "--precision" not in str(said.help)
