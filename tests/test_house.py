"""The house rules that a machine can check: arrows, sizes, names, types, style."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("language", "graph", "schedule", "kernel", "program", "proof")
ABOVE = {
    "graph": {"graph"},
    "language": {"graph", "language"},
    "schedule": {"graph", "schedule"},
    "kernel": {"graph", "schedule", "kernel"},
    "program": set(LEVELS) - {"proof"},
    "proof": set(LEVELS),
}
SHARED = {"target"}
"""Facts about devices, which schedules and verifiers may read."""


def python_files(*folders: str) -> list[Path]:
    return sorted(p for f in folders for p in (ROOT / f).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The dotted names of `sdlc` modules that a file imports."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sdlc"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("sdlc")}
    return found


@pytest.mark.parametrize("room", LEVELS)
def test_arrows_point_down(room: str) -> None:
    """A level imports only itself, levels above it in the pipeline, and shared facts.

    `language.diagnostics` is how every room reports a user's error, so all may import it.
    """
    wrong = []
    for path in python_files(f"dsl/{room}"):
        for name in imported(path):
            place = name.split(".")[1]
            if name.startswith("sdlc.language.diagnostics") or place in SHARED:
                continue
            if place not in ABOVE[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_printers_know_only_kernels() -> None:
    allowed = ("sdlc.kernel", "sdlc.graph.types", "sdlc.graph.scalar", "sdlc.target")
    allowed += ("sdlc.backends", "sdlc.program.device", "sdlc.language.diagnostics")
    wrong = [
        f"{name}: {module}"
        for name in ("printer.py", "opencl.py", "wgsl.py")
        for module in imported(ROOT / "backends" / name)
        if not module.startswith(allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_are_short() -> None:
    long = []
    for path in python_files("dsl", "backends", "models", "tests"):
        text = path.read_text()
        if text.count("\n") > 500:
            long.append(f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {length}")
    assert not long, "\n".join(long)


def test_compiler_names_no_operator_and_no_gpu() -> None:
    """Operators are definitions in stdlib/, GPUs are tables in backends/targets/."""
    gpus = {p.stem for p in (ROOT / "backends" / "targets").glob("*.toml")} - {"cpu"}
    operators = set()
    for path in (ROOT / "stdlib").glob("*.sdl"):
        for line in path.read_text().splitlines():
            if line.startswith(("op ", "block ")):
                operators.add(line.split()[1].split("(")[0])
    scalars = {"max", "min", "sum", "any", "all", "floor", "round", "tanh", "split", "pad", "where"}
    scalars |= {
        "concat",
        "reshape",
        "slice",
        "clamp",
        "transpose",
        "lookup",
        "prod",
        "mean",
        "flip",
    }
    scalars |= {"linear"}
    found = []
    for path in python_files("dsl", "backends"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            if node.value.lower() in (operators - scalars) | gpus:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value!r}")
    assert operators and gpus
    assert not found, "\n".join(found)


def test_style() -> None:
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_types(tmp_path: Path) -> None:
    """`mypy --strict` over the package as it is imported."""
    package = tmp_path / "sdlc"
    package.mkdir()
    for entry in (ROOT / "dsl").iterdir():
        (package / entry.name).symlink_to(entry)
    for room in ("backends", "stdlib", "models"):
        (package / room).symlink_to(ROOT / room)
    config = [
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--cache-dir",
        str(ROOT / ".mypy_cache"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *config, "-p", "sdlc"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
