"""Kernel → text: what OpenCL C and WGSL have in common.

In: a kernel that `legalize` has fitted to a language and its capabilities. Out: `KernelText`.
Invariant: printing decides nothing; it spells each statement and expression of the kernel, in
order, with the fewest parentheses. A dialect (`opencl`, `wgsl`) is a small subclass: spelling of
types, functions, memory and headers.

Where the language has no f16 (`caps.f16_arithmetic`), halves exist in memory only: an expression of
type f16 is then printed as an f32 expression that a half can hold. A load widens, a store narrows.

    print_kernel(kernel, "opencl", caps).text

    // stdlib/softmax.sdl:3 softmax
    // grid 4 × 1 × 1, group 64 × 1 × 1
    __kernel __attribute__((reqd_work_group_size(64, 1, 1)))
    void softmax(__global const float *restrict x, __global float *restrict out) {
      …
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import ClassVar, assert_never

import numpy as np

from sdlc.backends.quotients import divided
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Assign,
    Barrier,
    Buffer,
    Call,
    Cast,
    Declare,
    Exchange,
    Expr,
    Extract,
    For,
    If,
    Kernel,
    Let,
    Literal,
    Load,
    MatrixMultiply,
    Stmt,
    Store,
    Type,
    Var,
    Vector,
    WorkId,
    statement_expressions,
    statements,
    walk,
)
from sdlc.language.diagnostics import failure
from sdlc.program.device import KernelText
from sdlc.target import Capabilities

SELECT, OR, AND, COMPARE, SHIFT, ADD, MULTIPLY, UNARY, ATOM = range(9)
"""How tightly a spelling binds. Mixed `&&` and `||` and chained comparisons get parentheses, which
WGSL demands and readers of C like."""

INFIX: Mapping[str, tuple[str, int]] = {
    "add": ("+", ADD),
    "sub": ("-", ADD),
    "mul": ("*", MULTIPLY),
    "div": ("/", MULTIPLY),
    "floordiv": ("/", MULTIPLY),
    "mod": ("%", MULTIPLY),
    "lt": ("<", COMPARE),
    "le": ("<=", COMPARE),
    "gt": (">", COMPARE),
    "ge": (">=", COMPARE),
    "eq": ("==", COMPARE),
    "ne": ("!=", COMPARE),
    "and": ("&&", AND),
    "or": ("||", OR),
}
MASK_INFIX = {"and": "&", "or": "|"}
PREFIX = {"neg": "-", "not": "!"}
CONVERSIONS = {"f32": DType.F32, "f16": DType.F16, "i32": DType.I32}
ASSOCIATIVE = ("add", "mul")

Spelling = tuple[str, int]


def print_kernel(kernel: Kernel, language: str, caps: Capabilities) -> KernelText:
    """The text of a legalised kernel in `opencl` or `wgsl`.

    Raises SdlError (D020) for a literal that the languages cannot write (an infinity or a NaN).
    """
    from sdlc.backends.opencl import OpenCLPrinter
    from sdlc.backends.wgsl import WgslPrinter

    printers = {"opencl": OpenCLPrinter, "wgsl": WgslPrinter}
    if language not in printers:
        raise failure(
            "D021", f"no printer for language `{language}`", f"use one of: {', '.join(printers)}"
        )
    printer: Printer = printers[language](kernel, caps)
    return KernelText(
        name=kernel.name,
        language=language,
        text=printer.kernel_text(),
        entry=printer.entry,
        parameters=tuple(b.name for b in kernel.buffers),
        grid=kernel.grid,
        group=kernel.group,
        statements=tuple(printer.statements),
    )


def float_literal(value: float) -> str:
    """The shortest decimal that reads back as the same f32 (hexadecimal for the largest, whose
    shortest decimal lies above the format's maximum)."""
    single = np.float32(value)
    if not isfinite(single):
        raise failure(
            "D020",
            f"{value} cannot be written in a kernel",
            "infinities and NaNs have no literal: use `lowest` or another finite value",
        )
    if abs(float(single)) >= 3e38:
        return _hexadecimal(float(single))
    text = str(single)
    return text if any(c in text for c in ".en") else text + ".0"


def _hexadecimal(value: float) -> str:
    sign, digits, exponent = re.fullmatch(r"(-?)0x1\.([0-9a-f]+)p([+-]\d+)", value.hex()).groups()  # type: ignore[union-attr]
    return f"{sign}0x1.{digits.rstrip('0') or '0'}p{exponent}"


def clean_name(name: str) -> str:
    """An ASCII identifier like `name`: primes and dots become underscores."""
    made = re.sub(r"[^A-Za-z0-9_]", "_", name.replace("'", "_")).lstrip("_")
    return made if made and not made[0].isdigit() else f"v{made}"


class Names:
    """Identifiers: each key gets one, no two keys the same, none reserved."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._taken = set(reserved)
        self._names: dict[tuple[str, str], str] = {}

    def of(self, kind: str, name: str) -> str:
        key = (kind, name)
        if key not in self._names:
            self._names[key] = self._fresh(clean_name(name))
        return self._names[key]

    def _fresh(self, name: str) -> str:
        made, count = name, 0
        while made in self._taken:
            count += 1
            made = f"{name.rstrip('_')}_" + (str(count) if count > 1 else "")
        self._taken.add(made)
        return made


class Printer(ABC):
    """Prints one kernel once; `entry` is the function's name in the text."""

    functions: ClassVar[Mapping[str, str]] = {}
    reserved: ClassVar[frozenset[str]] = frozenset()
    axes: ClassVar[str] = "xyz"

    def __init__(self, kernel: Kernel, caps: Capabilities) -> None:
        self.kernel, self.caps = kernel, caps
        names = Names(self.reserved)
        self.entry = names.of("entry", kernel.name)
        for buffer in (*kernel.buffers, *kernel.arrays):
            names.of("buffer", buffer.name)
        self.names = names
        self.lines: list[str] = []
        self.statements: list[int] = []
        self.current, self.count, self.depth = -1, 0, 0

    # What a dialect spells.

    @abstractmethod
    def type_name(self, type: Type) -> str:
        """A type of values in registers."""

    @abstractmethod
    def head(self) -> None:
        """Everything up to the first statement of the body."""

    @abstractmethod
    def work_id(self, work: WorkId) -> str:
        """The value that a work id's local is set to."""

    @abstractmethod
    def local(self, var: str, type: Type, value: str, mutable: bool) -> str:
        """A declaration of a local with its value."""

    @abstractmethod
    def loop(self, var: str, extent: int) -> str:
        """The head of a loop."""

    @abstractmethod
    def convert(self, value: Expr, to: DType) -> Spelling:
        """A conversion between types; to f16 where there is no such type: rounding."""

    @abstractmethod
    def half_literal(self, value: float) -> Spelling:
        """A number that a half holds."""

    @abstractmethod
    def vector(self, parts: list[str], type: Type) -> str:
        """A vector of these lanes; one part: a vector with that value in all lanes."""

    def lane(self, text: str, type: Type) -> Spelling:
        """What is taken out of a vector, as a value of its type."""
        return text, ATOM

    @abstractmethod
    def lanes(self, first: int, count: int) -> str:
        """The suffix that takes lanes of a vector."""

    @abstractmethod
    def choose(self, condition: Expr, then: Expr, otherwise: Expr) -> Spelling: ...

    @abstractmethod
    def load(self, load: Load) -> Spelling: ...

    @abstractmethod
    def store(self, buffer: Buffer, index: Expr, value: Expr) -> list[str]: ...

    @abstractmethod
    def barrier(self) -> str: ...

    def multiply(self, stmt: MatrixMultiply) -> str:
        """A matrix instruction. Raises KeyError in a language that has none."""
        raise KeyError(f"{type(self).__name__} has no spelling for {stmt.instruction.name}")

    def exchange(self, stmt: Exchange) -> str:
        """A value of another work-item. Raises KeyError in a language that has no means for it."""
        raise KeyError(f"{type(self).__name__} has no exchange in sub-groups of {stmt.lanes}")

    @abstractmethod
    def splats(self, expr: Call) -> bool:
        """Whether an infix operator demands operands of equal lanes."""

    # The text.

    def kernel_text(self) -> str:
        for comment in self._comments():
            self.line(f"// {comment}".rstrip())
        self.head()
        with self.indented():
            for work in self._work_ids():
                value = self.work_id(work)
                self.line(self.local(self.spell(work)[0], work.type, value, False))
            self.body(self.kernel.body)
        self.line("}")
        return "\n".join(self.lines) + "\n"

    def _comments(self) -> Iterator[str]:
        kernel = self.kernel
        yield from dict.fromkeys(
            f"{o.span.file}:{o.span.line} {o.definition}" if o.span else o.definition
            for o in kernel.origins
        )
        grid, group = (" × ".join(map(str, sizes)) for sizes in (kernel.grid, kernel.group))
        yield f"grid {grid}, group {group}"
        if kernel.nest:
            yield ""
            yield from (f"  {line}" for line in kernel.nest.rstrip().splitlines())

    def _work_ids(self) -> list[WorkId]:
        found = {
            e
            for s in statements(self.kernel.body)
            for e in walk(*statement_expressions(s))
            if isinstance(e, WorkId)
        }
        return sorted(found, key=lambda w: (w.kind, w.dim))

    def uses_half(self) -> bool:
        """Whether the text needs the type of halves, where the language has it."""
        buffers = (*self.kernel.buffers, *self.kernel.arrays)
        return any(b.dtype is DType.F16 for b in buffers) or any(
            e.type.dtype is DType.F16
            for s in statements(self.kernel.body)
            for e in walk(*statement_expressions(s))
        )

    def held(self, dtype: DType) -> DType:
        """The type that holds values of `dtype` in registers."""
        half = dtype is DType.F16 and not self.caps.f16_arithmetic
        return DType.F32 if half else dtype

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)
        self.statements.append(self.current)

    @contextmanager
    def indented(self) -> Iterator[None]:
        self.depth += 1
        yield
        self.depth -= 1

    def body(self, body: tuple[Stmt, ...]) -> None:
        for statement in body:
            outer, self.current = self.current, self.count
            self.count += 1
            self.statement(statement)
            self.current = outer

    def statement(self, stmt: Stmt) -> None:
        match stmt:
            case Let() | Declare():
                value = self.fitted(stmt.value, stmt.var.type.lanes)
                mutable = isinstance(stmt, Declare)
                self.line(self.local(self.name(stmt.var), stmt.var.type, value, mutable))
            case Assign():
                self.line(
                    f"{self.name(stmt.var)} = {self.fitted(stmt.value, stmt.var.type.lanes)};"
                )
            case Store():
                self._store(stmt)
            case For():
                label = stmt.axis if stmt.axis != stmt.var.name else ""
                note = f"  // {label}" if label else ""
                self._block(self._loop(stmt) + " {" + note, stmt.body)
            case If():
                self._block(f"if ({self.text(stmt.condition)}) {{", stmt.body)
            case Barrier():
                self.line(self.barrier())
            case MatrixMultiply():
                self.line(self.multiply(stmt))
            case Exchange():
                self.line(self.local(self.name(stmt.var), stmt.var.type, "0.0f", True))
                self.line(self.exchange(stmt))
            case _:
                assert_never(stmt)

    def _block(self, head: str, body: tuple[Stmt, ...]) -> None:
        self.line(head)
        with self.indented():
            self.body(body)
        self.line("}")

    def _loop(self, stmt: For) -> str:
        if stmt.until is None:
            return self.loop(self.name(stmt.var), stmt.extent)
        place, end = map(self.name, stmt.until)
        return f"while ({place} < {end})"

    def _store(self, stmt: Store) -> None:
        lines = self.store(stmt.buffer, stmt.index, stmt.value)
        if stmt.guard is None:
            for line in lines:
                self.line(line)
        elif len(lines) == 1:
            self.line(f"if ({self.text(stmt.guard)}) {{ {lines[0]} }}")
        else:
            self.line(f"if ({self.text(stmt.guard)}) {{")
            with self.indented():
                for line in lines:
                    self.line(line)
            self.line("}")

    # Expressions.

    def text(self, expr: Expr, level: int = SELECT) -> str:
        """`expr`, in parentheses if it binds less tightly than `level`."""
        made, own = self.spell(expr)
        return made if own >= level else f"({made})"

    def spell(self, expr: Expr) -> Spelling:
        match expr:
            case Literal():
                return self.literal(expr)
            case Var():
                return self.name(expr), ATOM
            case WorkId():
                return self.names.of("work", f"{expr.kind}_{self.axes[expr.dim]}"), ATOM
            case Call():
                return self.call(expr)
            case Cast():
                return self.cast(expr.value, expr.dtype)
            case Load():
                return self.load(expr)
            case Vector():
                parts = expr.parts[:1] if len(set(expr.parts)) == 1 else expr.parts
                return self.vector([self.text(p) for p in parts], expr.type), ATOM
            case Extract():
                suffix = self.lanes(expr.first, expr.count)
                return self.lane(self.text(expr.value, ATOM) + suffix, expr.type)
            case _:
                assert_never(expr)

    def name(self, var: Var) -> str:
        return self.names.of("var", var.name)

    def literal(self, expr: Literal) -> Spelling:
        if expr.type.lanes > 1:
            scalar = Literal(expr.value, Type(expr.type.dtype))
            return self.vector([self.text(scalar)], expr.type), ATOM
        match expr.type.dtype:
            case DType.BOOL:
                return ("true" if expr.value else "false"), ATOM
            case DType.I32:
                return str(int(expr.value)), ATOM if expr.value >= 0 else UNARY
            case DType.F16:
                return self.half_literal(float(np.float16(expr.value)))
            case _:
                text = float_literal(expr.value) + "f"
                return text, UNARY if text.startswith("-") else ATOM

    def call(self, expr: Call) -> Spelling:
        op, args = expr.op, expr.args
        if op in CONVERSIONS:
            return self.cast(args[0], CONVERSIONS[op])
        if op == "select":
            return self.choose(*args)
        if op == "fma" and expr.type.dtype is DType.I32:
            return self.call(Call("add", (Call("mul", args[:2]), args[2])))
        if op in INFIX:
            return self.infix(expr)
        if op in PREFIX:
            operand = self.text(args[0], UNARY)
            # `--x` would be a decrement.
            return PREFIX[op] + (f"({operand})" if operand.startswith("-") else operand), UNARY
        lanes = expr.type.lanes
        return f"{self.function(expr)}({', '.join(self.fitted(a, lanes) for a in args)})", ATOM

    def function(self, expr: Call) -> str:
        if expr.op not in self.functions:
            raise KeyError(f"{type(self).__name__} has no spelling for '{expr.op}'")
        return self.functions[expr.op]

    def infix(self, expr: Call) -> Spelling:
        symbol, level = INFIX[expr.op]
        lanes = expr.type.lanes
        if lanes > 1:
            symbol = MASK_INFIX.get(expr.op, symbol)
        left, right = expr.args
        integers = expr.type.dtype is DType.I32
        chained = level in (AND, OR, ADD, MULTIPLY)
        inner = (level if chained else ADD, level if integers and self._same(expr) else level + 1)
        if level in (AND, OR):
            # WGSL wants parentheses around whatever stands beside `&` and `|`.
            beside = COMPARE if lanes == 1 else UNARY
            inner = (level if self._is(left, expr.op) else beside, beside)
        fit = self.splats(expr)
        parts = [
            self.fitted(a, lanes, wanted) if fit else self.text(a, wanted)
            for a, wanted in zip((left, right), inner, strict=True)
        ]
        return f"{parts[0]} {symbol} {parts[1]}", level

    def _same(self, expr: Call) -> bool:
        """Whether `a op (b op c)` may drop its parentheses: integers wrap alike either way."""
        return expr.op in ASSOCIATIVE and self._is(expr.args[1], expr.op)

    @staticmethod
    def _is(expr: Expr, op: str) -> bool:
        return isinstance(expr, Call) and expr.op == op

    def cast(self, value: Expr, to: DType) -> Spelling:
        held = value.type.dtype
        widens = held is DType.F16 and to is DType.F32
        if held is to or (widens and not self.caps.f16_arithmetic):
            return self.spell(value)
        return self.convert(value, to)

    def fitted(self, expr: Expr, lanes: int, level: int = SELECT) -> str:
        """`expr`, spread over `lanes` lanes if it is a scalar."""
        if expr.type.lanes == lanes or lanes == 1:
            return self.text(expr, level)
        return self.vector([self.text(expr)], Type(expr.type.dtype, lanes))

    # Memory.

    def buffer(self, buffer: Buffer) -> str:
        return self.names.of("buffer", buffer.name)

    def offset(self, index: Expr, add: int = 0) -> str:
        """`index + add`."""
        match index:
            case Literal():
                return str(int(index.value) + add)
            case Call(op="add", args=(base, Literal() as more)):
                total = int(more.value) + add
                return f"{self.text(base, ADD)} + {total}" if total else self.text(base)
        return f"{self.text(index, ADD)} + {add}" if add else self.text(index)

    def quotient(self, index: Expr, by: int) -> str:
        """`index / by`, where legalisation has proven that there is no remainder."""
        return self.text(index if by == 1 else divided(index, by))
