"""Breaks the compiler on purpose, one line at a time, and checks that the tests notice.

    python tests/mutants.py [NAME …]

Each mutant is applied to a copy of the project, and the tests named beside it run there; a mutant
that they do not notice survives and makes the exit status 1. Not part of the suite (minutes).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("dsl", "backends", "stdlib", "models")


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` in `file` becomes `new`; `tests` are the files that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str = "tests/test_schedule.py"


MUTANTS = (
    Mutant(
        "states change one after the other",
        "dsl/kernel/lower.py",
        "if len(made) > 1:",
        "if len(made) > 9:",
    ),
    Mutant(
        "a lost barrier",
        "dsl/kernel/lower.py",
        "strict=True)),\n                k.Barrier(),",
        "strict=True)),",
    ),
    Mutant(
        "no guard beyond a reduced axis",
        "dsl/kernel/lower.py",
        "for axis in self.group.over:\n            if axis in self.names.inside:",
        "for axis in self.group.over:\n            if axis in ():",
    ),
    Mutant(
        "every lane stores a shared result",
        "dsl/kernel/lower.py",
        "for loop in self.shared:\n            guard",
        "for loop in ():\n            guard",
    ),
    Mutant("half of the tree", "dsl/kernel/lower.py", "half = ways // 2", "half = ways // 4"),
    Mutant(
        "vector halves that overlap",
        "dsl/kernel/lower.py",
        "k.Extract(v, width, width)",
        "k.Extract(v, 0, width)",
    ),
    Mutant(
        "wrong identity",
        "dsl/kernel/lower.py",
        "splat(identity(f.identity, f.dtype), self.width)",
        "splat(identity(f.identity + 1, f.dtype), self.width)",
    ),
    Mutant(
        "off by one in a guard",
        "dsl/kernel/lower.py",
        'k.call("lt", value, k.i32(axis.extent))',
        'k.call("le", value, k.i32(axis.extent))',
    ),
    Mutant(
        "swapped arms of a guarded read",
        "dsl/kernel/translate.py",
        '"select", inside, _loaded(storage, tuple(safe)), visit(e.fill)',
        '"select", inside, visit(e.fill), _loaded(storage, tuple(safe))',
    ),
    Mutant(
        "strides of the wrong order",
        "dsl/kernel/translate.py",
        "for a in self.order[place + 1 :]",
        "for a in self.order[place:]",
    ),
    Mutant(
        "lanes called consecutive that are not",
        "dsl/kernel/vectorize.py",
        "return terms.get(lane) == 1 and not any(",
        "return lane in terms and not any(",
    ),
    Mutant(
        "hoisted out of the loop that it varies in",
        "dsl/kernel/emit.py",
        "self._depths[var] = self.depth",
        "self._depths[var] = 0",
    ),
    Mutant(
        "an epilogue at the wrong point",
        "dsl/schedule/fuse.py",
        "len(places) != 1 or any",
        "len(places) == 0 or any",
        "tests/test_random_programs.py tests/test_stdlib.py tests/test_models_networks.py "
        "tests/test_models_targets.py",
    ),
    Mutant(
        "inlined without its guard",
        "dsl/graph/rewrite.py",
        'return apply("select", inside, _as_stored(substitute(node.body, safe), node), read.fill)',
        "return _as_stored(substitute(node.body, safe), node)",
        "tests/test_random_programs.py",
    ),
    Mutant(
        "tensors that live at once share a place",
        "dsl/program/memory.py",
        "last[name] = time",
        "last[name] = first[name]",
        "tests/test_program_memory.py tests/test_schedule.py",
    ),
    Mutant(
        "division that truncates",
        "dsl/graph/scalar.py",
        "return np.floor_divide(a, np.where(np.equal(b, 0), 1, b))",
        "return np.trunc(np.true_divide(a, np.where(np.equal(b, 0), 1, b)))",
        "tests/test_kernel_simplify.py tests/test_graph_reference.py",
    ),
)


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass although the mutant is in place."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        ignored = shutil.ignore_patterns(".git", "build", "*.egg-info", ".*_cache", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignored)
        source = copy / mutant.file
        text = source.read_text()
        if mutant.old not in text:
            sys.exit(f"{mutant.name}: `{mutant.old}` is not in {mutant.file} any more")
        source.write_text(text.replace(mutant.old, mutant.new, 1))
        package = Path(folder) / "package" / "sdlc"
        package.mkdir(parents=True)
        for entry in (copy / "dsl").iterdir():
            (package / entry.name).symlink_to(entry)
        for room in ROOMS[1:]:
            (package / room).symlink_to(copy / room)
        command = [sys.executable, "-m", "pytest", "-x", "-q", *mutant.tests.split()]
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True)
        return done.returncode == 0


def main() -> None:
    chosen = [m for m in MUTANTS if not sys.argv[1:] or m.name in sys.argv[1:]]
    alive = []
    for mutant in chosen:
        lives = survives(mutant)
        print(f"{'SURVIVES' if lives else 'killed  '}  {mutant.name}", flush=True)
        alive += [mutant.name] if lives else []
    print(f"{len(chosen) - len(alive)} of {len(chosen)} killed")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
