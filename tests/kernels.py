"""Hand-written kernels, each with inputs and the result that NumPy gives: the examples that the
tests of verifier, interpreter, simplifier and printers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdlc.graph.types import Array, DType
from sdlc.kernel.ir import (
    F32,
    I32,
    Access,
    Assign,
    Barrier,
    Buffer,
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
    Space,
    Store,
    Type,
    Var,
    Vector,
    WorkId,
    call,
    f32,
    i32,
)

F32X4 = Type(DType.F32, 4)
GX, GY = WorkId("group", 0), WorkId("group", 1)
LX, LY = WorkId("lane", 0), WorkId("lane", 1)
II, J, K = Var("i", I32), Var("j", I32), Var("k", I32)


@dataclass(frozen=True)
class Example:
    """A kernel, its inputs by buffer name and its outputs."""

    kernel: Kernel
    inputs: dict[str, Array]
    outputs: dict[str, Array]


def add(*terms: Expr | int) -> Expr:
    first, *rest = (i32(t) if isinstance(t, int) else t for t in terms)
    for term in rest:
        first = call("add", first, term)
    return first


def mul(a: Expr, b: Expr | int) -> Expr:
    return call("mul", a, i32(b) if isinstance(b, int) else b)


def lt(a: Expr, b: Expr | int) -> Expr:
    return call("lt", a, i32(b) if isinstance(b, int) else b)


def div(a: Expr, b: int) -> Expr:
    return call("floordiv", a, i32(b))


def mod(a: Expr, b: int) -> Expr:
    return call("mod", a, i32(b))


def splat(value: float, lanes: int) -> Expr:
    return Literal(value, Type(DType.F32, lanes))


def read(name: str, size: int, dtype: DType = DType.F32) -> Buffer:
    return Buffer(name, dtype, size)


def write(name: str, size: int, dtype: DType = DType.F32) -> Buffer:
    return Buffer(name, dtype, size, access=Access.WRITE)


def local(name: str, size: int) -> Buffer:
    return Buffer(name, DType.F32, size, Space.LOCAL, Access.READ_WRITE)


def private(name: str, size: int) -> Buffer:
    return Buffer(name, DType.F32, size, Space.PRIVATE, Access.READ_WRITE)


def numbers(*shape: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def scale_map() -> Example:
    """out[i] = 2 * x[i] + 1; one work-item an element, exactly."""
    x, out = read("x", 128), write("out", 128)
    i = Var("row", I32)
    value = call("fma", Load(x, i), f32(2.0), f32(1.0))
    body = (Let(i, add(mul(GX, 32), LX)), Store(out, i, value))
    data = numbers(128)
    kernel = Kernel("scale_map", (x, out), (), body, (4, 1, 1), (32, 1, 1))
    return Example(kernel, {"x": data}, {"out": data * np.float32(2) + np.float32(1)})


def guarded_map() -> Example:
    """A strided map over 100 elements by 128 work-items: the tail reads clamped, stores guarded."""
    x, out = read("x", 200), write("out", 100)
    i = Var("row", I32)
    clamped = call("min", i, i32(99))
    body = (
        Let(i, add(mul(GX, 32), LX)),
        Store(out, i, call("exp", Load(x, mul(clamped, 2))), lt(i, 100)),
    )
    data = numbers(200)
    kernel = Kernel("guarded_map", (x, out), (), body, (4, 1, 1), (32, 1, 1))
    return Example(kernel, {"x": data}, {"out": np.exp(data[::2])})


def half_vectors() -> Example:
    """out = max(x, 0) in f16, four lanes a work-item; a second loop over blocks."""
    x, out = read("x", 256, DType.F16), write("out", 256, DType.F16)
    index = add(mul(II, 128), mul(LX, 4))
    value = call("max", Cast(Load(x, index, 4), DType.F32), f32(0.0))
    body = (For(II, 2, (Store(out, index, Cast(value, DType.F16)),), "block"),)
    data = numbers(256).astype(np.float16)
    kernel = Kernel("half_vectors", (x, out), (), body, (1, 1, 1), (32, 1, 1))
    return Example(kernel, {"x": data}, {"out": np.maximum(data, np.float16(0))})


def padded_rows() -> Example:
    """out[r, c] = x[r, c - 1] else 0: a guarded read clamps its index and selects."""
    rows, columns = 4, 5
    x, out = read("x", rows * columns), write("out", rows * columns)
    c = call("sub", LX, i32(1))
    inside = call("and", call("ge", c, i32(0)), lt(LX, columns))
    clamped = call("select", inside, c, i32(0))
    value = call("select", inside, Load(x, add(mul(GX, columns), clamped)), f32(0.0))
    body = (Store(out, add(mul(GX, columns), LX), value, lt(LX, columns)),)
    data = numbers(rows, columns)
    expected = np.pad(data, ((0, 0), (1, 0)))[:, :columns]
    kernel = Kernel("padded_rows", (x, out), (), body, (rows, 1, 1), (8, 1, 1))
    return Example(kernel, {"x": data.ravel()}, {"out": expected.ravel()})


def group_sum() -> Example:
    """Row sums: each of 16 lanes adds a strided part, then a tree in local memory."""
    rows, n, lanes = 3, 80, 16
    x, out, scratch = read("x", rows * n), write("out", rows), local("scratch", lanes)
    acc = Var("acc", F32)
    part = Load(x, add(mul(GX, n), mul(K, lanes), LX))
    tree: list[If | Barrier] = []
    step = lanes // 2
    while step:
        pair = call("add", Load(scratch, LX), Load(scratch, add(LX, step)))
        tree += [Barrier(), If(lt(LX, step), (Store(scratch, LX, pair),))]
        step //= 2
    body = (
        Declare(acc, f32(0.0)),
        For(K, n // lanes, (Assign(acc, call("add", acc, part)),), "k"),
        Store(scratch, LX, acc),
        *tree,
        Barrier(),
        Store(out, GX, Load(scratch, i32(0)), call("eq", LX, i32(0))),
    )
    data = numbers(rows, n)
    kernel = Kernel("group_sum", (x, out), (scratch,), body, (rows, 1, 1), (lanes, 1, 1))
    return Example(kernel, {"x": data.ravel()}, {"out": data.sum(1)})


def register_matmul() -> Example:
    """c = a b, f32[12, 8] x f32[8, 32]: a work-item holds a 4 x 4 tile, b is read in vectors; the
    last rows of the grid are guarded (rows 10, 11 are not stored)."""
    m, n, k = 10, 32, 8
    a, b, c = read("a", m * k), read("b", k * n), write("c", m * n)
    row, column = Var("row", I32), Var("column", I32)
    accumulators = [Var(f"acc{r}", F32X4) for r in range(4)]
    weights = Var("weights", F32X4)
    loads = [Load(a, add(mul(call("min", add(row, r), i32(m - 1)), k), K)) for r in range(4)]
    body = (
        Let(row, add(mul(GY, 4), mul(LY, 4))),
        Let(column, add(mul(GX, 16), mul(LX, 4))),
        *(Declare(acc, splat(0.0, 4)) for acc in accumulators),
        For(
            K,
            k,
            (
                Let(weights, Load(b, add(mul(K, n), column), 4)),
                *(
                    Assign(acc, call("fma", load, weights, acc))
                    for acc, load in zip(accumulators, loads, strict=True)
                ),
            ),
            "k",
        ),
        *(
            Store(c, add(mul(add(row, r), n), column), acc, lt(add(row, r), m))
            for r, acc in enumerate(accumulators)
        ),
    )
    left, right = numbers(m, k), numbers(k, n, seed=1)
    kernel = Kernel("register_matmul", (a, b, c), (), body, (2, 3, 1), (4, 1, 1))
    return Example(kernel, {"a": left.ravel(), "b": right.ravel()}, {"c": (left @ right).ravel()})


def staged_matmul() -> Example:
    """c = a b, f32[16, 24] x f32[24, 16]: 8 x 8 tiles of both operands in local memory, a barrier
    before each tile is overwritten and one before it is read."""
    m, n, depth, tile = 16, 16, 24, 8
    a, b, c = read("a", m * depth), read("b", depth * n), write("c", m * n)
    left, right = local("left", tile * tile), local("right", tile * tile)
    block, acc = Var("block", I32), Var("acc", F32)
    row, column = add(mul(GY, tile), LY), add(mul(GX, tile), LX)
    cell = add(mul(LY, tile), LX)
    product = call(
        "fma", Load(left, add(mul(LY, tile), K)), Load(right, add(mul(K, tile), LX)), acc
    )
    body = (
        Declare(acc, f32(0.0)),
        For(
            block,
            depth // tile,
            (
                Barrier(),
                Store(left, cell, Load(a, add(mul(row, depth), mul(block, tile), LX))),
                Store(right, cell, Load(b, add(mul(add(mul(block, tile), LY), n), column))),
                Barrier(),
                For(K, tile, (Assign(acc, product),), "k"),
            ),
            "k.block",
        ),
        Store(c, add(mul(row, n), column), acc),
    )
    x, y = numbers(m, depth), numbers(depth, n, seed=1)
    kernel = Kernel("staged_matmul", (a, b, c), (left, right), body, (2, 2, 1), (tile, tile, 1))
    return Example(kernel, {"a": x.ravel(), "b": y.ravel()}, {"c": (x @ y).ravel()})


def local_transpose() -> Example:
    """out = x transposed through a padded tile of local memory, lanes numbered in one dimension."""
    n = 8
    x, out, tile = read("x", n * n), write("out", n * n), local("tile", n * (n + 1))
    r, c = div(LX, n), mod(LX, n)
    body = (
        Store(tile, add(mul(r, n + 1), c), Load(x, LX)),
        Barrier(),
        Store(out, LX, Load(tile, add(mul(c, n + 1), r))),
    )
    data = numbers(n, n)
    kernel = Kernel("local_transpose", (x, out), (tile,), body, (1, 1, 1), (n * n, 1, 1))
    return Example(kernel, {"x": data.ravel()}, {"out": data.T.ravel()})


def private_reverse() -> Example:
    """Each work-item reverses four elements through a private array, and packs them again."""
    x, out, held = read("x", 64), write("out", 64), private("held", 4)
    loaded = Var("loaded", F32X4)
    parts = tuple(Load(held, i32(3 - i)) for i in range(4))
    body = (
        Let(loaded, Load(x, mul(LX, 4), 4)),
        *(Store(held, i32(i), Extract(loaded, i)) for i in range(4)),
        For(J, 4, (Store(held, J, call("neg", Load(held, J))),), "j"),
        Store(out, mul(LX, 4), Vector(parts)),
    )
    data = numbers(16, 4)
    kernel = Kernel("private_reverse", (x, out), (held,), body, (1, 1, 1), (16, 1, 1))
    return Example(kernel, {"x": data.ravel()}, {"out": -data[:, ::-1].ravel()})


def gather_rows() -> Example:
    """out[t, c] = table[clamp(ids[t]), c] where mask[t] else 0: loads at loaded indices, a bool."""
    tokens, vocabulary, width = 6, 10, 4
    ids, mask = read("ids", tokens, DType.I32), read("mask", tokens, DType.BOOL)
    table, out = read("table", vocabulary * width), write("out", tokens * width)
    row = call("max", call("min", Load(ids, GX), i32(vocabulary - 1)), i32(0))
    value = call("select", Load(mask, GX), Load(table, add(mul(row, width), LX)), f32(0.0))
    body = (Store(out, add(mul(GX, width), LX), value),)
    data = numbers(vocabulary, width)
    picked = np.array([3, 0, 12, 9, -4, 1], np.int32)
    kept = np.array([1, 0, 1, 1, 1, 1], np.int32)
    expected = data[picked.clip(0, vocabulary - 1)] * kept[:, None].astype(np.float32)
    kernel = Kernel("gather_rows", (ids, mask, table, out), (), body, (tokens, 1, 1), (width, 1, 1))
    inputs: dict[str, Array] = {"ids": picked, "mask": kept, "table": data.ravel()}
    return Example(kernel, inputs, {"out": expected.ravel()})


def in_place() -> Example:
    """x = x * x in place: a work-item reads and writes its own cells only."""
    x = Buffer("x", DType.F32, 96, access=Access.READ_WRITE)
    cell = add(mul(LX, 6), mul(II, 2), J)
    square = call("mul", Load(x, cell), Load(x, cell))
    body = (For(II, 3, (For(J, 2, (Store(x, cell, square),)),)),)
    data = numbers(96)
    kernel = Kernel("in_place", (x,), (), body, (1, 1, 1), (16, 1, 1))
    return Example(kernel, {"x": data}, {"x": data * data})


EXAMPLES: tuple[Callable[[], Example], ...] = (
    scale_map,
    guarded_map,
    half_vectors,
    padded_rows,
    group_sum,
    register_matmul,
    staged_matmul,
    local_transpose,
    private_reverse,
    gather_rows,
    in_place,
)
