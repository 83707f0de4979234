"""A few generated kernels, kept as documentation of what the compiler prints.

`python tests/test_golden.py --write` writes them anew: read the difference before you commit it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sdlc.backends.legalize import legalize
from sdlc.backends.printer import print_kernel
from sdlc.backends.target import load_target
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.library import load
from sdlc.program.pipeline import compile_graph

GOLDEN = Path(__file__).parent / "golden"
STDLIB = Path(__file__).resolve().parent.parent / "stdlib"
CASES = {
    # name: (file, entry, sizes, precision, target, language)
    "softmax_adreno.cl": ("softmax", "softmax", {"b": (4,), "n": 77}, "f16", "adreno", "opencl"),
    "softmax_apple.wgsl": ("softmax", "softmax", {"b": (4,), "n": 77}, "f16", "apple", "wgsl"),
    "layer_norm_cpu.cl": (
        "norm", "layer_normalize", {"b": (16,), "n": 96}, "f32", "cpu", "opencl"
    ),
    "precision_mali.cl": (
        "../tests/programs/mixed", "mixed", {"b": 2, "n": 8}, "f16", "mali", "opencl"
    ),
    "conv2d_mali.cl": (
        "conv",
        "conv2d",
        {"b": 1, "c": 16, "cg": 16, "h": 8, "w": 8, "o": 32, "kh": 3, "kw": 3},
        "f16",
        "mali",
        "opencl",
    ),
}  # fmt: skip


def printed(name: str) -> str:
    """All kernels of a case, as one text."""
    file, entry, sizes, precision, target, language = CASES[name]
    dtype = DType(precision)
    path = (STDLIB / f"{file}.sdl").resolve()
    graph = build(load(path), entry, sizes, {}, dtype)  # type: ignore[arg-type]
    wanted = load_target(target)
    program = compile_graph(graph, wanted, dtype)
    texts = [
        print_kernel(legalize(k, wanted.caps, language), language, wanted.caps).text
        for k in program.kernels.values()
    ]
    return "\n".join(texts).replace(str(STDLIB.parent) + "/", "")


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_as_kept(name: str) -> None:
    assert printed(name) == (GOLDEN / name).read_text()


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    for case in CASES:
        (GOLDEN / case).write_text(printed(case))
