"""Networks at their published sizes, and a whole picture, beside diffusers. Not in the suite: it
needs PyTorch, gigabytes of memory and of disk, and minutes.

    pip install '.[cpu,parity]'
    python tests/parity_full.py [--model stable-diffusion-1.4] [--size 512x512] [--steps 5]
        [--guidance 5] [--device cpu] [--peer PYTHON] [--folder DIR] [--json FILE]

The weights are seeded random ones, in f16 as they are published, with the spread that keeps
activations in the range of real ones (`tests/seeded_weights.py`). Everything is computed in f32 by
both sides, from the same token ids, noise and pictures, one process at a time. `--peer` is a Python
that has diffusers (default: this one). In DIR every stage's results are kept, so that a run that
was cut off goes on (default: a temporary folder).

`error` is the norm of the difference as a share of the norm of diffusers' result, and `largest` the
largest difference as a share of its largest value. Those of networks must be at most 1e-3, those of
the last latents at most 5e-3: latents of the random network are as many times wider than real ones
(whose spread is about 1) as `spread` says, so a share is what can be compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from folders import write_folder
from sdlc.backends.devices import open_device, target_of
from sdlc.graph.types import Array, DType
from sdlc.models.folder import Config, Model, load_folder
from sdlc.models.image import to_pixels
from sdlc.models.named import named_model
from sdlc.models.networks import Network, compiled, networks, tokenizers_of
from sdlc.models.packed import open_network
from sdlc.models.painter import make_noise
from sdlc.models.pipeline import generate
from sdlc.models.prompts import tokenize
from sdlc.models.settings import GenerateSettings, Progress
from sdlc.program.device import Device

PEER = Path(__file__).parent / "peer_pipeline.py"
PROMPT, NEGATIVE = "a photograph of an astronaut riding a horse", "blurry"
LIMITS = {"text": 1e-3, "encoder": 1e-3, "unet": 1e-3, "decoder": 1e-3, "pipeline": 5e-3}
"""By stage."""
Results = Mapping[str, Array]
CLASSES = {
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "scheduler": "DDIMScheduler",
}


def main() -> None:
    args = arguments()
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        return compare(args, args.folder.resolve())
    with tempfile.TemporaryDirectory() as made:
        compare(args, Path(made))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="stable-diffusion-1.4", help="a named model")
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has diffusers")
    parser.add_argument("--folder", type=Path, help="where results are kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def compare(args: argparse.Namespace, place: Path) -> None:
    model = model_in(place, args.model)
    width, height = map(int, args.size.split("x"))
    settings = GenerateSettings(
        PROMPT,
        NEGATIVE,
        model=model.path,
        device=args.device,
        steps=args.steps,
        size=(width, height),
        guidance=args.guidance,
    )
    ours = Ours(place, model, settings, open_device(args.device))
    seconds = {f"sdlc {name}": spent for name, spent in ours.all().items()}
    command = [args.peer, "-P", "-W", "ignore", str(PEER), str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        for line in peer.stdout:
            found = json.loads(line)
            seconds[f"diffusers {found['stage']}"] = found["seconds"]
            say(f"diffusers {found['stage']}: {found['seconds']:.1f} s")
    if peer.returncode:
        sys.exit(f"the peer ended with {peer.returncode}")
    rows = tuple(row for stage in LIMITS for row in rows_of(place, stage))
    show(rows, decibels(place))
    if args.json is not None:
        asked = {n: getattr(args, n) for n in ("model", "size", "steps", "guidance", "device")}
        table = [{**asdict(row), "holds": row.holds} for row in rows]
        found = {**asked, "rows": table, "decibels": decibels(place), "seconds": seconds}
        args.json.write_text(json.dumps(found, indent=1))
    if not all(row.holds for row in rows):
        sys.exit("an error is above its limit")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ---- what both sides are given -------------------------------------------------------------------


def model_in(place: Path, name: str) -> Model:
    """The folder of a named model's sizes, written unless it is whole."""
    folder, whole = place / "model", place / "model.written"
    if not whole.exists():
        say(f"writing {name} with seeded weights")
        known = named_model(name)
        configs: Mapping[str, Config] = {
            part: getattr(known, part) for part in CLASSES if getattr(known, part)
        }
        large = "text_encoder_2" in configs
        kind = "StableDiffusionXLPipeline" if large else "StableDiffusionPipeline"
        parts = {part: (CLASSES[part], config) for part, config in configs.items()}
        write_folder(folder, kind, parts, known.tokenizers, np.float16)
        whole.touch()
    return load_folder(folder)


@dataclass(frozen=True)
class Ours:
    """What sdlc gives, stage by stage; each stage's results are kept in `place`."""

    place: Path
    model: Model
    settings: GenerateSettings
    device: Device

    def all(self) -> dict[str, float]:
        """Runs the stages whose results are not there; seconds by stage."""
        seconds = {}
        stages = {"inputs": self.inputs, "text": self.text, "encoder": self.encoder}
        stages |= {"unet": self.unet, "decoder": self.decoder, "pipeline": self.pipeline}
        for name, stage in stages.items():
            file = self.place / ("inputs.npz" if name == "inputs" else f"ours-{name}.npz")
            begin = time.perf_counter()
            if not file.exists():
                np.savez(self.place / "new.npz", **stage())
                (self.place / "new.npz").rename(file)
            seconds[name] = time.perf_counter() - begin
            say(f"sdlc {name}: {seconds[name]:.1f} s")
        return seconds

    def inputs(self) -> dict[str, Any]:
        """Token ids, noise, a picture; and for the network alone, states of the texts."""
        rng = np.random.default_rng(7)
        drawn = self.network("sampler")
        c, h, w, m, d = (drawn.sizes[n] for n in "chwmd")
        scale, steps = self.model.pixels_per_latent, self.settings.steps
        noise = make_noise(self.settings.seed, 1, (c, h, w))
        found: dict[str, Any] = {
            "noise": noise,
            "latents": rng.standard_normal((1, c, h, w)).astype(np.float32),
            "latent": rng.standard_normal((m, c, h, w)).astype(np.float32),
            "timestep": np.full(m, 501, np.float32),
            "context": rng.standard_normal((m, drawn.sizes["t"], d)).astype(np.float32),
            "picture": rng.uniform(-1, 1, (1, 3, h * scale, w * scale)).astype(np.float32),
            "steps": np.array(steps),
            "guidance": np.array(self.settings.guidance),
            "size": np.array([h * scale, w * scale]),
        }
        if "p" in drawn.sizes:
            numbers = [h * scale, w * scale, 0, 0, h * scale, w * scale]
            found["sizes"] = np.array([numbers] * m, np.float32)
            found["pooled"] = rng.standard_normal((m, drawn.sizes["p"])).astype(np.float32)
        for part, tokenizer in tokenizers_of(self.model).items():
            tokens = [tokenize(tokenizer, text, 1) for text in self.settings.texts]
            found[f"{part}.ids"] = np.concatenate([each.ids for each in tokens])
            found[f"{part}.last"] = np.concatenate([each.last for each in tokens])
        return found

    def network(self, role: str) -> Network:
        wanted = replace(self.settings, init=Path("none")) if role == "encoder" else self.settings
        return next(n for n in networks(self.model, wanted) if n.role == role)

    def run(self, network: Network, given: Results) -> dict[str, Array]:
        target = target_of(self.device.info)
        program = compiled(network, self.model, target, DType.F32, self.device)
        opened = open_network(program, self.device, self.model.weights(network.part))
        return dict(opened.run(given))

    def given(self) -> Results:
        return np.load(self.place / "inputs.npz")

    def text(self) -> dict[str, Array]:
        held = self.given()
        found = self.run(self.network("text"), {"ids": held["text_encoder.ids"]})
        context, pooled = found["out"], {}
        if self.model.text_encoder_2:
            ids, last = held["text_encoder_2.ids"], held["text_encoder_2.last"]
            found = self.run(self.network("text_2"), {"ids": ids, "last": last})
            context = np.concatenate([context, found["states"]], axis=2)
            pooled = {"pooled": found["pooled"]}
        return {"context": context, **pooled}

    def encoder(self) -> dict[str, Array]:
        return self.run(self.network("encoder"), {"picture": self.given()["picture"]})

    def unet(self) -> dict[str, Array]:
        """The network without sampler and guidance."""
        drawn, held = self.network("sampler"), self.given()
        added = {"pooled", "sizes"} & set(held)
        config = {**self.model.unet, **dict.fromkeys(added, True)}
        sizes = {n: drawn.sizes[n] for n in "chwtdpq" if n in drawn.sizes}
        alone = Network("unet.sdl", "unet", config, {"b": drawn.sizes["m"], **sizes})
        names = ("latent", "timestep", "context", *sorted(added))
        return self.run(alone, {name: held[name] for name in names})

    def decoder(self) -> dict[str, Array]:
        return self.run(self.network("decoder"), {"latent": self.given()["latents"]})

    def pipeline(self) -> dict[str, Array]:
        """The last latents of `generate` and its picture, -1 … 1."""

        def tell(progress: Progress) -> None:
            say(f"  {progress.stage} {progress.done}/{progress.total}: {progress.seconds:.1f} s")

        made = generate(self.settings, tell)
        return {"latents": made.latents, "pixels": made.pixels}


# ---- the comparison ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A result beside diffusers': shares as the module says, the limit, the result's spread."""

    what: str
    error: float
    largest: float
    limit: float
    spread: float

    @property
    def holds(self) -> bool:
        return self.error <= self.limit and self.largest <= self.limit


def rows_of(place: Path, stage: str) -> Iterator[Row]:
    """Every result that both sides have of a stage."""
    ours, theirs = (np.load(place / f"{side}-{stage}.npz") for side in ("ours", "peer"))
    for name in sorted(set(ours) & set(theirs)):
        got, wanted = ours[name].astype(np.float64), theirs[name].astype(np.float64)
        error = float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
        largest = float(np.abs(got - wanted).max() / np.abs(wanted).max())
        what = stage if name == "out" else f"{stage} {name}"
        yield Row(what, error, largest, LIMITS[stage], float(wanted.std()))


def decibels(place: Path) -> float:
    """The pictures' ratio of peak signal to noise."""
    ours = np.load(place / "ours-pipeline.npz")["pixels"].astype(np.float64)
    theirs = to_pixels(np.load(place / "peer-pipeline.npz")["picture"]).astype(np.float64)
    return float(10 * np.log10(255**2 / max(np.mean((ours - theirs) ** 2), 1e-12)))


def show(rows: Iterable[Row], decibels: float) -> None:
    print(f"{'':20}{'error':>9} {'largest':>9} {'limit':>9} {'spread':>9}")
    for row in rows:
        numbers = (row.error, row.largest, row.limit)
        print(f"{row.what:20}{''.join(f'{n:9.1e} ' for n in numbers)}{row.spread:9.3g}")
    print(f"{'pictures':20}{decibels:9.1f} dB")


if __name__ == "__main__":
    main()
