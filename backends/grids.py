"""Launch shapes that fit: grids, work-groups and the limits that nothing can be rewritten around.

In: a kernel and capabilities. Out: the kernel with a grid and a work-group within them. Invariant:
every (group, lane) of the old launch runs exactly once in the new one.

    grid 100000 × 1 × 1, limit 65535  →  grid 50000 × 2 × 1, old group x = group x + 50000 * group y
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod

from sdlc.kernel.ir import (
    Barrier,
    Expr,
    If,
    Kernel,
    Let,
    Space,
    Stmt,
    Type,
    Var,
    WorkId,
    call,
    i32,
    statements,
)
from sdlc.kernel.rewrite import Fresh, map_expressions
from sdlc.language.diagnostics import SdlError, failure, half_precision
from sdlc.target import Capabilities

Triple = tuple[int, int, int]


def fold_grid(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """A grid dimension above `caps.max_groups` → two dimensions, exact where a divisor fits, else
    with a guard around the body: `group x` → `group x + m * group y`."""
    for dim in range(3):
        if kernel.grid[dim] > caps.max_groups:
            kernel = _fold(kernel, dim, caps.max_groups)
    return kernel


def _fold(kernel: Kernel, dim: int, limit: int) -> Kernel:
    count = kernel.grid[dim]
    pieces = _pieces(count, limit)
    other = next((d for d in (1, 2, 0) if d != dim and kernel.grid[d] * pieces <= limit), None)
    if other is None:
        raise _too_large(
            kernel, f"a grid of {_times(kernel.grid)} work-groups", f"{limit} a dimension"
        )
    size = ceil(count / pieces)
    inner, outer = WorkId("group", dim), WorkId("group", other)
    fresh = Fresh(kernel)
    old_inner, old_outer = (
        Var(fresh.name(f"group_{'xyz'[d]}_old"), inner.type) for d in (dim, other)
    )
    piece: Expr = call("floordiv", outer, i32(kernel.grid[other]))
    rest: Expr = call("mod", outer, i32(kernel.grid[other]))
    if kernel.grid[other] == 1:
        piece, rest = outer, i32(0)
    whole = call("add", inner, call("mul", piece, i32(size)))
    made = _substitute(kernel, {inner: old_inner, outer: old_outer})
    head: tuple[Stmt, ...] = (Let(old_inner, whole), Let(old_outer, rest))
    body = made.body
    if size * pieces != count:
        body = (If(call("lt", old_inner, i32(count)), body),)
    grid = tuple(
        {dim: size, other: kernel.grid[other] * pieces}.get(d, kernel.grid[d]) for d in range(3)
    )
    return replace(made, body=(*head, *body), grid=(grid[0], grid[1], grid[2]))


def _pieces(count: int, limit: int) -> int:
    """The fewest equal pieces that fit, or the fewest at all where no small divisor does."""
    fewest = ceil(count / limit)
    exact = (n for n in range(fewest, min(4 * fewest, limit) + 1) if count % n == 0)
    return next(exact, fewest)


def _substitute(kernel: Kernel, values: dict[Expr, Expr]) -> Kernel:
    return map_expressions(kernel, lambda e: values.get(e, e), lambda e: e in values)


def split_groups(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """A work-group larger than `caps.max_work_items` or `caps.max_group`, whose work-items do not
    work together → several work-groups: `lane x` → `lane x + n * (group x mod k)`."""
    together = any(isinstance(s, Barrier) for s in statements(kernel.body)) or any(
        a.space is Space.LOCAL for a in kernel.arrays
    )
    while not together and (dim := _overfull(kernel, caps)) is not None:
        kernel = _split(kernel, dim)
    return kernel


def _overfull(kernel: Kernel, caps: Capabilities) -> int | None:
    """A dimension of the work-group to cut, or None."""
    for dim in range(3):
        if kernel.group[dim] > caps.max_group[dim]:
            return dim
    if kernel.work_items > caps.max_work_items:
        return max(range(3), key=lambda d: kernel.group[d])
    return None


def _split(kernel: Kernel, dim: int) -> Kernel:
    size = kernel.group[dim]
    ways = next(n for n in range(2, size + 1) if size % n == 0)
    part = size // ways
    group, lane = WorkId("group", dim), WorkId("lane", dim)
    fresh = Fresh(kernel)
    names = [fresh.name(f"{kind}_{'xyz'[dim]}_old") for kind in ("group", "lane")]
    old_group, old_lane = (Var(n, Type(group.type.dtype)) for n in names)
    head = (
        Let(old_group, call("floordiv", group, i32(ways))),
        Let(old_lane, call("add", lane, call("mul", call("mod", group, i32(ways)), i32(part)))),
    )
    made = _substitute(kernel, {group: old_group, lane: old_lane})
    grid, sizes = list(kernel.grid), list(kernel.group)
    grid[dim], sizes[dim] = grid[dim] * ways, part
    return replace(
        made,
        body=(*head, *made.body),
        grid=(grid[0], grid[1], grid[2]),
        group=(sizes[0], sizes[1], sizes[2]),
    )


@dataclass(frozen=True, slots=True)
class Limit:
    """What a kernel needs against what there is."""

    what: str
    need: int
    limit: int
    help: str


def check_limits(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """The kernel unchanged. Raises SdlError (D023) naming kernel, need and limit."""
    for limit in _limits(kernel, caps):
        if limit.need > limit.limit:
            raise _too_large(kernel, f"{limit.need} {limit.what}", str(limit.limit), limit.help)
    for dim in range(3):
        if kernel.group[dim] > caps.max_group[dim]:
            raise _too_large(
                kernel, f"a work-group of {_times(kernel.group)}", _times(caps.max_group)
            )
    return kernel


def _limits(kernel: Kernel, caps: Capabilities) -> tuple[Limit, ...]:
    largest = max(kernel.buffers, key=lambda b: b.size * b.dtype.itemsize)
    return (
        Limit("work-items in a work-group", kernel.work_items, caps.max_work_items, ""),
        Limit("bytes of local memory", kernel.local_bytes, caps.local_bytes, ""),
        Limit("buffers", len(kernel.buffers), caps.max_storage_buffers, ""),
        Limit(
            f"bytes in the buffer {largest.name}",
            largest.size * largest.dtype.itemsize,
            caps.max_binding,
            f"use a smaller size or batch, {half_precision(largest.dtype)}or another device",
        ),
    )


def _too_large(kernel: Kernel, need: str, limit: str, help: str = "") -> SdlError:
    origin = kernel.origins[0] if kernel.origins else None
    notes = (("from", f"{origin.definition}   {origin.span}"),) if origin else ()
    return failure(
        "D023",
        f"kernel {kernel.name} needs {need}; the limit is {limit}",
        help or "compile for a target whose limits this device meets (--target)",
        notes,
    )


def _times(sizes: Triple) -> str:
    return " × ".join(map(str, sizes)) + f" = {prod(sizes)}"
