"""Kernels for phones stay within registers: what decides it, and, where the offline compilers are
installed, that they spill nothing."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from sdlc.api import Compiled, make_request
from sdlc.backends.offline import folder, gpus
from sdlc.backends.statistics import lacking, statistics
from sdlc.backends.target import load_target
from sdlc.kernel.ir import Kernel, Load, Store, statement_expressions, statements, walk
from sdlc.schedule.draft import written_out
from sdlc.schedule.nest import Kind
from sdlc.target import Target

STDLIB = Path(__file__).resolve().parent.parent / "stdlib"
PHONES = ("adreno", "mali", "apple")


def compiled(file: str, entry: str, target: Target, **sizes: int | tuple[int, ...]) -> Compiled:
    request = make_request(STDLIB / f"{file}.sdl", target.name, entry, sizes, (None, "f16"))
    return replace(request, target=target).build()


def kernels(file: str, entry: str, target: str, **sizes: int | tuple[int, ...]) -> list[Kernel]:
    return list(compiled(file, entry, load_target(target), **sizes).program.kernels.values())


def accesses(kernel: Kernel, buffer: str) -> set[int]:
    """The lanes of the loads from, and stores to, a global buffer."""
    found = set()
    for stmt in statements(kernel.body):
        if isinstance(stmt, Store) and stmt.buffer.name == buffer:
            found.add(stmt.value.type.lanes)
        for e in walk(*statement_expressions(stmt)):
            if isinstance(e, Load) and e.buffer.name == buffer:
                found.add(e.lanes)
    return found


@pytest.mark.parametrize("columns", [36, 100, 136])
def test_vectors_at_a_border_stay_whole(columns: int) -> None:
    """A tile that reaches beyond the columns is cut at vectors, since vectors divide them."""
    (kernel,) = kernels("matmul", "matmul", "adreno", b=(), m=70, k=32, n=columns)
    assert accesses(kernel, "y") == {4} and accesses(kernel, "out") == {4}


def transforms(target: Target) -> list[tuple[int, int]]:
    """The vector's lanes and the written-out outputs of the transforms of an F(4, 3)."""
    made = compiled("winograd", "winograd_tiles2d", target, b=1, c=32, h=16, w=16)
    assert made.planned is not None
    found = []
    for kernel in made.planned[1].kernels:
        for nest in (kernel.nest, *(s.nest for s in kernel.nest.stages)):
            kept = [lp for lp in nest.loops if not nest.is_reduced(lp)]
            copies = prod(lp.extent for lp in kept if lp.kind is Kind.UNROLL)
            found.append((prod(lp.extent for lp in kept if lp.kind is Kind.VECTOR), copies))
    return found


@pytest.mark.parametrize("name", PHONES)
def test_transforms_are_as_wide_as_registers_hold_their_values(name: str) -> None:
    target = load_target(name)
    most = target.profile.registers
    found = transforms(target)
    assert any(copies > 1 for _, copies in found)
    assert all(width > 1 for width, copies in found if 4 * copies <= most)
    for width, copies in found:
        assert width == 1 or width * copies <= most
    free = replace(target, profile=replace(target.profile, registers=0))
    assert {width for width, _ in transforms(free)} == {target.profile.vector}


@pytest.mark.parametrize(("keys", "stored"), [(64, True), (4096, False)])
def test_scores_are_stored_where_they_are_small(keys: int, stored: bool) -> None:
    """Attention's two products are kernels of their own unless the scores are large, on a target
    that stores small ones."""
    found = kernels("attention", "attention", "llvmpipe", b=1, s=keys, t=keys, w=16, u=16)
    assert (len(found) > 1) is stored


def rows_of_states(target: Target) -> int:
    """Rows (queries) of attention's state that one work-item folds, in f16, at heads of 40."""
    made = compiled("attention", "attention", target, b=1, s=4096, t=4096, w=40, u=40)
    assert made.planned is not None
    (nest,) = [k.nest for k in made.planned[1].kernels]
    return prod(lp.extent for lp in nest.loops if lp.kind is Kind.UNROLL)


def test_states_leave_registers_for_what_a_block_needs() -> None:
    """Four rows of 40 columns took 48 registers of Adreno's four numbers, two take 16."""
    for name in ("adreno", "mali"):
        target = load_target(name)
        free = replace(target, profile=replace(target.profile, registers=0))
        assert [rows_of_states(t) for t in (target, free)] == [2, 4]


def parts(target: Target, n: int) -> int:
    """Elements of a row of n that one work-item folds for its statistics."""
    made = compiled("norm", "layer_normalize", target, b=(8,), n=n)
    assert made.planned is not None
    (nest,) = [s.nest for k in made.planned[1].kernels for s in k.nest.stages]
    lanes = prod(lp.extent for lp in nest.loops if lp.kind is Kind.LANE)
    return -(-n // lanes)


def test_parts_of_rows_fit_where_they_are_short_enough_to_be_written_out() -> None:
    """A compiler keeps what it read for the statistics until it normalises it."""
    target = load_target("mali")
    most = target.profile.registers // 4
    free = replace(target, profile=replace(target.profile, registers=0))
    assert [parts(target, n) for n in (160, 384, 768)] == [10, 12, 12] and most == 16
    assert [parts(free, n) for n in (160, 384, 768)] == [10, 24, 48]
    assert parts(target, 4096) == parts(free, 4096) == 256


def sums(file: str, entry: str, **sizes: int | tuple[int, ...]) -> int:
    """Scalars of the register tile of a program's only contraction, for Mali."""
    made = compiled(file, entry, load_target("mali"), **sizes)
    assert made.planned is not None
    (nest,) = [k.nest for k in made.planned[1].kernels if k.group.monoid is not None]
    own = (Kind.UNROLL, Kind.VECTOR)
    return prod(lp.extent for lp in nest.loops if lp.kind in own and not nest.is_reduced(lp))


def test_tiles_leave_registers_for_what_else_a_kernel_keeps() -> None:
    """Places in three loops over K, or of guarded rows, take the registers of half of the sums."""
    assert sums("matmul", "matmul", b=(), m=64, k=64, n=64) == 32
    assert sums("matmul", "matmul", b=(), m=79, k=64, n=64) == 16
    assert sums("matmul", "matmul", b=(), m=77, k=64, n=64) == 28  # 11 whole tiles of 7 rows
    window = {"b": 1, "c": 64, "cg": 64, "h": 16, "w": 16, "o": 64}
    assert sums("conv", "conv2d", **window, kh=5, kw=5) == 16
    assert sums("conv", "conv2d", **window, kh=1, kw=1) == 32


PRODUCT = """op product(x: T[m, k], w: T[n, k], r: T[m, n]) -> T[m, n] {
  y = matmul_nt(x, w)
  out[i, j] = y[i, j] + r[i, j]
}
"""
TURNED = """op turned(x: T[m, k], w: T[n, k]) -> T[n, m] {
  y = matmul_nt(x, w)
  out[j, i] = y[i, j]
}
"""


def tile(source: str, place: Path, registers: int) -> tuple[int, int, int]:
    """Results that a work-item keeps, steps of K of a slice, and how many are written out, for
    Adreno."""
    target = load_target("adreno")
    target = replace(target, profile=replace(target.profile, registers=registers))
    (place / "product.sdl").write_text(source)
    sizes = {"m": 1024, "k": 320, "n": 320}
    request = make_request(place / "product.sdl", "adreno", None, sizes, (None, "f16"))
    made = replace(request, target=target).build()
    assert made.planned is not None
    (nest,) = [k.nest for k in made.planned[1].kernels]
    loops = [lp for lp in nest.loops if lp.kind in (Kind.UNROLL, Kind.VECTOR)]
    passes = next(lp for lp in nest.loops if lp.name == "p")
    kept, written = (
        prod(lp.extent for lp in loops if nest.is_reduced(lp) is reduced)
        for reduced in (False, True)
    )
    return kept, 320 // passes.extent, written


@pytest.mark.parametrize(
    ("source", "registers", "expected"),
    [
        (PRODUCT, 0, (32, 8, 8)),
        (PRODUCT, 96, (32, 8, 2)),
        (PRODUCT, 64, (16, 16, 4)),
        (TURNED, 64, (16, 16, 4)),
        (TURNED, 48, (8, 32, 8)),
    ],
)
def test_tiles_leave_registers_for_the_places_of_results(
    tmp_path: Path, source: str, registers: int, expected: tuple[int, int, int]
) -> None:
    """Each vector of results has an address, and one of what is added to it; each scalar where
    results are turned. Of a smaller tile, slices are longer."""
    assert tile(source, tmp_path, registers) == expected


@pytest.mark.parametrize(("k", "steps"), [(320, 16), (40, 8), (12, 12), (30, 15)])
def test_steps_are_whole_loads(k: int, steps: int) -> None:
    """What is written out of K are whole gathered loads where they divide it."""
    assert written_out(k, load_target("mali").profile) == steps


CASES = {
    "matmul_nt": ("matmul", {"b": (77,), "k": 192, "n": 192}),
    "winograd_tiles2d": ("winograd", {"b": 1, "c": 96, "h": 16, "w": 16}),
    "conv2d": ("conv", {"b": 1, "c": 96, "cg": 96, "h": 16, "w": 16, "o": 96, "kh": 3, "kw": 3}),
}
"""Each of a kind that has spilled: guarded rows, a transform, loops over a window."""


@pytest.mark.parametrize("name", PHONES)
def test_nothing_spills(name: str) -> None:
    """What the offline compilers say, where they are installed."""
    where = folder()
    if (absent := lacking(name, where)) is not None:
        pytest.skip(absent.message)
    language = gpus(name)[0].languages[0]
    texts = [
        replace(text, name=f"{entry}: {text.name}")
        for entry, (file, sizes) in CASES.items()
        for text in compiled(file, entry, load_target(name), **sizes).texts((language,))
    ]
    rows = statistics({language: texts}, name, where)
    assert len(rows) == len(texts) >= len(CASES)
    assert not [(r.kernel, r.spills, r.error) for r in rows if r.spills or r.error]
