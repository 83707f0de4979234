"""How well the cost model ranks: predicted against measured time of points of a few groups.

    python tests/bench_cost.py [--target cpu] [--device cpu] [--points 16]

Prints, for each group, Spearman's rank correlation of estimates and measurements, how much slower
than the fastest measured point the model's first choice is, and the points. Not part of the suite:
it takes minutes, and a machine that others use makes its numbers worse.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sdlc.api import make_request
from sdlc.backends.devices import open_device
from sdlc.backends.target import load_target
from sdlc.backends.tune import Effort, Workbench, time_all
from sdlc.graph.hoist import hoist
from sdlc.graph.rules import rewrite
from sdlc.program.device import Device
from sdlc.program.isolated import Isolation
from sdlc.schedule.contraction import contraction
from sdlc.schedule.cost import estimate
from sdlc.schedule.digest import label_of
from sdlc.schedule.plan import Plan, Scheduled, plan
from sdlc.schedule.point import DEFAULT
from sdlc.schedule.space import Candidate, Situation, candidates
from sdlc.target import Target

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "models" / "emoji_diffusion" / "pipeline" / "unet" / "config.json"
SIZES = {"b": 2, "c": 4, "h": 32, "w": 32, "t": 77, "d": 192}


def ranks(values: list[float]) -> np.ndarray:
    """Each value's place in ascending order."""
    return np.argsort(np.argsort(values)).astype(float)


def spearman(first: list[float], second: list[float]) -> float:
    """Rank correlation (Spearman 1904): 1 where both order the points alike."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def sample(found: tuple[Candidate, ...], most: int) -> list[Candidate]:
    """Candidates from the best to the worst by estimate, evenly spaced, the default among them."""
    places = {int(i) for i in np.linspace(0, len(found) - 1, min(most, len(found)))}
    places |= {i for i, c in enumerate(found) if c.point == DEFAULT}
    return [found[i] for i in sorted(places)]


def chosen(made: Plan, most: int, target: Target) -> list[Scheduled]:
    """The kernels that should take longest, each kind of group once: contractions and others."""
    distinct = {label_of(k.base): k for k in made.kernels}
    seconds = {n: estimate(k, target, made.orders).seconds for n, k in distinct.items()}
    ordered = sorted(distinct, key=lambda name: -seconds[name])
    contractions = [n for n in ordered if contraction(distinct[n].base) is not None]
    others = [n for n in ordered if n not in contractions]
    names = (*contractions[: most - most // 3], *others[: most // 3])
    return [distinct[n] for n in names]


def compared(
    kernel: Scheduled, found: list[Candidate], isolation: Isolation, device: Device
) -> Iterator[tuple[Candidate, float]]:
    """Every candidate with its seconds, by the time of all threads: others disturb it least."""
    programs = [isolation.program(each.kernel) for each in found]
    bench = Workbench(device, programs[0])
    made = [bench.add(program) for program in programs]
    times = [t.thread_seconds for t in time_all(bench, made, Effort(rounds=7))]
    yield from zip(found, times, strict=True)


def report(label: str, pairs: list[tuple[Candidate, float]]) -> tuple[float, float]:
    """Prints a group; its correlation and how many times the fastest the first choice takes."""
    times = [t for _, t in pairs]
    best = min(times)
    correlation = spearman([c.estimate.seconds for c, _ in pairs], times)
    first = min(pairs, key=lambda p: p[0].estimate.seconds)[1] / best
    default = next(t for c, t in pairs if c.point == DEFAULT) / best
    print(f"{correlation:5.2f}  first {first:5.2f}  default {default:5.2f}  {label}", flush=True)
    return correlation, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--best", action="store_true", help="the best points, not a spread")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    target, device = load_target(args.target), open_device(args.device)
    file = ROOT / "models" / "stable_diffusion" / "unet.sdl"
    request = make_request(file, target, None, SIZES, (CONFIG, args.precision))
    graph = hoist(rewrite(request.graph(), request.rules)[0]).run
    made = plan(graph, target)
    isolation = Isolation.of(graph, made, target)
    rows = []
    for kernel in chosen(made, args.groups, target):
        found = candidates(kernel.base, kernel.lanes, Situation(target, made.orders))
        taken = list(found[: args.points]) if args.best else sample(found, args.points)
        taken += [c for c in found if c.point == DEFAULT and c not in taken]
        pairs = list(compared(kernel, taken, isolation, device))
        rows.append(report(label_of(kernel.base), pairs))
        for each, seconds in sorted(pairs, key=lambda p: p[1]) if args.verbose else ():
            print(f"       {1e3 * seconds:9.3f} ms  {each.estimate}  {each.point}", flush=True)
    correlation, first = np.mean(rows, axis=0)
    print(f"mean correlation {correlation:.2f}, first choice {first:.2f} times the fastest")


if __name__ == "__main__":
    main()
