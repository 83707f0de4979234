"""Small programs made by hand, for tests of what comes after compilation.

`affine` is two dispatches: `t = x * w` with `w` stored column-major, then `out = t + c` with a
constant `c`. `counter` has a state: `next = state + step`.
"""

from __future__ import annotations

import numpy as np

from sdlc.graph.types import Array, DType, Origin, Span
from sdlc.kernel.ir import Access, Buffer, Cast, Expr, Kernel, Load, Stmt, Store, WorkId, call, i32
from sdlc.program.program import Dispatch, MemoryReport, Program, Tensor, TensorRole

ROWS, COLUMNS = 3, 5
LANE = WorkId("lane", 0)
HERE = Origin("w", "affine", Span("affine.sdl", 2, 3, 2, 20), "layer")


def tensor(
    name: str,
    role: TensorRole,
    shape: tuple[int, ...] = (ROWS, COLUMNS),
    dtype: DType = DType.F32,
    **more: object,
) -> Tensor:
    values = {
        "order": tuple(range(len(shape))),
        "nbytes": int(np.prod(shape)) * dtype.itemsize,
        **more,
    }
    return Tensor(name, shape, dtype, role=role, **values)  # type: ignore[arg-type]


def elementwise(
    name: str, op: str, index: Expr, dtypes: tuple[DType, ...] = (DType.F32,) * 3
) -> Kernel:
    """`out[i] = a[i] op b[index]` over one work-group of ROWS * COLUMNS lanes."""
    size = ROWS * COLUMNS
    a, b, out = (Buffer(n, d, size) for n, d in zip(("a", "b", "out"), dtypes, strict=True))
    out = Buffer("out", dtypes[2], size, access=Access.WRITE)
    left, right = (_wide(Load(a, LANE))), _wide(Load(b, index))
    value = call(op, left, right)
    stored = value if out.dtype is not DType.F16 else Cast(value, DType.F16)
    body: tuple[Stmt, ...] = (Store(out, LANE, stored),)
    return Kernel(name, (a, b, out), (), body, (1, 1, 1), (size, 1, 1))


def _wide(load: Load) -> Expr:
    return Cast(load, DType.F32) if load.buffer.dtype is DType.F16 else load


def transposed_index() -> Expr:
    """Where element (r, c) of a row-major index lies in column-major storage."""
    row = call("floordiv", LANE, i32(COLUMNS))
    column = call("mod", LANE, i32(COLUMNS))
    return call("add", call("mul", column, i32(ROWS)), row)


def affine(weight: DType = DType.F32) -> Program:
    kernels = (
        elementwise("scale", "mul", transposed_index(), (DType.F32, weight, DType.F32)),
        elementwise("shift", "add", LANE),
    )
    tensors = (
        tensor("x", TensorRole.INPUT),
        tensor("w", TensorRole.WEIGHT, dtype=weight, order=(1, 0), weight="layer.w", origin=HERE),
        tensor("c", TensorRole.CONSTANT),
        tensor("t", TensorRole.TEMPORARY, offset=64),
        tensor("out", TensorRole.OUTPUT),
    )
    return Program(
        name="affine",
        target="cpu",
        precision=DType.F32,
        tensors={t.name: t for t in tensors},
        inputs=("x",),
        outputs=("out",),
        kernels={k.name: k for k in kernels},
        dispatches=(
            Dispatch("scale", (("a", "x"), ("b", "w"), ("out", "t")), "affine.t"),
            Dispatch("shift", (("a", "t"), ("b", "c"), ("out", "out")), "affine.out"),
        ),
        memory=MemoryReport(60, 124, 60, 120),
        constants={"c": constant()},
        flop=2 * ROWS * COLUMNS,
    )


def constant() -> Array:
    made: Array = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS) / 4
    return made


def affine_arrays(seed: int = 0) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Inputs, weights and the expected output."""
    random = np.random.default_rng(seed)
    x, w = (random.standard_normal((ROWS, COLUMNS)).astype(np.float32) for _ in range(2))
    return {"x": x}, {"layer.w": w}, x * w + constant()


def counter() -> Program:
    tensors = (
        tensor("state", TensorRole.INPUT),
        tensor("step", TensorRole.INPUT),
        tensor("next", TensorRole.OUTPUT),
    )
    return Program(
        name="counter",
        target="cpu",
        precision=DType.F32,
        tensors={t.name: t for t in tensors},
        inputs=("state", "step"),
        outputs=("next",),
        kernels={"advance": elementwise("advance", "add", LANE)},
        dispatches=(Dispatch("advance", (("a", "state"), ("b", "step"), ("out", "next"))),),
        memory=MemoryReport(0, 0, 0, 0),
    )
