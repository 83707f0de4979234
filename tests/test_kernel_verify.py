"""The verifier: accepts the examples, refuses what is wrong, and agrees with the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from kernels import EXAMPLES, GX, GY, LX, LY, Example, add, div, local, lt, mod, mul, read, write
from sdlc.graph.types import DType
from sdlc.kernel.interpret import Trap, interpret
from sdlc.kernel.ir import (
    BOOL,
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
    operands,
    statement_expressions,
    walk,
    with_operands,
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
    refused("accessed with 1", Store(vectors, mul(LX, 4), ONE), buffers=(vectors,))


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


# Mutants


def edits(
    body: tuple[Stmt, ...], change: Callable[[Stmt], Iterator[Stmt | None]]
) -> Iterator[tuple[Stmt, ...]]:
    """Every body in which one statement is changed (None: dropped), at any depth."""
    for i, stmt in enumerate(body):
        for made in change(stmt):
            yield (*body[:i], *(() if made is None else (made,)), *body[i + 1 :])
        if isinstance(stmt, (For, If)):
            for inner in edits(stmt.body, change):
                yield (*body[:i], replace(stmt, body=inner), *body[i + 1 :])


def drop_barrier(stmt: Stmt) -> Iterator[None]:
    if isinstance(stmt, Barrier):
        yield None


def drop_guard(stmt: Stmt) -> Iterator[Stmt]:
    if isinstance(stmt, Store) and stmt.guard is not None:
        yield replace(stmt, guard=None)


def drop_branch(stmt: Stmt) -> Iterator[Stmt]:
    if isinstance(stmt, If):
        yield replace(stmt, condition=Literal(True, BOOL))


def shift_index(stmt: Stmt) -> Iterator[Stmt]:
    if isinstance(stmt, Store):
        yield replace(stmt, index=add(stmt.index, 1))
    yield from changed(stmt, lambda e: Load(e.buffer, add(e.index, 1), e.lanes), Load)


def swap_select(stmt: Stmt) -> Iterator[Stmt]:
    def swap(e: Call) -> Expr:
        return call("select", e.args[0], e.args[2], e.args[1])

    yield from changed(stmt, swap, Call, lambda e: e.op == "select")


def wrong_identity(stmt: Stmt) -> Iterator[Stmt]:
    if isinstance(stmt, Declare) and isinstance(stmt.value, Literal):
        yield replace(stmt, value=Literal(1.0, stmt.value.type))


def changed(stmt: Stmt, change, kind, accept=lambda e: True) -> Iterator[Stmt]:  # type: ignore
    """The statement with one of its subexpressions of a kind changed."""
    for expr in walk(*statement_expressions(stmt)):
        if isinstance(expr, kind) and accept(expr):
            yield substituted(stmt, expr, change(expr))


def substitute(expr: Expr, old: Expr, new: Expr) -> Expr:
    if expr is old:
        return new
    return with_operands(expr, tuple(substitute(o, old, new) for o in operands(expr)))


def substituted(stmt: Stmt, old: Expr, new: Expr) -> Stmt:
    match stmt:
        case Store():
            guard = None if stmt.guard is None else substitute(stmt.guard, old, new)
            index, value = (substitute(e, old, new) for e in (stmt.index, stmt.value))
            return replace(stmt, index=index, value=value, guard=guard)
        case Let() | Declare() | Assign():
            return replace(stmt, value=substitute(stmt.value, old, new))
        case If():
            return replace(stmt, condition=substitute(stmt.condition, old, new))
    return stmt


MUTATIONS = (drop_barrier, drop_guard, drop_branch, shift_index, swap_select, wrong_identity)


def caught(mutant: Kernel, example: Example) -> bool:
    try:
        verify(mutant)
        found = interpret(mutant, example.inputs)
    except (KernelError, Trap):
        return True
    return any(
        not np.allclose(found[name], expected, rtol=1e-5, atol=1e-5)
        for name, expected in example.outputs.items()
    )


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda m: m.__name__)
def test_every_mutant_is_killed(mutate: Callable[[Stmt], Iterator[Stmt | None]]) -> None:
    count = 0
    for make in EXAMPLES:
        example = make()
        made = simplify_kernel(example.kernel)
        for body in edits(made.body, mutate):
            mutant = replace(made, body=body)
            assert caught(mutant, example), mutant
            count += 1
    assert count >= 2


@pytest.mark.parametrize("mutate", [drop_barrier, drop_guard])
def test_the_verifier_alone_kills_these(
    mutate: Callable[[Stmt], Iterator[Stmt | None]],
) -> None:
    for make in EXAMPLES:
        made = simplify_kernel(make().kernel)
        for body in edits(made.body, mutate):
            with pytest.raises(KernelError):
                verify(replace(made, body=body))


# Agreement with the interpreter


LANE = add(mul(LY, 4), LX)


def _index(rng: Random) -> Expr:
    """A sum of digits, sometimes one that keeps lanes apart, sometimes taken apart by // and %."""
    kind = rng.random()
    if kind < 0.5:
        made = add(LANE, rng.choice((0, 0, 8, 16)))
    elif kind < 0.6:
        made = add(mul(LANE, 3), K)
    else:
        scales = (rng.choice((0, 1, 2, 4, 6, 8)) for _ in range(3))
        made = add(*(mul(v, s) for v, s in zip((LX, LY, K), scales, strict=True)))
    if rng.random() < 0.3:
        c, m = rng.choice((2, 3, 4, 8)), rng.choice((2, 3, 4, 8, 9))
        made = add(mul(div(made, c), m), mod(made, c))
    if rng.random() < 0.2:
        made = call(rng.choice(("min", "max", "sub")), made, i32(rng.choice((1, 7, 20))))
    return made if rng.random() < 0.7 else add(made, mul(mod(K, 2), 8))


def _guard(rng: Random) -> Expr | None:
    return lt(_index(rng), rng.randint(1, 24)) if rng.random() < 0.2 else None


def _kernel(rng: Random) -> Kernel:
    """Two stores and a load of one local array in a loop, with and without barriers."""
    acc = Var("acc", F32)
    stores = [Store(TILE, _index(rng), ONE, _guard(rng)) for _ in range(rng.randint(1, 2))]
    load = Assign(acc, Load(TILE, _index(rng)))
    barrier = (Barrier(),)
    inner: tuple[Stmt, ...] = (*stores, *barrier * rng.randint(0, 1), load)
    if rng.random() < 0.3:
        inner = (If(lt(_index(rng), 12), (stores[0],)), *barrier, load)
    inner = (*barrier * rng.randint(0, 1), *inner, *barrier * rng.randint(0, 1))
    clear = For(J, 8, (Store(TILE, add(mul(J, 8), LANE), f32(0.0)),))
    out = Store(OUT, substitute(_index(rng), K, i32(1)), ONE, lt(LX, 3))
    body = (Declare(acc, f32(0.0)), clear, Barrier(), For(K, 3, inner), out)
    return kernel(*body, group=(4, 2, 1))


def _refusal(made: Kernel) -> str:
    try:
        verify(made)
    except KernelError as error:
        return str(error)
    return ""


def _trap(made: Kernel) -> str:
    try:
        interpret(made, {})
    except Trap as trap:
        return str(trap)
    return ""


def test_verifier_and_interpreter_agree() -> None:
    """Small kernels without loaded indices are decided exactly, so the two must agree."""
    accepted = 0
    for seed in range(400):
        made = _kernel(Random(seed))
        trap, refusal = _trap(made), _refusal(made)
        assert bool(trap) == bool(refusal), (seed, made, trap, refusal)
        accepted += not refusal
    assert 50 < accepted < 350
