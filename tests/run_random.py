"""Tens of thousands of random programs and schedules, on every target and device, in one command.

    python tests/run_random.py --cases 10000 -o FOLDER [--only schedules-nvidia] [--jobs 2]
    python tests/run_random.py --devices opencl:0,webgpu:0 --first 1000 --limit 500 -o FOLDER
    python tests/run_random.py --replay FOLDER/failures/schedules-nvidia-3-17.json

Cases are drawn in shards, each by a process of its own and with a seed of its own, so a run that
was stopped, or has reached its `--limit`, goes on where it was: what a shard found is a line of
`done.jsonl`, what the cases of an unfinished one were is in its journal. A case that is wrong
does not end the run: its record is left in `failures` and can be replayed. Nor does one that ends
its process, as a driver may: it counts as wrong, and another process draws the rest of the shard.
The exit status is 1 if there are any. Not part of the suite, which draws a few hundred.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from random_cases import (
    Drawn,
    Record,
    contractions,
    kept,
    kept_case,
    prove,
    revived,
    revived_case,
    scheduled,
)
from sdlc.backends.devices import target_of
from sdlc.backends.target import load_target
from sdlc.cli_prove import language_of
from sdlc.language.diagnostics import SdlError
from sdlc.proof.stages import Stage, interpreted, on
from stages import Way, compare, device, device_route, interpreted_route, legalised, legalised_route
from strategies import FLOATS, Case, cases

Shard = tuple[str, int, int]
"""A kind, a number, how many cases."""
SHARD = 100
"""Cases of a shard."""
MOST_SECONDS = 300
"""A case that takes longer is given up and reported."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of case: its strategy, what must hold, its record and how that is read; `share` of the
    cases that a run is asked for."""

    draw: Callable[[], SearchStrategy[Any]]
    check: Callable[[Any], None]
    keep: Callable[[Any], Record]
    revive: Callable[[Record], Any]
    share: float


def floats(target: str) -> tuple[str, ...]:
    """The precisions that a target has."""
    return FLOATS if load_target(target).caps.f16_storage else FLOATS[:1]


def _schedules(
    target: str,
    share: float,
    stage: Callable[[], Stage] = interpreted,
    language: str = "numpy",
    programs: Callable[[], SearchStrategy[Case]] | None = None,
    block: int | None = None,
) -> Kind:
    def draw() -> SearchStrategy[Drawn]:
        drawn = programs() if programs else cases(2, floats=floats(target))
        return scheduled(target, drawn, block)

    def check(drawn: Drawn) -> None:
        prove(drawn, (stage(),), language)

    return Kind(draw, check, kept, revived, share)


def _programs(target: str, way: Way, share: float) -> Kind:
    def draw() -> SearchStrategy[Case]:
        return cases(floats=floats(target))

    return Kind(draw, lambda case: compare(case, way), kept_case, revived_case, share)


FOLDS = partial(cases, 1, only=["attention_online", "softmax", "logsumexp"])
TARGETS = ("cpu", "cpu-avx2", "nvidia", "adreno", "mali", "apple", "llvmpipe", "swiftshader")
MATRIX, HALVES = "nvidia-matrix", ("f16",)
LANGUAGES = {"adreno": ("opencl", "wgsl"), "mali": ("opencl", "wgsl"), "nvidia": ("opencl", "wgsl")}
LANGUAGES |= {"cpu": ("opencl",), "apple": ("wgsl",), "swiftshader": ("wgsl",)}
SCHEDULED = {"opencl": ("cpu", "adreno", "llvmpipe"), "wgsl": ("apple",)}
"""What schedules run on any device of a language, beside those of its own target."""


@dataclass(frozen=True, slots=True)
class Place:
    """A device: its selector, the language of its kernels, the target that suits it."""

    selector: str
    language: str
    target: str

    @property
    def name(self) -> str:
        """Its name in that of a file."""
        return re.sub(r"[^\w.-]", "", self.selector)


PLACES = (
    Place("cpu", "opencl", "cpu"),
    Place("pocl", "opencl", "cpu"),
    Place("llvmpipe", "wgsl", "llvmpipe"),
)


def places(selectors: str) -> tuple[Place, ...]:
    """The devices that a list of selectors names, opened to see what they are; ends the script with
    status 2, and what there is, where one is not there."""
    try:
        named = [(s, device(s)) for s in selectors.split(",") if s]
    except SdlError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    return tuple(Place(s, language_of(d), target_of(d.info).name) for s, d in named)


def kinds(where: Sequence[Place] = PLACES) -> dict[str, Kind]:
    """Every kind of case by name. Interpreted schedules, blocks and slices are the whole of
    `--cases`; the others come on top."""
    made = {f"schedules-{t}": _schedules(t, 0.09) for t in TARGETS}
    made[f"schedules-{MATRIX}"] = _schedules(MATRIX, 0.07)
    made |= {f"blocks-{t}": _schedules(t, 0.02, programs=FOLDS, block=4) for t in ("cpu", "nvidia")}
    made |= {
        f"slices-{t}": _schedules(t, 0.05, programs=contractions) for t in ("nvidia", "adreno")
    }
    made[f"blocks-{MATRIX}"] = _schedules(MATRIX, 0.02, programs=partial(FOLDS, floats=HALVES))
    halves = partial(contractions, HALVES)
    made[f"slices-{MATRIX}"] = _schedules(MATRIX, 0.05, programs=halves)
    for target, languages in LANGUAGES.items():
        for language in languages:
            stage = partial(legalised, target, language)
            name = f"{target}-{language}"
            made[f"legalised-{name}"] = _schedules(target, 0.02, stage, language)
            folds = partial(FOLDS, floats=floats(target))
            made[f"folds-{name}"] = _schedules(target, 0.02, stage, language, folds, 4)
            made[f"programs-{name}"] = _programs(target, legalised_route(target, language), 0.05)
    for place in where:
        made |= _on_device(place)
    made |= {f"programs-{t}": _programs(t, interpreted_route(t), 0.05) for t in TARGETS}
    return made


def _on_device(place: Place) -> dict[str, Kind]:
    """Schedules of its own target and of others, and programs as they are compiled for it."""
    language, stage, made = place.language, partial(_device_stage, place.selector), {}
    for target in dict.fromkeys((*SCHEDULED[language], place.target)):
        made[f"device-{place.name}-{target}"] = _schedules(target, 0.015, stage, language)
    way = device_route(place.target, language, place.selector)
    made[f"device-{place.name}-programs"] = _programs(place.target, way, 0.03)
    return made


def _device_stage(selector: str) -> Stage:
    return on(device(selector))


# ---- a shard -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Found:
    """What a shard found; `cases` are digests of those that ran and were right."""

    kind: str
    shard: int
    cases: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slow: int = 0
    seconds: float = 0.0


class _Late(BaseException):
    """A case has taken too long."""


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise _Late

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


@dataclass(frozen=True, slots=True)
class Journal:
    """What became of the cases of a shard so far, a line each: its digest, then `RIGHT`, `SLOW` or
    the name of its failure; `BEGUN` where its process has ended before it did."""

    file: Path

    def outcomes(self) -> dict[str, str]:
        return dict(line.split() for line in self.lines())

    def lines(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def add(self, digest: str, outcome: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{digest} {outcome}\n")


RIGHT, SLOW, BEGUN = "right", "slow", "begun"


def outcome(kind: Kind, case: Any) -> str:
    """`RIGHT`, `SLOW`, or what is wrong with a case."""
    try:
        with _limited(MOST_SECONDS):
            kind.check(case)
    except _Late:
        return SLOW
    except Exception as problem:
        if type(problem).__module__.startswith("hypothesis"):
            raise
        return f"{type(problem).__name__}: {problem}"
    return RIGHT


def run_shard(
    shard: Shard, folder: Path, ended: str = "", where: Sequence[Place] = PLACES
) -> Found:
    """The cases of a shard, the same ones each time; records of failures go to `folder`. What is
    known of them from an earlier process is taken; the one that it was at, where it was stopped, is
    run again; `ended`: why it came to no end by itself: then that case is a failure."""
    name, number, count = shard
    kind, found, started = kinds(where)[name], Found(name, number), time.monotonic()
    journal = Journal(folder / f"{name}-{number}.journal")
    known = journal.outcomes()

    def leave(record: Record, problem: str) -> str:
        made = f"{name}-{number}-{len(found.failures)}.json"
        said = {"kind": name, "devices": [p.selector for p in where], **record, "problem": problem}
        (folder / made).write_text(json.dumps(said, indent=1))
        return made

    def test(case: Any) -> None:
        record = kind.keep(case)
        text = json.dumps(record, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        became = known.get(digest)
        if became is None or (became == BEGUN and not ended):
            journal.add(digest, BEGUN)
            problem = outcome(kind, case)
            became = leave(record, problem) if problem not in (RIGHT, SLOW) else problem
            journal.add(digest, became)
        elif became == BEGUN:
            became = known[digest] = leave(record, f"its process ended: {ended}")
            journal.add(digest, became)
        if became == RIGHT:
            found.cases.append(digest)
        elif became == SLOW:
            found.slow += 1
        else:
            found.failures.append(became)

    configured = settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )
    try:
        configured(seed(f"{name} {number}")(given(kind.draw())(test)))()
    except Exception:
        # What is raised while a case is drawn: a plan that cannot be made, say.
        found.failures.append(leave({"shard": number, "count": count}, traceback.format_exc()))
    journal.file.unlink(missing_ok=True)
    found.seconds = time.monotonic() - started
    return found


# ---- a run ---------------------------------------------------------------------------------------


def shards(
    asked: int, only: Sequence[str] = (), where: Sequence[Place] = PLACES, first: int = 0
) -> Iterator[Shard]:
    """Every shard, kinds by turns, numbered from `first`: other numbers are other cases."""
    chosen = {n: k for n, k in kinds(where).items() if not only or any(o in n for o in only)}
    left = {name: max(1, round(asked * kind.share)) for name, kind in chosen.items()}
    number = first
    while any(left.values()):
        for name in left:
            size = min(SHARD, left[name])
            left[name] -= size
            if size:
                yield name, number, size
        number += 1


@dataclass(frozen=True, slots=True)
class Run:
    """Where failures go, the devices, and when it is stopped (by the monotonic clock)."""

    failures: Path
    where: tuple[Place, ...] = PLACES
    ends: float | None = None

    def shard(self, shard: Shard) -> Found | str | None:
        """A shard by a process of its own, and by another one where a driver ends that; what the
        last one said where a process ends before it begins any case; None where time is up."""
        name, number, _ = shard
        journal, ended = Journal(self.failures / f"{name}-{number}.journal"), ""
        while True:
            before = len(journal.lines())
            asked = json.dumps([shard, ended, [asdict(p) for p in self.where]])
            words = [sys.executable, __file__, "--shard", asked, "-o", str(self.failures)]
            left = None if self.ends is None else max(0.0, self.ends - time.monotonic())
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=left)
            except subprocess.TimeoutExpired:
                return None
            if not done.returncode:
                return Found(**json.loads(done.stdout.splitlines()[-1]))
            ended = f"exit status {done.returncode}: {done.stderr[-2000:]}"
            if len(journal.lines()) == before:
                return ended


def known(log: Path) -> list[Found]:
    """What earlier runs into this folder found."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [Found(**json.loads(line)) for line in lines]


def run(options: argparse.Namespace) -> int:
    ends = None if options.limit is None else time.monotonic() + options.limit
    where = PLACES if options.devices is None else places(options.devices)
    names = list(kinds(where))
    if unknown := [o for o in options.only if not any(o in name for name in names)]:
        print(f"no kind of case has {', '.join(unknown)}: choose of {', '.join(names)}")
        return 2
    failures, log = options.output / "failures", options.output / "done.jsonl"
    failures.mkdir(parents=True, exist_ok=True)
    here, done = Run(failures, where, ends), known(log)
    ended = {(f.kind, f.shard) for f in done}
    asked = shards(options.cases, options.only, where, options.first)
    left = [s for s in asked if s[:2] not in ended]
    total, broken = len(left) + len(done), 0
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(here.shard, s): s for s in left}
        for task in as_completed(waiting):
            found = task.result()
            if isinstance(found, str):
                broken += 1
                print(f"{waiting[task]} did not end: {found}", flush=True)
            elif found is not None:
                done.append(found)
                with log.open("a") as file:
                    file.write(json.dumps(asdict(found)) + "\n")
                wrong = f", {len(found.failures)} WRONG" if found.failures else ""
                right = f"{found.kind} {found.shard}: {len(found.cases)} right{wrong}"
                print(f"{len(done)}/{total}  {right}, {found.seconds:.0f} s", flush=True)
    begun = unfinished(failures)
    summarise([*done, *begun])
    if len(done) + broken < total:
        print(f"stopped after {options.limit:g} s: {len(done)} of {total} shards")
    return int(bool(broken) or any(f.failures for f in [*done, *begun]))


def unfinished(failures: Path) -> list[Found]:
    """What is known of the shards that have not come to their end."""
    made = []
    for file in sorted(failures.glob("*.journal")):
        kind, _, number = file.stem.rpartition("-")
        became = Journal(file).outcomes()
        right = [digest for digest, outcome in became.items() if outcome == RIGHT]
        wrong = [o for o in became.values() if o not in (RIGHT, SLOW, BEGUN)]
        slow = list(became.values()).count(SLOW)
        made.append(Found(kind, int(number), right, wrong, slow))
    return made


def summarise(done: list[Found]) -> None:
    """A line a kind: cases that ran and were right, different ones among them, wrong, given up."""
    print(f"{'kind':28} {'right':>6} {'distinct':>8} {'wrong':>6} {'slow':>5} {'seconds':>8}")
    rows = {f.kind: [o for o in done if o.kind == f.kind] for f in done}
    for name, of in [*rows.items(), ("all", done)]:
        digests = [d for f in of for d in f.cases]
        wrong, slow = sum(len(f.failures) for f in of), sum(f.slow for f in of)
        seconds = sum(f.seconds for f in of)
        counts = f"{len(digests):6} {len(set(digests)):8} {wrong:6} {slow:5} {seconds:8.0f}"
        print(f"{name:28} {counts}")


def replay(file: Path) -> int:
    record = json.loads(file.read_text())
    on_device = record["kind"].startswith("device-")
    where = places(",".join(record["devices"])) if on_device else ()
    kind = kinds(where)[record["kind"]]
    if "text" not in record:
        shard = (record["kind"], record["shard"], record["count"])
        return int(bool(run_shard(shard, file.parent, where=where).failures))
    kind.check(kind.revive(record))
    print("it is right now")
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10000, help="interpreted random schedules")
    parser.add_argument("--only", nargs="*", default=[], help="kinds whose name has one of these")
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument(
        "--devices",
        metavar="DEVICE[,DEVICE]",
        help="run cases on these, as `sdlc devices` names them; '' for none "
        f"(default: {','.join(p.selector for p in PLACES)})",
    )
    parser.add_argument(
        "--limit",
        type=float,
        metavar="SECONDS",
        help="stop after so long; the same command goes on from there",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-o", "--output", type=Path, default=Path("build/random"))
    parser.add_argument("--replay", type=Path, help="a record that a failure has left")
    parser.add_argument("--shard", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.shard is not None:
        shard, ended, where = options.shard
        found = run_shard(shard, options.output, ended, [Place(**p) for p in where])
        print(json.dumps(asdict(found)))
        return
    if options.replay is not None and not options.replay.is_file():
        parser.error(f"there is no record {options.replay}")
    sys.exit(run(options) if options.replay is None else replay(options.replay))


if __name__ == "__main__":
    main()
