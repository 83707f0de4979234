"""Tiles of results stay within the registers that a target's profile gives them: SD 1.4's first
block, small, in f16, on targets whose registers are counted. What phones' own compilers make of it
is `tests/measure_phones.py`."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from bench_block import PROGRAM
from sdlc.api import make_request, target_texts
from sdlc.backends.target import load_target
from sdlc.graph.mechanisms import MECHANISMS
from sdlc.graph.types import DType
from sdlc.program.interpreted import run_interpreted
from sdlc.program.pipeline import compile_graph, planned
from sdlc.proof.tolerance import Numerics, check, tolerance
from sdlc.schedule.contraction import contraction
from sdlc.schedule.nest import Kind
from sdlc.schedule.plan import Scheduled, plan
from sdlc.schedule.profit import profitable

SIZES = {"b": 2, "c": 64, "h": 16, "w": 16, "e": 64, "t": 80, "d": 64}


def contractions(name: str) -> list[tuple[Scheduled, int]]:
    """The block's products, and how many results a work-item of each sums at once."""
    request = make_request(PROGRAM, name, None, SIZES, (None, "f16"))
    found = []
    for item in planned(request.graph(), request.target, request.rules).plan.kernels:
        group = item.group
        form = contraction(group)
        if form is None:
            continue
        copies = (Kind.UNROLL, Kind.VECTOR)
        tile = (x.extent for x in item.nest.loops if x.kind in copies and x.axis not in group.over)
        found.append((item, form.fields * prod(tile)))
    return found


@pytest.mark.parametrize("name", ["adreno", "mali", "apple"])
def test_results_fit_the_register_tile(name: str) -> None:
    """However many products share a kernel, and half of it at most where a slice of K is normalised
    or two of them are fetched to local memory."""
    profile = load_target(name).profile
    most = prod(profile.register_tile)
    found = contractions(name)
    assert len(found) >= 6
    for item, results in found:
        local = profile.slice and (
            len(item.group.lift) > 1 or any(p.monoid for p in item.group.inner)
        )
        assert results <= (most // 2 if local else most), item.group.name


@pytest.mark.parametrize("name", ["adreno"])
def test_queries_keys_and_values_are_one_product(name: str) -> None:
    """Three sums a column would take three times the registers."""
    groups = [item.group for item, _ in contractions(name)]
    assert any(a.extent == 3 * SIZES["c"] for group in groups for a in group.axes)
    assert max(len(group.lift) for group in groups) == 2


@pytest.mark.parametrize(("name", "again"), [("mali", True), ("apple", True), ("adreno", False)])
def test_joined_products_are_joined_again_where_right_factors_are_not_fetched(
    name: str, again: bool
) -> None:
    """Keys and values of all layers. Where each is fetched to local memory they share a kernel:
    Adreno's has 12 registers instead of 16, and in WGSL 49 % instead of 41."""
    (rule,) = (r for r in MECHANISMS if r.name == "join_read_together")
    whether = profitable(load_target(name))
    assert not whether(rule, {"parts": 2, "bytes": 64, "again": 0})
    assert (whether(rule, {"parts": 2, "bytes": 64, "again": 1}) == "") == again


def test_queries_of_any_number_of_keys_are_loaded_in_vectors() -> None:
    """Of 77 keys no vector runs along memory, but along local memory; queries are read a head's
    elements at a time, so these are neighbours."""
    text = """op entry(q: T[b, s, c], w: T[c, c], k: T[b, t, c], v: T[b, t, c]) -> T[b, s, c] {
  return attention(matmul_nt(q, w), k, v; heads = 2)
}"""
    sizes = {"b": 1, "s": 4096, "t": 77, "c": 80}
    request = make_request(text, "adreno", None, sizes, (None, "f16"))
    made = planned(request.graph(), request.target, request.rules).plan
    (product,) = (k.group for k in made.kernels if contraction(k.group) is not None)
    assert made.orders[(product.stores[0].node, 0)][-1] == 2


@pytest.mark.parametrize(("rows", "order"), [(64, (2, 0, 1)), (77, (0, 1, 2))])
def test_what_attention_makes_lies_along_what_vectors_divide(
    rows: int, order: tuple[int, ...]
) -> None:
    """As its rows do, or, of 77, as the head's elements: the product behind it loads vectors."""
    text = """op entry(q: T[b, s, c], k: T[b, s, c], v: T[b, s, c], w: T[c, c]) -> T[b, s, c] {
  return matmul_nt(attention(q, k, v; heads = 2), w)
}"""
    request = make_request(text, "mali", None, {"b": 2, "s": rows, "c": 64}, (None, "f16"))
    made = planned(request.graph(), request.target, request.rules).plan
    first, last = made.kernels
    assert first.group.inner and contraction(last.group) is not None
    assert made.orders[(first.group.stores[0].node, 0)] == order


def window(channels: int, outputs: int, target: str = "adreno") -> Scheduled:
    """A 3 × 3 convolution as it is written."""
    text = """op entry(x: T[b, h, w, c], k: T[o, c, 3, 3]) -> T[b, h, w, o] {
  out[b, y, x', o] = sum over d < c, i < 3, j < 3 of
    x[b, y + i - 1, x' + j - 1, d] else 0 * k[o, d, i, j]
  return out
}"""
    sizes = {"b": 2, "c": channels, "h": 16, "w": 16, "o": outputs}
    request = make_request(text, target, None, sizes, (None, "f16"))
    kernels = plan(request.graph(), request.target).kernels
    return next(k for k in kernels if contraction(k.group) is not None)


def window_tile(channels: int) -> tuple[int, int]:
    """Results of a work-item of a convolution, and steps of K that are written out for them."""
    item = window(channels, 64)
    copies = [x for x in item.nest.loops if x.kind in (Kind.UNROLL, Kind.VECTOR)]
    results = prod(x.extent for x in copies if x.axis not in item.group.over)
    return results, prod(x.extent for x in copies if x.axis in item.group.over)


def test_loops_over_a_window_take_registers_of_results_and_of_steps() -> None:
    """Where they are around several slices of channels; of few channels one slice is the whole."""
    profile = load_target("adreno").profile
    most = prod(profile.register_tile)
    assert window_tile(64) == (most // 2, 2 * profile.slice // 8)
    assert window_tile(4) == (most, 1)


@pytest.mark.parametrize(("outputs", "local"), [(4, {"right"}), (64, {"left", "right"})])
def test_a_factor_that_no_work_items_share_stays_in_memory(outputs: int, local: set[str]) -> None:
    """Where a work-item takes all columns; of GPUs whose registers are not counted work-items
    fetch for one another all the same."""
    assert {s.value for s in window(64, outputs).nest.stages} == local
    assert window(64, outputs, "nvidia").nest.stages


PRODUCT = "op entry(x: T[b, s, k], w: T[n, k]) -> T[b, s, n] { return matmul_nt(x, w) }"


def product(target: str, sizes: dict[str, int], text: str = PRODUCT) -> Scheduled:
    """The kernel of a product in f16."""
    request = make_request(text, target, None, {"b": 2, **sizes}, (None, "f16"))
    (item,) = plan(request.graph(), request.target).kernels
    return item


@pytest.mark.parametrize(
    ("target", "rows", "tile"),
    [
        *(("mali", 76, (4, 8)), ("mali", 77, (7, 4)), ("mali", 79, (4, 4))),
        *(("apple", 76, (8, 8)), ("apple", 77, (7, 8)), ("apple", 79, (8, 8))),
    ],
)
def test_rows_are_whole_tiles_where_those_of_one_divide_them(
    target: str, rows: int, tile: tuple[int, int]
) -> None:
    """Of 77 rows 11 tiles of 7: none is beyond the end. Of 79 there are no such tiles. Only where
    registers would not do otherwise is a higher tile of one vector: 76 % instead of 82 on Apple."""
    item = product(target, {"s": rows, "k": 192, "n": 384})
    _, axis, columns = item.group.axes
    copies = (Kind.UNROLL, Kind.VECTOR)
    found = [
        prod(x.extent for x in item.nest.loops if x.kind in copies and x.axis == a)
        for a in (axis, columns)
    ]
    assert tuple(found) == tile
    assert target == "apple" or item.nest.is_exact(axis) == (rows % tile[0] == 0)


def test_a_place_of_results_is_made_from_one_that_is_there() -> None:
    """Not from the group's number, which would take a register while the loop runs; its vectors
    are aligned all the same. 53.1 % multiply-adds instead of 51.4 on Mali."""
    text = """op entry(x: T[b, s, k], w: T[n, k], r: T[b, s, n]) -> T[b, s, n] {
  y = matmul_nt(x, w)
  out[i, j, l] = y[i, j, l] + r[i, j, l]
}"""
    sizes = {"b": 2, "s": 77, "k": 768, "n": 192}
    made = make_request(text, "mali", None, sizes, (None, "f16")).build()
    (kernel,) = target_texts(made.program, load_target("mali"), ("opencl",))
    before, behind = kernel.text.split("for (int p", 1)
    assert before.count("group_x *") == 1 and "group_x" not in behind
    assert "vload" not in kernel.text and "vstore" not in kernel.text


NORMALIZED = """op entry(x: T[b, s, k], g: T[k], h: T[k], w: T[n, k]) -> T[b, s, n] {
  return matmul_nt(layer_normalize(x, g, h), w)
}"""


@pytest.mark.parametrize(
    ("target", "shared"), [("mali", False), ("apple", False), ("nvidia", True)]
)
def test_results_are_shared_where_both_factors_are_near(target: str, shared: bool) -> None:
    """Of few rows, two work-items sum one result each with half a tile, unless what a tile reads
    comes from memory: 52 % multiply-adds instead of 31 on Mali, 84 instead of 57 on Apple."""
    item = product(target, {"s": 64, "k": 192, "n": 192}, NORMALIZED)
    assert item.nest.stages
    reduced = [x for x in item.nest.loops if x.kind is Kind.LANE and item.nest.is_reduced(x)]
    assert bool(reduced) == shared


@pytest.mark.parametrize("rows", [5, 7, 14])
def test_whole_tiles_of_rows_compute_the_definition(rows: int) -> None:
    sizes = {"b": 1, "s": rows, "k": 5, "n": 8}
    request = make_request(PRODUCT, "mali", None, sizes, (None, "f16"))
    graph = request.graph()
    program = compile_graph(graph, request.target, DType.F16)
    rng = np.random.default_rng(rows)
    inputs = {i.name: rng.standard_normal(i.shape).astype(np.float16) for i in graph.inputs}
    allowed = tolerance(graph, inputs, {})
    check(allowed, run_interpreted(program, inputs, {}), Numerics.REASSOCIATED)
