"""Vectors as a language has them: their widths and their memory.

In: a kernel. Out: the kernel with vectors of the widths in `caps`. Invariant: lane i of every value
and element i of every buffer stay what they were.

    acc: f32x8;  acc = fma(x[i .. i+7], w, acc)
    →  acc_0, acc_1: f32x4
       acc_0 = fma(x[i .. i+3], w, acc_0);  acc_1 = fma(x[i+4 .. i+7], w, acc_1)
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

from sdlc.backends.rewrite import Here, Multiples, accesses, expand, plus
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Access,
    Assign,
    Buffer,
    Call,
    Cast,
    Declare,
    Expr,
    Extract,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    Space,
    Stmt,
    Store,
    Type,
    Var,
    Vector,
    WorkId,
    operands,
    walk,
    with_operands,
)
from sdlc.kernel.rewrite import (
    Fresh,
    definitions,
    expressions,
    map_expressions,
    map_statements,
    with_buffers,
)
from sdlc.target import Capabilities

ADDRESS_BITS = 64
"""Bits of an address in OpenCL C."""


def split_vectors(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Values with more lanes than the widest vector → several values: `Let v: f32x16` → four `Let`
    of f32x4, a `Store` of 16 lanes → four stores."""
    width = max(caps.vector_widths)
    wide = any(e.type.lanes > width for e in expressions(kernel))
    if not wide:
        return kernel
    split = _Split(width, Fresh(kernel))
    return replace(kernel, body=map_statements(kernel.body, split.statement))


@dataclass(slots=True)
class _Split:
    width: int
    fresh: Fresh
    variables: dict[Expr, tuple[Expr, ...]] = field(default_factory=dict)
    narrowed: dict[Expr, Expr] = field(default_factory=dict)
    wide: dict[Expr, tuple[Expr, ...]] = field(default_factory=dict)

    def statement(self, stmt: Stmt) -> tuple[Stmt, ...]:
        match stmt:
            case Let() | Declare() | Assign() if stmt.var.type.lanes > self.width:
                return self._locals(stmt)
            case Let() | Declare() | Assign():
                return (replace(stmt, value=self.narrow(stmt.value)),)
            case Store():
                index = self.narrow(stmt.index)
                guard = None if stmt.guard is None else self.narrow(stmt.guard)
                return tuple(
                    Store(stmt.buffer, plus(index, n * self.width), part, guard)
                    for n, part in enumerate(self.parts(stmt.value))
                )
            case If():
                return (replace(stmt, condition=self.narrow(stmt.condition)),)
            case _:
                return (stmt,)

    def _locals(self, stmt: Let | Declare | Assign) -> tuple[Stmt, ...]:
        targets = [v for v in self.parts(stmt.var) if isinstance(v, Var)]
        value = stmt.value
        parts = self.parts(value) if value.type.lanes > 1 else (self.narrow(value),) * len(targets)
        if not isinstance(stmt, Assign) or not self._crosses(targets, parts):
            return tuple(replace(stmt, var=v, value=p) for v, p in zip(targets, parts, strict=True))
        # A part reads another part of the old value: all are computed before any is assigned.
        held = [Var(self.fresh.name(v.name), v.type) for v in targets]
        lets = [Let(v, p) for v, p in zip(held, parts, strict=True)]
        return (*lets, *(Assign(v, h) for v, h in zip(targets, held, strict=True)))

    @staticmethod
    def _crosses(targets: list[Var], parts: tuple[Expr, ...]) -> bool:
        return any(
            e in targets and e is not target
            for target, part in zip(targets, parts, strict=True)
            for e in walk(part)
        )

    def parts(self, e: Expr) -> tuple[Expr, ...]:
        """`e` in pieces of `width` lanes."""
        if e.type.lanes <= self.width:
            return (self.narrow(e),)
        if e not in self.wide:
            self.wide[e] = self._parts(e)
        return self.wide[e]

    def _parts(self, e: Expr) -> tuple[Expr, ...]:
        width, count = self.width, e.type.lanes // self.width
        match e:
            case Var():
                type = Type(e.type.dtype, width)
                return tuple(Var(self.fresh.name(f"{e.name}_{n}"), type) for n in range(count))
            case Literal():
                return (Literal(e.value, Type(e.type.dtype, width)),) * count
            case Load():
                index = self.narrow(e.index)
                return tuple(Load(e.buffer, plus(index, n * width), width) for n in range(count))
            case Vector():
                lanes = [self.narrow(p) for p in e.parts]
                return tuple(_vector(lanes[n * width : (n + 1) * width]) for n in range(count))
            case Extract():
                return tuple(self._take(e.value, e.first + n * width, width) for n in range(count))
            case _:
                spread = [
                    self.parts(o) if o.type.lanes > 1 else (self.narrow(o),) * count
                    for o in operands(e)
                ]
                return tuple(with_operands(e, made) for made in zip(*spread, strict=True))

    def narrow(self, e: Expr) -> Expr:
        """An expression of at most `width` lanes, free of wider ones."""
        if e not in self.narrowed:
            if isinstance(e, Extract) and e.value.type.lanes > self.width:
                made = self._take(e.value, e.first, e.count)
            else:
                made = with_operands(e, tuple(self.narrow(o) for o in operands(e)))
            self.narrowed[e] = made
        return self.narrowed[e]

    def _take(self, value: Expr, first: int, count: int) -> Expr:
        """Lanes of a wide value, `count` of at most `width`."""
        parts, width = self.parts(value), self.width
        part, lane = parts[first // width], first % width
        if lane + count <= width:
            return part if count == width else Extract(part, lane, count)
        return _vector([self._take(value, first + n, 1) for n in range(count)])


def _vector(lanes: list[Expr]) -> Expr:
    return lanes[0] if len(lanes) == 1 else Vector(tuple(lanes))


def vector_buffers(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """A buffer whose every access starts at a multiple of its lanes → `Buffer.lanes`, the most of
    them: the text declares an array of vectors, so that an access is one and aligned. Where a
    language cannot read a part of a vector, stores are first cut to the lanes of loads."""
    parts = language == "opencl"
    kernel = kernel if parts else _cut_stores(kernel)
    multiples = Multiples(definitions(kernel))
    found: dict[str, set[int]] = defaultdict(set)
    for buffer, index, lanes in accesses(kernel):
        found[buffer.name].add(lanes if multiples.divisible(index, lanes) else 0)
    made = {
        b.name: replace(b, lanes=lanes)
        for b in (*kernel.buffers, *kernel.arrays)
        if (lanes := _common(b, found[b.name], parts)) in caps.vector_widths
        and lanes > 1
        and b.size % lanes == 0
        and (b.dtype is not DType.F16 or caps.f16_arithmetic or caps.packed_halves)
    }
    return with_buffers(kernel, made) if made else kernel


def vector_views(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """Vectors that are read at a multiple of their lanes from a buffer of scalars → read from the
    same buffer as an array of vectors, where the text gives each access its type."""
    if language != "opencl" or caps.integer_bits >= ADDRESS_BITS:
        return kernel
    multiples = Multiples(definitions(kernel))

    def change(e: Expr) -> Expr:
        if not isinstance(e, Load) or e.lanes == 1 or e.buffer.lanes > 1:
            return e
        buffer = e.buffer
        fits = buffer.space is Space.GLOBAL and buffer.access is Access.READ
        halves = buffer.dtype is not DType.F16 or caps.f16_arithmetic
        if not fits or not halves or not multiples.divisible(e.index, e.lanes):
            return e
        return Load(replace(buffer, lanes=e.lanes), e.index, e.lanes)

    return map_expressions(kernel, change, lambda e: isinstance(e, Load) and e.lanes > 1)


def _common(buffer: Buffer, found: set[int], parts: bool) -> int:
    """The most lanes of an access, if an array of so many serves every access: in memory, single
    elements are no parts, since compilers see best through what has one type there."""
    several = len(found) > 1 and (not parts or (1 in found and buffer.space is not Space.LOCAL))
    return 0 if several or 0 in found else max(found, default=0)


def _cut_stores(kernel: Kernel) -> Kernel:
    """Stores to arrays with more lanes than all loads of the array have → several of so many."""
    loaded: dict[str, set[int]] = defaultdict(set)
    for e in expressions(kernel):
        if isinstance(e, Load):
            loaded[e.buffer.name].add(e.lanes)
    widths = {a.name: next(iter(w)) for a in kernel.arrays if len(w := loaded[a.name]) == 1}
    fresh = Fresh(kernel)

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        width = widths.get(stmt.buffer.name, 1) if isinstance(stmt, Store) else 1
        if not isinstance(stmt, Store) or not 1 < width < stmt.value.type.lanes:
            return (stmt,)
        here = Here(fresh, {})
        value = here.bind(stmt.value, "slice")
        numbers = range(0, value.type.lanes, width)
        cut = (
            replace(stmt, index=plus(stmt.index, n), value=Extract(value, n, width))
            for n in numbers
        )
        return (*here.before, *cut)

    return replace(kernel, body=map_statements(kernel.body, visit))


def bind_indices(kernel: Kernel, caps: Capabilities, language: str) -> Kernel:
    """A vector access that WGSL writes as one per lane → its index, and a stored value, in a local
    first: `x[f(i) .. f(i)+3]` → `let at = f(i); x[at .. at+3]`."""
    if language != "wgsl":
        return kernel

    def change(e: Expr, here: Here) -> Expr:
        if isinstance(e, Load) and e.lanes > e.buffer.lanes:
            return Load(e.buffer, _bound(e.index, here), e.lanes)
        return e

    return _bind_stores(expand(kernel, change, lambda e: isinstance(e, Load) and e.lanes > 1))


def _bound(index: Expr, here: Here) -> Expr:
    match index:
        case Call(op="add", args=(Var() | WorkId(), Literal())):
            return index
        case Call(op="add", args=(base, Literal() as more)):
            return Call("add", (here.bind(base, "at"), more))
    return here.bind(index, "at")


def _bind_stores(kernel: Kernel) -> Kernel:
    fresh = Fresh(kernel)

    def visit(stmt: Stmt) -> tuple[Stmt, ...]:
        if not isinstance(stmt, Store) or stmt.value.type.lanes <= stmt.buffer.lanes:
            return (stmt,)
        here = Here(fresh, {})
        value = stmt.value
        if isinstance(value, Cast) and value.dtype is DType.F16:
            value = Cast(here.bind(value.value, "value"), DType.F16)
        else:
            value = here.bind(value, "value")
        made = replace(stmt, index=_bound(stmt.index, here), value=value)
        return (*here.before, made)

    return replace(kernel, body=map_statements(kernel.body, visit))
