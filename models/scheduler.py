"""The noise that a model was trained with, and the times at which a sampler asks it.

In: a scheduler_config.json of diffusers. Out: `alphas`, the product of 1 - beta up to each trained
time, and the times of a number of steps. Invariant: times fall; values are in f64. Sources: Ho et
al. 2020, Nichol and Dhariwal 2021 (cosine); Lin et al. 2023, table 2 (spacings) and algorithm 1
(zero terminal signal).

    alphas({"beta_schedule": "scaled_linear", …})[999]
"""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, pi

import numpy as np
import numpy.typing as npt

from sdlc.language.diagnostics import failure

Config = Mapping[str, object]
Floats = npt.NDArray[np.float64]
LEAST = 2.0**-24
"""What stands for a product of 0 where it is divided by: the least positive half-precision
number."""


def trained_times(config: Config) -> int:
    """How many times the model was trained at."""
    return whole(config, "num_train_timesteps", 1000)


def alphas(config: Config) -> Floats:
    """The product of 1 - beta up to each time, f64[num_train_timesteps]."""
    kept = np.cumprod(1.0 - _betas(config), dtype=np.float64)
    if config.get("rescale_betas_zero_snr"):
        roots = np.sqrt(kept)
        kept = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return kept


def sigmas(config: Config) -> Floats:
    """The ratio of noise to picture at each time, f64[num_train_timesteps]."""
    kept = alphas(config)
    if config.get("rescale_betas_zero_snr"):
        kept[-1] = LEAST
    levels: Floats = np.sqrt((1 - kept) / kept)
    return levels


def _betas(config: Config) -> Floats:
    given = config.get("trained_betas")
    if given is not None:
        return np.asarray(given, np.float64)
    count = trained_times(config)
    low, high = real(config, "beta_start", 0.0001), real(config, "beta_end", 0.02)
    match str(config.get("beta_schedule", "linear")):
        case "linear":
            return np.linspace(low, high, count)
        case "scaled_linear":
            return np.linspace(low**0.5, high**0.5, count) ** 2
        case "squaredcos_cap_v2":
            kept = np.array([cos((i / count + 0.008) / 1.008 * pi / 2) ** 2 for i in range(count)])
            kept = np.append(kept, cos(pi / 2) ** 2)
            betas: Floats = np.minimum(1 - kept[1:] / kept[:-1], 0.999)
            return betas
        case other:
            raise unknown("beta_schedule", other, ("linear", "scaled_linear", "squaredcos_cap_v2"))


def spaced(config: Config, steps: int, default: str = "leading", between: int = 0) -> Floats:
    """Falling times of a number of steps. `between` 1 counts the end of the last step as a time
    too, which is then left out, as multi-step solvers do. Linear spacing is not rounded."""
    trained, count = trained_times(config), steps + between
    match str(config.get("timestep_spacing", default)):
        case "leading":
            rising = np.arange(count) * float(trained // count)
            # The offset must not lead past the last trained time, where steps leave no room for it.
            room = trained - 1 - float(rising[-1])
            rising = rising + min(whole(config, "steps_offset", 0), room)
        case "trailing":
            falling = np.rint(np.arange(trained, 0, -trained / steps)) - 1
            rising = falling[:steps][::-1]
        case "linspace":
            rising = np.linspace(0, trained - 1, count)
        case other:
            raise unknown("timestep_spacing", other, ("leading", "trailing", "linspace"))
    return np.clip(rising[::-1][:steps], 0, trained - 1)


def whole(config: Config, name: str, default: int) -> int:
    """A whole number of the configuration."""
    return int(real(config, name, default))


def real(config: Config, name: str, default: float) -> float:
    """A number of the configuration."""
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise failure("S003", f"{name} is {value!r} in scheduler_config.json", help="give a number")
    return float(value)


def unknown(name: str, value: str, known: tuple[str, ...]) -> Exception:
    """The error for a setting that is not described."""
    help = f"sdlc samples with {name} {' or '.join(known)}"
    return failure("S002", f"{name} is `{value}` in scheduler_config.json", help=help)
