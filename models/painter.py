"""The networks of a model on a device, and the latents between them.

In: compiled networks and their weights. Out: contexts, latents, decoded pictures. Invariant:
between sampling steps no tensor returns to the host; a network's weights are on the device from its
first use until it is released. Errors: SdlError G003 (values that are not finite), or of what is
used (W, T, D, P).

    painter.start(painter.encode("a cat", ""), noise, guidance=5.0)
    painter.step()
    painter.decode(painter.latents())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import failure
from sdlc.models.cache import Compiled
from sdlc.models.folder import Model
from sdlc.models.networks import Network, tokenizers_of
from sdlc.models.packed import open_network
from sdlc.models.prompts import Tokens, emphasise, tokenize
from sdlc.models.samplers import SAMPLERS, Schedule
from sdlc.models.tiles import by_tiles
from sdlc.program.device import Device
from sdlc.program.execute import Executable
from sdlc.program.finite import Notes
from sdlc.program.host import give_back

FEEDBACK = MappingProxyType({"state": "next_state", "step": "next_step"})
NO_EXTRA: Mapping[str, Array] = MappingProxyType({})


class Check(Protocol):
    """Somebody who looks at what a network does."""

    def opened(self, executable: Executable) -> None:
        """Its weights are on the device."""

    def step(self, executable: Executable, notes: Notes) -> None:
        """Its inputs are there: runs a step; `notes` say which, if there is something wrong."""


@dataclass(slots=True)
class Ready:
    """A compiled network of a model, opened on a device when it is first used."""

    network: Network
    compiled: Compiled
    folder: Model
    device: Device
    check: Check | None = None
    _open: Executable | None = None

    @property
    def precision(self) -> DType:
        """What it stores values in."""
        return self.compiled[0].precision

    def open(self) -> Executable:
        """The network with its weights on the device."""
        if self._open is None:
            weights = self.folder.weights(self.network.part)
            feedback = FEEDBACK if self.network.part == "unet" else {}
            self._open = open_network(self.compiled, self.device, weights, feedback)
            if self.check is not None:
                self.check.opened(self._open)
        return self._open

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        executable = self.open()
        executable.give(inputs)
        self.step()
        return executable.results()

    def step(self, notes: Notes = ()) -> None:
        """One step, finished when this returns; `notes` say which, if there is something wrong."""
        executable = self.open()
        if self.check is not None:
            self.check.step(executable, notes)
        else:
            executable.step()
        executable.finish()

    def release(self) -> None:
        """Frees its memory on the device."""
        self._open = None
        give_back()


@dataclass(slots=True)
class Painter:
    """The networks of a model, ready to draw pictures of one size. `ready` has them by role.
    `keep` keeps each on the device while others run."""

    folder: Model
    device: Device
    batch: int
    latent_shape: tuple[int, int, int]
    schedule: Schedule
    ready: Mapping[str, Ready]
    keep: bool = True
    warnings: list[str] = field(default_factory=list)

    @property
    def encoder(self) -> Executable:
        return self.ready["text"].open()

    @property
    def sampler(self) -> Executable:
        return self.ready["sampler"].open()

    @property
    def decoder(self) -> Executable:
        return self.ready["decoder"].open()

    def done_with(self, *roles: str) -> None:
        """Releases networks, unless they are kept."""
        for role in roles:
            if not self.keep and role in self.ready:
                self.ready[role].release()

    def encode(self, prompt: str, negative: str) -> Array:
        """The context f32[texts b, t, d]: b times the negative text, where there is guidance, then
        b times the prompt."""
        return self.conditions(prompt, negative)["context"]

    def conditions(self, prompt: str, negative: str) -> dict[str, Array]:
        """What the network is told of the texts, by input: `context`, and for SDXL `pooled`."""
        count, length = self.sampler_sizes["m"] // self.batch, self.folder.tokens
        texts = (negative, prompt)[2 - count :]
        chunks = self.sampler_sizes["t"] // length
        states: list[Array] = []
        found: dict[str, Array] = {}
        for part, tokenizer in tokenizers_of(self.folder).items():
            tokens = [tokenize(tokenizer, text, chunks) for text in texts]
            if part == "text_encoder":
                self.warnings += [_cut_warning(t.cut, chunks) for t in tokens if t.cut]
            rows = [self._encode_row(part, tokens, row) for row in range(chunks)]
            states.append(np.concatenate([row["states"] for row in rows], axis=1))
            found |= {name: x for name, x in rows[0].items() if name != "states"}
        found["context"] = np.concatenate(states, axis=2)
        if count == 2 and not negative and self.folder.text_encoder_2:
            # SDXL was trained to see zeros, not an empty text, where there is none.
            found = {n: np.concatenate([np.zeros_like(x[:1]), x[1:]]) for n, x in found.items()}
        return {name: np.repeat(x, self.batch, axis=0) for name, x in found.items()}

    def _encode_row(self, part: str, tokens: Sequence[Tokens], row: int) -> dict[str, Array]:
        """What a text encoder makes of one row of each text."""
        ids = np.stack([each.ids[row] for each in tokens])
        if part == "text_encoder":
            found = {"states": self.ready["text"].run({"ids": ids})["out"]}
        else:
            last = np.stack([each.last[row] for each in tokens])
            found = self.ready["text_2"].run({"ids": ids, "last": last})
        for values in found.values():
            check_finite(values, part.replace("_", " "))
        weights = np.stack([each.weights[row] for each in tokens])
        return {**found, "states": emphasise(found["states"], weights)}

    @property
    def sampler_sizes(self) -> Mapping[str, int]:
        """The sizes that the sampling step was compiled for."""
        return self.ready["sampler"].network.sizes

    def start(
        self,
        context: Array,
        latents: Array,
        guidance: float,
        extra: Mapping[str, Array] = NO_EXTRA,
    ) -> None:
        """Puts the first latents in place, f32[b, c, h, w], and what the network is told."""
        rows, parts = self.sampler_sizes["n"], SAMPLERS[self.schedule.sampler].parts
        table = self.schedule.table
        state = np.zeros((parts, *latents.shape), np.float32)
        state[0] = latents
        given = {
            "context": context,
            "table": np.pad(table, ((0, rows - len(table)), (0, 0))),
            "guidance": np.float32(guidance),
            "state": state,
            "step": np.zeros(1, np.int32),
        }
        for name, value in {**given, **extra}.items():
            if name in self.sampler.program.inputs:
                self.sampler.write(name, value)

    def step(self, noise: Callable[[], Array] | None = None, number: int = 0) -> None:
        """One sampling step, the `number`-th, finished when this returns. `noise` is called where
        the sampler adds some."""
        if noise is not None and "noise" in self.sampler.program.inputs:
            self.sampler.write("noise", noise())
        self.ready["sampler"].step((("step", f"{number} of {len(self.schedule.times)}"),))

    def latents(self) -> npt.NDArray[np.float32]:
        """f32[b, c, h, w] after the last step."""
        return np.asarray(self.sampler.read("next_state")[0], np.float32)

    def decode(self, latents: Array) -> Array:
        """What the decoder makes of latents: [b, 3, 8 h, 8 w], in -1 … 1 where it is right."""
        tile = (self.ready["decoder"].network.sizes["h"], self.ready["decoder"].network.sizes["w"])
        decoder = self.ready["decoder"]
        if tile == latents.shape[2:]:
            return decoder.run({"latent": latents})["out"]
        return by_tiles(lambda part: decoder.run({"latent": part})["out"], latents, tile)

    def encode_picture(self, picture: Array) -> npt.NDArray[np.float32]:
        """The latents f32[1, c, h, w] of a picture f32[1, 3, 8 h, 8 w] in -1 … 1."""
        latents = self.ready["encoder"].run({"picture": picture})["out"]
        check_finite(latents, "picture encoder")
        return latents.astype(np.float32)


class Noise:
    """Gaussian latents f32[b, c, h, w], anew at each call; each picture has a seed of its own."""

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._sources = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self) -> npt.NDArray[np.float32]:
        rows = [source.standard_normal(self._shape) for source in self._sources]
        return np.stack(rows).astype(np.float32)


def make_noise(seed: int, batch: int, shape: tuple[int, int, int]) -> Array:
    """The first noise of a batch; picture i alone has the seed `seed + i`."""
    return Noise(range(seed, seed + batch), shape)()


def _cut_warning(cut: str, chunks: int) -> str:
    shown = cut if len(cut) <= 60 else cut[:57] + "…"
    return f"the text is longer than {75 * chunks} tokens; this was left out: `{shown}`"


def check_finite(values: Array, network: str) -> None:
    """Raises SdlError (G003) where a network gave what is no number."""
    bad = int(np.size(values) - np.isfinite(values).sum())
    if bad:
        message = f"the {network} gave {bad} of {np.size(values)} values that are not finite"
        help = "`--check-finite` names the operator, which `--f32` keeps in f32; if all is in f32 "
        help += "already, the weights or the device are at fault"
        raise failure("G003", message, help=help)
