"""The verifier: accepts the examples, refuses what is wrong, and agrees with the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kernels import EXAMPLES, GX, GY, LX, LY, Example, add, div, local, lt, mod, mul, read, write
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    F32,
    I32,
    Access,
    Assign,
    Barrier,
    Buffer,
    Call,
    Cast,
    Declare,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    Stmt,
    Store,
    Type,
    Var,
    Vector,
    call,
    f32,
    i32,
)
from sdlc.kernel.simplify import simplify_kernel
from sdlc.kernel.verify import KernelError, verify
from sdlc.target import Capabilities

OUT, TILE = write("out", 64), local("tile", 64)
K, J = Var("k", I32), Var("j", I32)
ONE = f32(1.0)


def kernel(*body: Stmt, **more: object) -> Kernel:
    made = Kernel("k", (OUT,), (TILE,), body, (1, 1, 1), (8, 1, 1))
    return replace(made, **more)  # type: ignore[arg-type]


def problems(*body: Stmt, **more: object) -> tuple[str, ...]:
    try:
        verify(kernel(*body, **more))
    except KernelError as error:
        return error.problems
    return ()


def refused(what: str, *body: Stmt, **more: object) -> None:
    found = problems(*body, **more)
    assert any(what in p for p in found), found


@pytest.mark.parametrize("make", EXAMPLES, ids=lambda m: m.__name__)
def test_examples_pass_before_and_after_simplification(make: Callable[[], Example]) -> None:
    made = make().kernel
    verify(made)
    verify(simplify_kernel(made))


# Types, names, scopes


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("operands are f32, i32", call("add", ONE, i32(1))),
        ("exp takes f32", call("exp", i32(1))),
        ("and takes bool", call("and", LX, LX)),
        ("add takes numbers", call("add", lt(LX, 1), lt(LX, 2))),
        ("select takes a bool", call("select", LX, ONE, ONE)),
        ("operands are f32, i32", call("select", lt(LX, 1), ONE, LX)),
        ("takes 2 operands", Call("add", (ONE,))),
        ("a conversion is a Cast", call("f32", LX)),
        ("not finite", f32(float("inf"))),
        ("does not fit 32 bits", Cast(Literal(1 << 31, I32), DType.F32)),
        ("is a float", Cast(Literal(1.0, I32), DType.F32)),
        (
            "different numbers of lanes",
            Extract(call("add", *(Vector((ONE,) * n) for n in (2, 4))), 0),
        ),
        ("scalars of one type", Extract(Vector((ONE, LX)), 0)),
        ("there are 2 lanes", Extract(Vector((ONE, ONE)), 2)),
        ("vectors of 3 lanes", Extract(Vector((ONE, ONE, ONE)), 0)),
        ("is not defined", Var("nowhere", F32)),
        ("write-only", Load(OUT, LX)),
        ("not a buffer of this kernel", Load(read("x", 8), LX)),
        ("is f32, not i32", Load(TILE, ONE)),
    ],
)
def test_types_of_expressions(what: str, value: Expr) -> None:
    stored = value if value.type.dtype is DType.F32 else Cast(value, DType.F32)
    refused(what, Store(OUT, LX, stored))


def test_types_of_statements() -> None:
    x, acc = Var("x", F32), Var("acc", F32)
    refused("x is f32, its value i32", Let(x, LX))
    refused("can be assigned", Let(x, ONE), Assign(x, ONE))
    refused("acc: f32 is not defined", Assign(acc, acc), Declare(acc, ONE))
    refused("x: f32 is not defined", For(K, 2, (Let(x, ONE),)), Store(OUT, LX, x))
    refused("is given twice", Let(x, ONE), Declare(Var("x", I32), LX))
    refused("is not a name", Let(Var("x y", F32), ONE))
    refused("loop counts", For(Var("f", F32), 2, ()))
    refused("loop counts", For(K, 0, ()))
    refused("condition is i32", If(LX, ()))
    refused("guard is i32", Store(OUT, LX, ONE, LX))
    refused("out holds f32, the value is i32", Store(OUT, LX, LX))
    refused("x is read-only", Store(read("x", 8), LX, ONE), buffers=(read("x", 8),))
    refused("buffers are global", arrays=(read("x", 8),))
    refused("has no elements", arrays=(local("none", 0),))


def test_halves_compute_where_the_target_has_f16_arithmetic() -> None:
    half = Var("h", Type(DType.F16))
    body = (
        Let(half, Cast(ONE, DType.F16)),
        Store(OUT, LX, Cast(call("fma", half, half, half), DType.F32)),
    )
    assert problems(*body) == ()
    with pytest.raises(KernelError) as caught:
        verify(kernel(*body), Capabilities(("opencl",)))
    assert any("must be cast" in p for p in caught.value.problems)
    refused("mod takes f32 or i32", Let(Var("r", half.type), call("mod", half, half)))
    refused("exp takes f32", Let(Var("e", F32), call("exp", Cast(ONE, DType.F16))))
    refused("operands are f16, f32", Let(half, call("add", Cast(ONE, DType.F16), ONE)))
    refused("made from an f32", Let(half, Cast(LX, DType.F16)))


def test_every_problem_is_listed_with_its_statement() -> None:
    found = problems(Store(OUT, LX, LX), If(LX, ()))
    assert found == (
        "out holds f32, the value is i32\n    in: out[lane.x] = lane.x",
        "the condition is i32, not bool\n    in: if lane.x {",
    )


# Bounds


def test_bounds() -> None:
    refused(
        "cannot prove out[lane.x * 10] in bounds: 0 … 70 of 0 … 63", Store(OUT, mul(LX, 10), ONE)
    )
    refused("in bounds: -1 … 6", Store(OUT, call("sub", LX, i32(1)), ONE))
    refused("in bounds: 0 … 66", Store(OUT, mul(LX, 9), Literal(1.0, Type(DType.F32, 4))))
    assert not problems(Store(OUT, mul(LX, 10), ONE, lt(LX, 7)))
    assert not problems(If(lt(mul(LX, 10), 64), (Store(OUT, mul(LX, 10), ONE),)))
    refused("in bounds", Store(OUT, mul(LX, 10), ONE, lt(LX, 8)))


def test_a_guard_does_not_protect_loads() -> None:
    x = read("x", 7)
    protected = Load(x, call("min", LX, i32(6)))
    for value, fine in ((Load(x, LX), False), (protected, True)):
        made = problems(Store(OUT, LX, value, lt(LX, 7)), buffers=(x, OUT))
        assert (not made) is fine


def test_bounds_of_unknown_indices() -> None:
    ids = read("ids", 8, DType.I32)
    store = Store(OUT, LX, Load(TILE, Load(ids, LX)))
    refused("in bounds: unknown", store, buffers=(ids, OUT))
    index = Var("index", I32)
    refused("in bounds: unknown", Declare(index, LX), Store(OUT, index, ONE))


def test_bounds_by_enumeration() -> None:
    """(x * x) mod 8 is 0, 1 or 4: no interval says so."""
    square = mod(mul(LX, LX), 8)
    small = write("out", 5)
    guarded = Store(small, square, ONE, call("eq", LX, i32(2)))
    assert not problems(guarded, buffers=(small,))
    held = Buffer("held", DType.F32, 5, local("l", 1).space)
    assert not problems(Store(OUT, LX, Load(held, square)), arrays=(held,))


def test_arrays_of_vectors_are_accessed_in_whole_vectors() -> None:
    vectors = replace(OUT, lanes=4)
    four = Literal(1.0, Type(DType.F32, 4))
    assert not problems(Store(vectors, mul(LX, 4), four), buffers=(vectors,))
    refused("starts a vector of 4", Store(vectors, add(mul(LX, 4), 2), four), buffers=(vectors,))
    refused("stored with 1", Store(vectors, mul(LX, 4), ONE), buffers=(vectors,))


# Barriers and races


def test_uniformity() -> None:
    acc, row = Var("acc", I32), Var("row", I32)
    ids = read("ids", 8, DType.I32)
    what = "a barrier under a condition that lanes may not share"
    refused(what, If(lt(LX, 4), (Barrier(),)))
    refused(what, Let(row, add(LX, 1)), For(K, 2, (If(lt(row, 4), (Barrier(),)),)))
    refused(what, Declare(acc, i32(0)), If(lt(acc, 4), (Barrier(),)))
    refused(what, If(lt(Load(ids, LX), 4), (Barrier(),)), buffers=(ids,))
    assert not problems(Let(row, add(GX, 1)), If(lt(row, 4), (Barrier(),)), grid=(8, 1, 1))
    assert not problems(For(K, 2, (If(lt(K, 1), (Barrier(),)),)))
    assert not problems(If(lt(Load(ids, GX), 4), (Barrier(),)), buffers=(ids,))


def exchange(shift: int) -> tuple[Store, Store]:
    """Each lane fills its cell; each lane reads the cell of another."""
    other = mod(add(LX, shift), 8)
    return Store(TILE, LX, ONE), Store(OUT, LX, Load(TILE, other))


def test_races_on_local_memory() -> None:
    fill, take = exchange(3)
    assert not problems(fill, Barrier(), take)
    refused("race: two work-items touch one cell of tile", fill, take)
    assert not problems(*exchange(0))
    refused("race", fill, Barrier(), take, fill)
    assert not problems(fill, Barrier(), take, Barrier(), fill)
    refused("race", Store(TILE, div(LX, 2), ONE))
    refused("race", Store(TILE, i32(0), ONE))
    assert not problems(Store(TILE, i32(0), ONE, lt(LX, 1)))


def test_races_around_loops() -> None:
    fill, take = exchange(3)
    refused("race", For(K, 2, (fill, Barrier(), take)))
    assert not problems(For(K, 2, (fill, Barrier(), take, Barrier())))
    assert not problems(For(K, 2, (Barrier(), fill, Barrier(), take)))
    refused("race", For(K, 2, (fill, Barrier(), take, Barrier())), take, fill)
    # Two halves of the tile in turn: one barrier an iteration is enough.
    half = mul(mod(K, 2), 8)
    turn = (
        Store(TILE, add(half, LX), ONE),
        Barrier(),
        Store(OUT, LX, Load(TILE, add(half, mod(add(LX, 3), 8)))),
    )
    assert not problems(For(K, 4, turn))
    same = (Store(TILE, LX, ONE), *turn[1:])
    refused("race", For(K, 4, same))


def test_lanes_may_be_at_different_iterations() -> None:
    """A loop without a barrier: cell lane + k is another lane's at another iteration."""
    refused("race", For(K, 2, (Store(TILE, add(LX, K), ONE),)))
    assert not problems(For(K, 2, (Store(TILE, add(LX, mul(K, 8)), ONE),)))
    assert not problems(For(K, 2, (Store(TILE, add(LX, K), ONE), Barrier())))


def test_a_branch_that_some_groups_skip_orders_nothing() -> None:
    fill, take = exchange(3)
    some = If(lt(GX, 1), (Barrier(),))
    take = replace(take, index=add(LX, mul(GX, 8)))
    assert not problems(fill, Barrier(), take, grid=(2, 1, 1))
    refused("race", fill, some, take, grid=(2, 1, 1))


def test_races_on_global_memory() -> None:
    """Barriers and loops do not order it, and work-groups share it."""
    shifted = Buffer("out", DType.F32, 64, access=Access.READ_WRITE)
    refused("race", Store(OUT, LX, ONE), grid=(2, 1, 1))
    assert not problems(Store(OUT, add(LX, mul(GX, 8)), ONE), grid=(8, 1, 1))
    refused("race", Store(OUT, add(LX, mul(GX, 7)), ONE), grid=(8, 1, 1))
    move = (Store(shifted, LX, Load(shifted, add(LX, 1))),)
    refused("race", *move, buffers=(shifted,))
    refused("race", Store(shifted, LX, ONE), Barrier(), *move, buffers=(shifted,))
    ids = read("ids", 8, DType.I32)
    clamped = call("max", call("min", Load(ids, LX), i32(7)), i32(0))
    refused("cannot prove that out is free of races", Store(OUT, clamped, ONE), buffers=(ids, OUT))


def test_copies_of_rows_and_of_columns_are_told_apart() -> None:
    """Tiles of 128 columns for rows of 960: a work-item's next column is 64 further on, its next
    row 960, no multiple of 128."""
    out = write("out", 960 * 4096)
    column = add(mul(mod(GX, 8), 128), mul(LX, 4))
    for rows, wrong in ((8, False), (4, True)):
        at = add(mul(div(GX, 8), 8 * 4 * 960), mul(LY, rows * 960), column)
        body: list[Stmt] = []
        for row in range(8):
            body.append(Store(out, add(at, 960 * row), Vector((ONE,) * 4)))
            inside = lt(mod(GX, 8), 7)
            body.append(Store(out, add(at, 960 * row + 64), Vector((ONE,) * 4), inside))
        found = problems(*body, buffers=(out,), grid=(1024, 1, 1), group=(16, 4, 1))
        assert bool(found) is wrong


def test_large_outputs_are_proven_without_enumeration() -> None:
    """A guarded tail of columns: 4 columns a lane, rows of 1000, far more than can be listed."""
    rows, columns = 4096, 1000
    big = write("out", rows * columns)
    column, row = add(mul(GX, 64), mul(LX, 4), J), add(mul(GY, 32), mul(LY, 4), K)
    store = Store(big, add(mul(row, columns), column), ONE, lt(column, columns))
    body = For(K, 4, (For(J, 4, (store,)),))
    shape = {"buffers": (big,), "grid": (16, 128, 1), "group": (16, 8, 1)}
    assert not problems(body, **shape)
    open_tail = replace(store, guard=None)
    assert problems(For(K, 4, (For(J, 4, (open_tail,)),)), **shape)
    wide = For(K, 5, (For(J, 4, (store,)),))
    refused("cannot prove", wide, **shape)


def test_a_guard_of_a_quotient_tells_work_groups_apart() -> None:
    """Rows of 16 x 16 pixels by 128 work-items of four: those beyond the last row store nothing,
    found by the norms of pictures on a GPU."""
    out = write("out", 2 * 64 * 80 * 256)

    def store(rows: int) -> Stmt:
        cell = add(mul(mod(GX, 64), 80 * 512), mul(div(GX, 64), 256), mul(LX, 4))
        value, inside = Vector((ONE,) * 4), lt(div(LX, 4), rows)
        return For(K, 80, (Store(out, add(cell, mul(K, 512)), value, inside),))

    shape = {"buffers": (out,), "grid": (128, 1, 1), "group": (128, 1, 1)}
    assert not problems(store(16), **shape)
    assert problems(store(17), **shape)


def test_what_guards_pin_tells_work_groups_apart() -> None:
    """Almost every group of a launch is beyond the end: found by drawing, with loops in which only
    the first iteration is within. Nothing is listed, however many groups there are."""
    big = write("out", 17 * 17)

    def store(extent: int) -> Stmt:
        row = add(mul(K, 256), mul(mod(div(GX, 272), 16), 16), mod(GX, 16))
        batch = add(mul(J, 16), div(GX, 4352))
        inside = call("and", lt(row, 17), lt(batch, extent))
        cell = add(mul(row, 17), batch, mod(div(GX, 16), 17))
        return For(J, 8, (For(K, 8, (Store(big, cell, ONE, inside),)),))

    shape = {"buffers": (big,), "group": (1, 1, 1)}
    assert not problems(store(1), **shape, grid=(69_632, 1, 1))
    assert not problems(store(1), **shape, grid=(4352 << 12, 1, 1))
    assert problems(store(2), **shape, grid=(69_632, 1, 1))


def test_what_is_pinned_here_and_otherwise_there_is_no_constant() -> None:
    """Each store has one value of the work-group, and both end in the same cells."""
    one = Store(OUT, add(mul(GX, 4), mul(LX, 8)), ONE, lt(GX, 1))
    other = Store(OUT, add(mul(GX, 4), mul(LX, 8), -4), ONE, call("ge", GX, i32(1)))
    refused("race", one, other, grid=(2, 1, 1))
    assert not problems(one, replace(other, index=add(mul(GX, 4), mul(LX, 8))), grid=(2, 1, 1))


# Limits


def test_limits() -> None:
    caps = Capabilities(
        ("opencl",),
        f16_storage=False,
        vector_widths=(1, 2),
        max_work_items=4,
        max_group=(4, 4, 4),
        max_groups=2,
        local_bytes=16,
        max_storage_buffers=1,
        max_binding=64,
    )
    half = write("half", 8, DType.F16)
    four = Extract(Literal(1.0, Type(DType.F32, 4)), 0)
    made = kernel(Store(OUT, LX, four), buffers=(OUT, half), grid=(3, 1, 1))
    with pytest.raises(KernelError) as caught:
        verify(made, caps)
    text = str(caught.value)
    for what in (
        "8 work-items of a group: the target allows 4",
        "8 work-items along x",
        "3 work-groups along x: the target allows 2",
        "256 bytes of local memory: the target allows 16",
        "2 storage buffers: the target allows 1",
        "256 bytes of the buffer out: the target allows 64",
        "half holds f16",
        "vectors of 4 lanes",
    ):
        assert what in text
    verify(kernel(Store(OUT, LX, ONE)), Capabilities(("opencl",)))
