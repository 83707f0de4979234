"""Samplers: what each asks the network, and the coefficients of its updates, one row an evaluation.

In: a scheduler_config.json of diffusers, a sampler's name, a number of steps. Out: `Schedule` with
the table that `samplers.sdl` reads, which says what its columns are. Invariant: every coefficient
is finite; they are computed in f64. Sources: stand with each sampler in `samplers.sdl`.

    make_schedule({"beta_schedule": "scaled_linear", …}, Plan("dpm++", 20)).table.shape == (20, 14)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from sdlc.graph.types import Array
from sdlc.language.diagnostics import failure
from sdlc.models.scheduler import (
    Config,
    Floats,
    alphas,
    real,
    sigmas,
    spaced,
    trained_times,
    unknown,
    whole,
)

COLUMNS = 14
PREDICTIONS = ("epsilon", "v_prediction", "sample")
MULTISTEP = (
    (1, 0, 0, 0),
    (3 / 2, -1 / 2, 0, 0),
    (23 / 12, -16 / 12, 5 / 12, 0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""The weights of a prediction and of those before it, where none to three are known (Adams and
Bashforth)."""
FEW = 15
"""A multi-step solver ends with a step of lower order where there are fewer steps than this."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A sampler's name in `SAMPLERS`, and its steps, of which the first `start` are left out.
    `karras` None leaves the spacing of noise levels to the model's configuration."""

    sampler: str
    steps: int
    start: int = 0
    karras: bool | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """`times` f64[n] of the n evaluations; `table` f32[n, 14]; `prediction` is what the network
    gives; `spread` is the standard deviation of the first latents, were they noise alone."""

    sampler: str
    times: Floats
    table: Array
    prediction: str
    spread: float


@dataclass(frozen=True, slots=True)
class Sampler:
    """`title`; `parts` of its state; whether it adds `noise` at each step; the diffusers classes
    that it is; the function that makes its rows."""

    title: str
    parts: int
    noise: bool
    classes: tuple[str, ...]
    rows: Callable[[Config, Plan], tuple[Floats, Floats]]
    spacing: str = "leading"
    levels: bool = False
    """Whether the latents are the picture plus sigma times the noise."""


def make_schedule(config: Config, plan: Plan) -> Schedule:
    """Raises SdlError (S…) for a setting that is not described here."""
    trained = trained_times(config)
    if not 1 <= plan.steps <= trained:
        raise failure("S001", f"{plan.steps} steps asked for", help=f"give 1 to {trained} steps")
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in PREDICTIONS:
        raise unknown("prediction_type", prediction, PREDICTIONS)
    sampler = SAMPLERS[plan.sampler]
    times, table = sampler.rows(config, plan)
    if not np.isfinite(table).all() or (prediction == "epsilon" and not table[:, 2].all()):
        help = "its first time has no signal (rescale_betas_zero_snr): use --sampler euler"
        raise failure("S004", f"{plan.sampler} cannot start where this model does", help=help)
    spread = _spread(config, sampler, float(table[0, 6])) if sampler.levels else 1.0
    return Schedule(plan.sampler, times, table.astype(np.float32), prediction, spread)


def sampler_of(config: Config) -> str | None:
    """The sampler that a scheduler's configuration names; None for one that is not described."""
    given = config.get("_class_name", "DDIMScheduler")
    return next((name for name, each in SAMPLERS.items() if given in each.classes), None)


def _spread(config: Config, sampler: Sampler, first: float) -> float:
    """Of noise and, where the first time is not the last trained one, as much picture."""
    spacing = config.get("timestep_spacing", sampler.spacing)
    return first if spacing in ("linspace", "trailing") else (first**2 + 1) ** 0.5


# ---- samplers that know the share of the picture at each trained time ----------------------------


def _ddim(config: Config, plan: Plan) -> tuple[Floats, Floats]:
    times = np.rint(spaced(config, plan.steps))[plan.start :].astype(np.int64)
    earlier = times - trained_times(config) // plan.steps
    here, there = _at(config, times), _at(config, earlier)
    return times.astype(np.float64), _table(times, 1.0, *_shares(here), *_shares(there))


def _lcm(config: Config, plan: Plan) -> tuple[Floats, Floats]:
    trained, original = trained_times(config), whole(config, "original_inference_steps", 50)
    if plan.steps > original:
        help = f"the model was distilled to jump between {original} times: give fewer --steps"
        raise failure("S001", f"{plan.steps} steps of lcm", help=help)
    falling = (np.arange(original, 0, -1) * (trained // original)) - 1
    chosen = np.floor(np.linspace(0, original, plan.steps, endpoint=False)).astype(np.int64)
    times = falling[chosen][plan.start :]
    here = _at(config, times)
    there = np.append(here[1:], 1.0)
    scaled, width = times * real(config, "timestep_scaling", 10.0), 0.5
    skip = width**2 / (scaled**2 + width**2)
    out = scaled / np.sqrt(scaled**2 + width**2)
    table = _table(times, 1.0, *_shares(here), *_shares(there), skip, out)
    return times.astype(np.float64), table


def _pndm(config: Config, plan: Plan) -> tuple[Floats, Floats]:
    """The first step is taken twice: from its end, the mean of both predictions is better."""
    config = {"set_alpha_to_one": False, **config}
    stride = trained_times(config) // plan.steps
    single = np.rint(spaced(config, plan.steps))[plan.start :].astype(np.int64)
    twice = len(single) > 1
    asked = np.concatenate([single[:2], single[1:]]) if twice else single
    rows = []
    for i, time in enumerate(asked):
        again = twice and i == 1
        begin, end = (time + stride, time) if again else (time, time - stride)
        a, b = _at(config, np.array([begin, end]))
        after = asked[i + 1] if i + 1 < len(asked) else -1
        weights = (1 / 2, 1 / 2, 0, 0) if again else MULTISTEP[min(max(i - 1, 0), 3)]
        denominator = a * np.sqrt(1 - b) + np.sqrt(a * (1 - a) * b)
        update = (float(again), np.sqrt(b / a), -(b - a) / denominator)
        left = _shares(_at(config, np.array([after if after >= 0 else -1])))
        rows.append((time, 1.0, *_shares(a), *(float(x[0]) for x in left), *weights, *update))
    return asked.astype(np.float64), _padded(np.array(rows, np.float64))


def _at(config: Config, times: npt.NDArray[np.int64]) -> Floats:
    """The product of 1 - beta up to each time; before the first, the model's last share."""
    kept = alphas(config)
    last = 1.0 if config.get("set_alpha_to_one", True) else kept[0]
    found: Floats = np.where(times >= 0, kept[np.maximum(times, 0)], last)
    return found


# ---- samplers that know the ratio of noise to picture --------------------------------------------


def _levels(config: Config, plan: Plan, between: int, lowest: bool) -> tuple[Floats, Floats]:
    """Times, and sigma at each and after the last. `lowest` starts Karras' spacing at the trained
    extremes instead of those of the times."""
    known = sigmas(config)
    times = spaced(config, plan.steps, "linspace", between)
    times = np.rint(times) if between else times
    found = np.interp(times, np.arange(len(known)), known)
    karras = config.get("use_karras_sigmas") if plan.karras is None else plan.karras
    if karras:
        ends = (known[-1], known[0]) if lowest else (found[0], found[-1])
        found = _karras(*ends, plan.steps)
        times = np.interp(np.log(found), np.log(known), np.arange(len(known)))
        times = np.rint(times) if between else times
    _check_levels(config)
    last = known[0] if config.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
    return times[plan.start :], np.append(found, last)[plan.start :]


def _check_levels(config: Config) -> None:
    for name in ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"):
        if config.get(name):
            raise unknown(name, "true", ("false",))
    _check(config, "interpolation_type", ("linear",))
    _check(config, "timestep_type", ("discrete",))


def _karras(high: float, low: float, steps: int, rho: float = 7.0) -> Floats:
    """Noise levels that fall as Karras et al. 2022, eq. 5, says."""
    ramp = np.linspace(0, 1, steps)
    root = high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))
    levels: Floats = root**rho
    return levels


def _euler(config: Config, plan: Plan) -> tuple[Floats, Floats]:
    times, level = _levels(config, plan, 0, False)
    scale = 1 / np.sqrt(level[:-1] ** 2 + 1)
    seen = (scale, scale, level[:-1] * scale)
    return times, _table(times, *seen, 1.0, level[1:], level[:-1], level[1:])


def _euler_ancestral(config: Config, plan: Plan) -> tuple[Floats, Floats]:
    plain = {**config, "final_sigmas_type": "zero"}
    times, table = _euler(plain, plan)
    now, then = table[:, 6], table[:, 7]
    up = np.sqrt(then**2 * (now**2 - then**2) / now**2)
    down = np.sqrt(then**2 - up**2)
    return times, _table(*table[:, :6].T, now, down, up)


def _solver(config: Config, plan: Plan) -> tuple[Floats, Floats, Floats, Floats]:
    """Times, and at each and after the last: shares of picture and noise, half the log of their
    ratio (infinite where there is no noise)."""
    times, level = _levels(config, plan, 1, True)
    a = 1 / np.sqrt(level**2 + 1)
    with np.errstate(divide="ignore"):
        ratio = -np.log(level)
    return times, a, level * a, ratio


def _dpm(config: Config, plan: Plan) -> tuple[Floats, Floats]:
    _check(config, "algorithm_type", ("dpmsolver++",))
    _check(config, "solver_type", ("midpoint", "heun"))
    times, a, s, ratio = _solver(config, plan)
    count = len(times)
    h = np.diff(ratio)
    share = -a[1:] * np.expm1(-h)
    change = np.zeros(count)
    change[1:] = h[1:] / h[:-1] / 2
    if config.get("solver_type") == "heun":
        finite = np.isfinite(h)
        safe = np.where(finite, h, 1.0)
        change = np.where(finite, change * -2 * (np.expm1(-safe) / safe + 1) / np.expm1(-safe), 0)
    few = config.get("lower_order_final", True) and plan.steps < FEW
    ends = few or config.get("euler_at_final") or s[-1] == 0
    if ends or whole(config, "solver_order", 2) == 1:
        change[-1:] = 0
    if whole(config, "solver_order", 2) == 1:
        change[:] = 0
    seen = (1.0, a[:-1], s[:-1], a[1:], s[1:])
    return times, _table(times, *seen, s[1:] / s[:-1], share, change)


def _unipc(config: Config, plan: Plan) -> tuple[Floats, Floats]:
    _check(config, "solver_type", ("bh2", "bh1"))
    if not config.get("predict_x0", True):
        raise unknown("predict_x0", "false", ("true",))
    times, a, s, ratio = _solver(config, plan)
    count, order = len(times), min(whole(config, "solver_order", 2), 2)
    final = bool(config.get("lower_order_final", True))
    orders = [min(order, i + 1, count - i if final else order) for i in range(count)]
    rows = []
    for i in range(count):
        correct = (1.0, 0.0, 0.0, 0.0, 0.0)
        if i > 0:
            correct = _corrected(config, (a, s, ratio), i, orders[i - 1])
        rows.append((*correct, *_predicted(config, (a, s, ratio), i, orders[i])))
    own = np.array(rows, np.float64).T
    return times, _table(times, 1.0, a[:-1], s[:-1], a[1:], s[1:], *own)


def _scale(config: Config, h: float) -> float:
    """B(h) of UniPC."""
    return float(-h if config.get("solver_type") == "bh1" else np.expm1(-h))


def _predicted(
    config: Config, noise: tuple[Floats, Floats, Floats], i: int, order: int
) -> tuple[float, float, float]:
    """UniP: the shares of the latents, this picture and the one before in the next latents."""
    a, s, ratio = noise
    h = ratio[i + 1] - ratio[i]
    now, before = -a[i + 1] * np.expm1(-h), 0.0
    if order == 2:
        r = (ratio[i - 1] - ratio[i]) / h
        before = -a[i + 1] * _scale(config, h) / 2 / r
        now -= before
    return s[i + 1] / s[i], now, before


def _corrected(
    config: Config, noise: tuple[Floats, Floats, Floats], i: int, order: int
) -> tuple[float, float, float, float, float]:
    """UniC: the shares of these latents (none), the last ones, two pictures before and this one."""
    a, s, ratio = noise
    h = ratio[i] - ratio[i - 1]
    scale, one = _scale(config, h), float(np.expm1(-h))
    points = np.array([1.0])
    if order == 2:
        points = np.array([(ratio[i - 2] - ratio[i - 1]) / h, 1.0])
    first = one / -h - 1
    second = first / -h - 1 / 2
    wanted = np.array([first / scale, 2 * second / scale])[:order]
    weights = np.array([0.5])
    if order == 2:
        weights = np.linalg.solve(np.stack([np.ones(2), points]), wanted)
    this = -a[i] * scale * weights[-1]
    older = -a[i] * scale * weights[0] / points[0] if order == 2 else 0.0
    return 0.0, s[i] / s[i - 1], -a[i] * one - this - older, older, this


def _check(config: Config, name: str, known: tuple[str, ...]) -> None:
    if config.get(name, known[0]) not in known:
        raise unknown(name, str(config[name]), known)


# ---- tables --------------------------------------------------------------------------------------


def _shares(kept: Floats) -> tuple[Floats, Floats]:
    """How much of the picture and of the noise is in the latents."""
    return np.sqrt(kept), np.sqrt(1 - kept)


def _table(times: Array, *columns: Array | float) -> Floats:
    full = [np.broadcast_to(np.asarray(c, np.float64), times.shape) for c in (times, *columns)]
    return _padded(np.stack(full, 1))


def _padded(rows: Floats) -> Floats:
    return np.pad(rows, ((0, 0), (0, COLUMNS - rows.shape[1])))


SAMPLERS: Mapping[str, Sampler] = MappingProxyType(
    {
        "ddim": Sampler("DDIM", 1, False, ("DDIMScheduler",), _ddim),
        "pndm": Sampler("PNDM (PLMS)", 5, False, ("PNDMScheduler",), _pndm),
        "euler": Sampler(
            "Euler", 1, False, ("EulerDiscreteScheduler",), _euler, "linspace", levels=True
        ),
        "euler_ancestral": Sampler(
            "Euler ancestral",
            1,
            True,
            ("EulerAncestralDiscreteScheduler",),
            _euler_ancestral,
            "linspace",
            levels=True,
        ),
        "dpm++": Sampler(
            "DPM-Solver++ 2M", 2, False, ("DPMSolverMultistepScheduler",), _dpm, "linspace"
        ),
        "unipc": Sampler("UniPC", 4, False, ("UniPCMultistepScheduler",), _unipc, "linspace"),
        "lcm": Sampler("LCM", 1, True, ("LCMScheduler",), _lcm),
    }
)
"""What `--sampler` takes."""
