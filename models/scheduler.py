"""The table of coefficients that the sampler reads, one row a step.

In: a scheduler_config.json of diffusers and a number of steps. Out: times and a table
f32[steps, 5]: the time, sqrt(a), sqrt(1 - a) of it, and the same two of the time that the step
leads to, where a is the product of 1 - beta up to a time. Invariant: times fall; every coefficient
is finite. Computed in f64. Sources: Song, Meng and Ermon 2020 (DDIM); Lin et al. 2023, table 2
(spacings).

    make_schedule({"beta_schedule": "scaled_linear", …}, 20).table.shape == (20, 5)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdlc.graph.types import Array
from sdlc.language.diagnostics import failure

COLUMNS = 5
PREDICTIONS = ("epsilon", "v_prediction", "sample")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """`times` i32[steps]; `table` f32[steps, 5]; `prediction` is what the network gives."""

    times: Array
    table: Array
    prediction: str


def make_schedule(config: Mapping[str, object], steps: int) -> Schedule:
    """The DDIM schedule (eta 0) of this many steps. Raises SdlError (S…) for a setting that is not
    described here."""
    trained = _whole(config, "num_train_timesteps", 1000)
    if not 1 <= steps <= trained:
        raise failure("S001", f"{steps} steps asked for", help=f"give 1 to {trained} steps")
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in PREDICTIONS:
        raise _unknown("prediction_type", prediction, PREDICTIONS)
    kept = alphas(config)
    times = _times(config, steps, trained)
    earlier = times - trained // steps
    first = 1.0 if config.get("set_alpha_to_one", True) else kept[0]
    here = kept[times]
    there = np.where(earlier >= 0, kept[np.maximum(earlier, 0)], first)
    columns = (times, np.sqrt(here), np.sqrt(1 - here), np.sqrt(there), np.sqrt(1 - there))
    return Schedule(times.astype(np.int32), np.stack(columns, 1).astype(np.float32), prediction)


def alphas(config: Mapping[str, object]) -> Floats:
    """The product of 1 - beta up to each time, f64[num_train_timesteps]."""
    if config.get("rescale_betas_zero_snr"):
        raise _unknown("rescale_betas_zero_snr", "true", ("false",))
    return np.cumprod(1.0 - _betas(config), dtype=np.float64)


def _betas(config: Mapping[str, object]) -> Floats:
    given = config.get("trained_betas")
    if given is not None:
        return np.asarray(given, np.float64)
    count = _whole(config, "num_train_timesteps", 1000)
    low, high = _real(config, "beta_start", 0.0001), _real(config, "beta_end", 0.02)
    match str(config.get("beta_schedule", "linear")):
        case "linear":
            return np.linspace(low, high, count)
        case "scaled_linear":
            return np.linspace(low**0.5, high**0.5, count) ** 2
        case other:
            raise _unknown("beta_schedule", other, ("linear", "scaled_linear"))


def _times(config: Mapping[str, object], steps: int, trained: int) -> npt.NDArray[np.int64]:
    match str(config.get("timestep_spacing", "leading")):
        case "leading":
            rising = np.arange(steps) * (trained // steps)
            # The offset must not lead past the last trained time, where steps leave no room for it.
            room = trained - 1 - int(rising[-1])
            rising = rising + min(_whole(config, "steps_offset", 0), room)
        case "trailing":
            rising = np.rint(np.arange(trained, 0, -trained / steps))[:steps][::-1] - 1
        case "linspace":
            rising = np.rint(np.linspace(0, trained - 1, steps))
        case other:
            raise _unknown("timestep_spacing", other, ("leading", "trailing", "linspace"))
    return np.clip(rising[::-1], 0, trained - 1).astype(np.int64)


def _whole(config: Mapping[str, object], name: str, default: int) -> int:
    return int(_real(config, name, default))


def _real(config: Mapping[str, object], name: str, default: float) -> float:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise failure("S003", f"{name} is {value!r} in scheduler_config.json", help="give a number")
    return float(value)


def _unknown(name: str, value: str, known: tuple[str, ...]) -> Exception:
    help = f"sdlc samples with {name} {' or '.join(known)}"
    return failure("S002", f"{name} is `{value}` in scheduler_config.json", help=help)
