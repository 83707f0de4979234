"""Every sampler beside diffusers' scheduler, step by step on random predictions.

`tests/data/samplers.safetensors` holds what diffusers made of them (`tests/write_samplers.py`).
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from backend_run import device
from sdlc.backends.target import load_target
from sdlc.graph.node import Graph
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.models.folder import SOURCES
from sdlc.models.samplers import COLUMNS, SAMPLERS, Plan, Schedule, make_schedule, sampler_of
from sdlc.program.execute import Executable
from sdlc.program.pipeline import compile_graph
from write_samplers import CASES, FILE

TENSORS = load_file(FILE)
LIMIT = 5e-5
"""Relative error of latents: diffusers computes its coefficients in f32."""
Case = tuple[str, str, dict[str, Any], int]


def part(name: str, what: str) -> Array:
    return TENSORS[f"{name}.{what}"]


def schedule_of(case: Case, **changed: Any) -> Schedule:
    sampler, _, settings, steps = case
    return make_schedule({**settings, **changed}, Plan(sampler, steps))


@cache
def update(sampler: str, shape: tuple[int, ...], prediction: str, clip: float) -> Graph:
    sizes = {"p": SAMPLERS[sampler].parts, "s": shape, "n": 64, "k": COLUMNS}
    config = {"sampler": sampler, "prediction": prediction, "clip": clip}
    noise = {"noise": SAMPLERS[sampler].noise}
    library = load(SOURCES / "samplers.sdl")
    return build(library, "advance", sizes, {**config, **noise}, DType.F32)


def clip_of(case: Case) -> float:
    settings = {"clip_sample": case[0] == "ddim", **case[2]}
    clipped = case[0] in ("ddim", "lcm") and settings["clip_sample"]
    return settings.get("clip_sample_range", 1.0) if clipped else 0.0


def sample(name: str, case: Case, step: Any) -> list[Array]:
    """The latents after each evaluation."""
    schedule = schedule_of(case)
    table = np.zeros((64, COLUMNS), np.float32)
    table[: len(schedule.table)] = schedule.table
    state = np.zeros((SAMPLERS[case[0]].parts, *part(name, "start").shape), np.float32)
    state[0] = part(name, "start") * schedule.spread
    found = [state[0]]
    for i, y in enumerate(part(name, "predictions")):
        inputs = {"state": state, "y": y, "table": table, "step": np.array([i], np.int32)}
        if SAMPLERS[case[0]].noise:
            inputs["noise"] = part(name, "noise")[i]
        state = step(inputs)
        found.append(state[0])
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_sampler_is_that_of_diffusers(name: str) -> None:
    case = CASES[name]
    schedule = schedule_of(case)
    np.testing.assert_allclose(schedule.times, part(name, "times"), rtol=0, atol=2e-3)
    graph = update(case[0], part(name, "start").shape, schedule.prediction, clip_of(case))
    found = sample(name, case, lambda given: evaluate(graph, given, {}, Mode.F32)["out"])
    for got, expected in zip(found, part(name, "latents"), strict=True):
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert error <= LIMIT


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_on_a_device(sampler: str) -> None:
    name = f"{sampler}-0"
    schedule = schedule_of(CASES[name])
    graph = update(sampler, part(name, "start").shape, schedule.prediction, clip_of(CASES[name]))
    ready = Executable(compile_graph(graph, load_target("cpu")), device("cpu"), {})
    found = sample(name, CASES[name], lambda given: ready.run(given)["out"])
    np.testing.assert_allclose(found[-1], part(name, "latents")[-1], rtol=1e-3, atol=1e-3)


def test_the_file_is_of_the_cases() -> None:
    with safe_open(FILE, framework="np") as file:
        written = json.loads(file.metadata()["cases"])
    assert written == json.loads(json.dumps(CASES))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", [1, 3])
def test_late_starts_end_where_the_others_end(sampler: str, start: int) -> None:
    """A picture that is given takes the place of the steps before `start`."""
    settings = CASES[f"{sampler}-0"][2]
    full = make_schedule(settings, Plan(sampler, 4))
    late = make_schedule(settings, Plan(sampler, 4, start))
    assert len(late.times) == max(len(set(full.times)) - start, 1) + (
        sampler == "pndm" and start < 3
    )
    assert late.times[-1] == full.times[-1]
    np.testing.assert_array_equal(late.table[-1, 1:6], full.table[-1, 1:6])


def test_latents_begin_with_the_noise_that_the_first_row_says() -> None:
    """Columns 2 to 5: after a step, latents hold what the next evaluation should see. (DDIM's steps
    are of one length, also where times are not.)"""
    for name, case in CASES.items():
        if case[0] in ("ddim", "pndm") and case[2].get("timestep_spacing") == "linspace":
            continue
        table = schedule_of(case).table
        scale = table[1:, 1]
        again = 1 if case[0] == "pndm" else 0
        for seen, held in ((table[1:, 2], table[:-1, 4]), (table[1:, 3], table[:-1, 5])):
            close = np.abs(seen - scale * held)[again:] <= 1e-2
            assert close.all(), name


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_configuration_names_its_sampler(sampler: str) -> None:
    assert sampler_of({"_class_name": CASES[f"{sampler}-0"][1]}) == sampler
    assert sampler_of({"_class_name": "DDPMScheduler"}) is None


@pytest.mark.parametrize(
    ("config", "plan", "message"),
    [
        ({}, Plan("ddim", 0), "0 steps"),
        ({}, Plan("ddim", 1001), "1001 steps"),
        ({}, Plan("lcm", 51), "51 steps of lcm"),
        ({"prediction_type": "x"}, Plan("ddim", 2), "prediction_type"),
        ({"beta_schedule": "x"}, Plan("ddim", 2), "beta_schedule"),
        ({"timestep_spacing": "x"}, Plan("euler", 2), "timestep_spacing"),
        ({"use_beta_sigmas": True}, Plan("dpm++", 2), "use_beta_sigmas"),
        ({"algorithm_type": "sde-dpmsolver++"}, Plan("dpm++", 2), "algorithm_type"),
        ({"beta_end": "x"}, Plan("ddim", 2), "beta_end"),
        (
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            Plan("ddim", 2),
            "cannot start",
        ),
    ],
)
def test_settings_that_are_not_described(config: Any, plan: Plan, message: str) -> None:
    with pytest.raises(SdlError, match=message):
        make_schedule(config, plan)
