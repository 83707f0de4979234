"""Breaks the compiler on purpose, one line at a time, and checks that the tests notice.

    python tests/mutants.py [NAME …]

Each mutant is applied to a copy of the project, and the tests named beside it run there until one
fails, two mutants at a time; a mutant that they do not notice survives and makes the exit status 1.
Not part of the suite (minutes); `test_mutants.py` checks that each can still be applied.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutants_known import KERNELS, Mutant
from mutants_loads import LOADS
from mutants_places import PLACES
from mutants_rules import EQUATIONS

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("dsl", "backends", "stdlib", "models")
TOGETHER = 2
MUTANTS = (*KERNELS, *EQUATIONS, *LOADS, *PLACES)


def applied(mutant: Mutant, text: str) -> str | None:
    """The text with the mutant in place; None where it cannot be applied any more."""
    return text.replace(mutant.old, mutant.new, 1) if mutant.old in text else None


def verdict(mutant: Mutant) -> tuple[str, float]:
    """What the tests say with the mutant in place, and the seconds that it took. Tests that do not
    run (exit statuses 2 to 5) have not noticed anything."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        ignored = shutil.ignore_patterns(".git", "build", "*.egg-info", ".*_cache", "__pycache__")
        for room in ("dsl", "backends", "stdlib", "models", "tests", "docs"):
            if room == "models" and not mutant.file.startswith(room):
                (copy / room).symlink_to(ROOT / room)
            else:
                shutil.copytree(ROOT / room, copy / room, ignore=ignored)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, copy)
        source = copy / mutant.file
        made = applied(mutant, source.read_text())
        if made is None:
            sys.exit(f"{mutant.name}: `{mutant.old}` is not in {mutant.file} any more")
        source.write_text(made)
        _without_shrinking(copy / "tests" / "conftest.py")
        package = Path(folder) / "package" / "sdlc"
        package.mkdir(parents=True)
        for entry in (copy / "dsl").iterdir():
            (package / entry.name).symlink_to(entry)
        for room in ROOMS[1:]:
            (package / room).symlink_to(copy / room)
        words = ["-x", "-q", "-p", "no:cacheprovider", *shlex.split(mutant.tests)]
        environment = {**os.environ, "PYTHONPATH": str(package.parent)}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words], cwd=copy, env=environment, capture_output=True
        )
        word = {0: "SURVIVES", 1: "killed"}.get(done.returncode, "NO TESTS")
        return word, time.monotonic() - started


def _without_shrinking(conftest: Path) -> None:
    """A failure need not be small here."""
    text = conftest.read_text().replace("Phase.generate, Phase.shrink", "Phase.generate,")
    profile = 'settings.register_profile("first", phases=(Phase.explicit, Phase.generate))'
    conftest.write_text(f'{text}\n\n{profile}\nsettings.load_profile("first")\n')


def main() -> None:
    unknown = set(sys.argv[1:]) - {m.name for m in MUTANTS}
    if unknown:
        sys.exit(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [m for m in MUTANTS if not sys.argv[1:] or m.name in sys.argv[1:]]
    alive = []
    with ThreadPoolExecutor(TOGETHER) as pool:
        for mutant, (word, seconds) in zip(chosen, pool.map(verdict, chosen), strict=True):
            print(f"{word:8} {seconds:5.0f} s  {mutant.name}", flush=True)
            alive += [mutant.name] if word != "killed" else []
    print(f"{len(chosen) - len(alive)} of {len(chosen)} killed")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
