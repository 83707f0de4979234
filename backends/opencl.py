"""The OpenCL C 1.2 dialect.

In: a legalised kernel. Out: one `__kernel` function. Halves are read and written by `vload_half*`
and `vstore_half*`, which need no extension, or are values of `half` where that exists as a type. A
vector of bools is an int mask (0 or -1). Floating-point contraction is off: `fma` stands where the
kernel says so. Packed halves are values of `ushort`, which `widened` and `narrowed` convert; eight
of them are a `uint4`, which moves at once where a compiler cuts a `ushort8` in two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar

from sdlc.backends.printer import (
    ADD,
    ATOM,
    COMPARE,
    SELECT,
    UNARY,
    Printer,
    Spelling,
    float_literal,
)
from sdlc.backends.quotients import constant_apart, divided
from sdlc.graph.types import DType
from sdlc.kernel.ir import (
    Access,
    Buffer,
    Call,
    Cast,
    Exchange,
    Expr,
    Extract,
    Literal,
    Load,
    MatrixMultiply,
    Space,
    Type,
    WorkId,
    statement_expressions,
    statements,
    walk,
)

VALUES = MappingProxyType(
    {DType.F32: "float", DType.F16: "half", DType.I32: "int", DType.BOOL: "bool"}
)
STORED = MappingProxyType(
    {DType.F32: "float", DType.F16: "half", DType.I32: "int", DType.BOOL: "int"}
)
SPACES = MappingProxyType(
    {Space.GLOBAL: "__global", Space.LOCAL: "__local", Space.PRIVATE: "__private"}
)

ASSEMBLY = MappingProxyType(
    {
        "mma_m16n8k16_f16": "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        "mma_m16n8k8_f16": "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",
    },
)
"""Matrix instructions by the name that targets' tables give them (PTX ISA, 9.7.14: `mma`)."""

EXCHANGES = MappingProxyType({32: "shfl.sync.bfly.b32 %0, %1, {}, 31, 0xffffffff;"})
"""Exchanges of values by the size of the sub-group (PTX ISA, 9.7.9: `shfl.sync`)."""

ADDRESS_BITS = 64
OFFSETS = (
    "#define AT(type, base, offset) "
    "((__global type *)((__global const char *)(base) + (uint)(offset) * (uint)sizeof(type)))"
)
"""An offset in 32 bits is added to an address once; constants are added to what that gives."""

PACKED_SCALAR = """#ifndef PACKED_HALVES
#define PACKED_HALVES
float widened(ushort x) { return vload_half(0, (const half *)&x); }
ushort narrowed(float x) { ushort y; vstore_half(x, 0, (half *)&y); return y; }
#endif"""
PACKED = """#ifndef PACKED_HALVES{n}
#define PACKED_HALVES{n}
float{n} widened{n}({held} x) {{ return {wide}; }}
{held} narrowed{n}(float{n} x) {{ return {narrow}; }}
#endif"""
"""Halves as integers, for compilers without the type `half` that load vectors of halves one by
one."""
WIDE = MappingProxyType({8: "uint4"})
"""What so many packed halves are moved as, other than a vector of `ushort`."""

RESERVED = """
AT PACKED_HALVES PACKED_HALVES2 PACKED_HALVES4 PACKED_HALVES8 PACKED_HALVES16 widened widened2
widened4 widened8 widened16 narrowed narrowed2 narrowed4 narrowed8 narrowed16
auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void
volatile while bool half uchar ushort uint ulong size_t ptrdiff_t intptr_t uintptr_t true false
kernel global local constant private generic read_only write_only read_write uniform pipe complex
imaginary quad image1d_t image2d_t image3d_t sampler_t event_t queue_t ndrange_t barrier convert
NULL NAN INFINITY HUGE_VALF MAXFLOAT M_E M_PI M_LN2 linux unix asm typeof main dot cross distance
length normalize mix step sign clamp degrees radians smoothstep any all select bitselect isnan isinf
printf prefetch shuffle vec_step get_global_id get_local_id get_group_id mad hypot tgamma lgamma
acos asin sinh cosh cbrt ldexp frexp modf nan remainder fract trunc half_exp native_exp j0 j1 y0 y1
catch class delete new operator template this throw try typename virtual using namespace
"""


class OpenCLPrinter(Printer):
    functions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            **{name: name for name in ("min", "max", "pow", "exp", "exp2", "log", "log2", "sqrt")},
            **{name: name for name in ("rsqrt", "sin", "cos", "tan", "atan", "tanh", "erf")},
            **{name: name for name in ("floor", "ceil", "fma")},
            "abs": "fabs",
            "round": "rint",
        }
    )
    reserved = frozenset((*RESERVED.split(), *functions.values(), "abs"))

    def type_name(self, type: Type) -> str:
        if type.lanes > 1 and type.dtype is DType.BOOL:
            return f"int{type.lanes}"
        if self.packed and type.dtype is DType.F16:
            return _packed(type.lanes)
        name = VALUES[self.held(type.dtype)]
        return name + (str(type.lanes) if type.lanes > 1 else "")

    @property
    def packed(self) -> bool:
        """Whether halves are 16-bit integers."""
        return self.caps.packed_halves

    def call(self, expr: Call) -> Spelling:
        if expr.op == "abs" and expr.type.dtype is DType.I32:
            # The built-in returns an unsigned integer.
            operand = self.text(expr.args[0])
            return f"as_{self.type_name(expr.type)}(abs({operand}))", ATOM
        if expr.type.dtype is DType.BOOL and expr.type.lanes > 1 and self._halves(expr.args):
            # Comparing vectors of halves gives shorts.
            return f"convert_int{expr.type.lanes}({super().call(expr)[0]})", ATOM
        return super().call(expr)

    def function(self, expr: Call) -> str:
        native = expr.op in self.caps.native_functions and expr.type.dtype is DType.F32
        return ("native_" if native else "") + super().function(expr)

    def _halves(self, values: Iterable[Expr]) -> bool:
        half = self.caps.f16_arithmetic and not self.packed
        return half and any(v.type.dtype is DType.F16 for v in values)

    def splats(self, expr: Call) -> bool:
        return any(a.type.dtype is DType.BOOL for a in expr.args)

    # Head.

    def head(self) -> None:
        kernel = self.kernel
        if self.caps.f16_arithmetic and not self.packed and self.uses_half():
            self.line("#pragma OPENCL EXTENSION cl_khr_fp16 : enable")
        self.line("#pragma OPENCL FP_CONTRACT OFF")
        if self.packed and self.uses_half():
            self._conversions()
        if self._splits_offsets():
            self.line(OFFSETS)
        group = ", ".join(map(str, kernel.group))
        self.line(f"__kernel __attribute__((reqd_work_group_size({group})))")
        parameters = ", ".join(self._parameter(b) for b in kernel.buffers)
        self.line(f"void {self.entry}({parameters}) {{")
        for array in kernel.arrays:
            self.line("  " + self._array(array))

    def _conversions(self) -> None:
        """Functions for the widths that the kernel has; several kernels may be one source."""
        every = [e for s in statements(self.kernel.body) for e in walk(*statement_expressions(s))]
        widths = {e.type.lanes for e in every if isinstance(e, Cast) and e.type.lanes > 1}
        for line in PACKED_SCALAR.splitlines():
            self.line(line)
        for n in sorted(widths):
            given = _lanes_of("x", n)
            wide = ", ".join(f"widened({given}.s{lane:x})" for lane in range(n))
            narrow = [f"narrowed(x.s{lane:x})" for lane in range(n)]
            halves = self.vector(narrow, Type(DType.F16, n))
            made = PACKED.format(n=n, held=_packed(n), wide=f"(float{n})({wide})", narrow=halves)
            for line in made.splitlines():
                self.line(line)

    def _element(self, buffer: Buffer, lanes: int = 0) -> str:
        """The type of so many elements (0: as many as the buffer's vectors have)."""
        lanes = lanes or buffer.lanes
        if self.packed and buffer.dtype is DType.F16:
            return _packed(lanes)
        return STORED[buffer.dtype] + (str(lanes) if lanes > 1 else "")

    def _parameter(self, buffer: Buffer) -> str:
        const = "const " if buffer.access is Access.READ else ""
        alone = "" if buffer.overlaps else "restrict "
        return f"__global {const}{self._element(buffer)} *{alone}{self.buffer(buffer)}"

    def _array(self, array: Buffer) -> str:
        space = "__local " if array.space is Space.LOCAL else ""
        element = "ushort" if self._raw(array) else self._element(array)
        return f"{space}{element} {self.buffer(array)}[{array.size // array.lanes}];"

    def _raw(self, array: Buffer) -> bool:
        """Whether an array of halves must be declared as one of ushort."""
        return array.dtype is DType.F16 and not self.caps.f16_arithmetic and not self.packed

    def work_id(self, work: WorkId) -> str:
        return f"(int)get_{'group' if work.kind == 'group' else 'local'}_id({work.dim})"

    # Statements.

    def local(self, var: str, type: Type, value: str, mutable: bool) -> str:
        return f"{'' if mutable else 'const '}{self.type_name(type)} {var} = {value};"

    def loop(self, var: str, extent: int) -> str:
        return f"for (int {var} = 0; {var} < {extent}; ++{var})"

    def barrier(self) -> str:
        return "barrier(CLK_LOCAL_MEM_FENCE);"

    def multiply(self, stmt: MatrixMultiply) -> str:
        """Inline assembly: the result's registers are read and written, factors are in registers of
        32 bits."""
        instruction = ASSEMBLY[stmt.instruction.name]
        sides = (stmt.into, self._registers(stmt.left), self._registers(stmt.right))
        numbers = iter(range(sum(map(len, sides))))
        result, *factors = ("{" + ", ".join(f"%{next(numbers)}" for _ in s) + "}" for s in sides)
        text = f"{instruction} {result}, {', '.join(factors)}, {result};"
        into = ", ".join(f'"+f"({self.name(v)})' for v in stmt.into)
        given = ", ".join(f'"r"({r})' for r in (*sides[1], *sides[2]))
        return f'asm volatile("{text}" : {into} : {given});'

    def exchange(self, stmt: Exchange) -> str:
        instruction = EXCHANGES[stmt.lanes].format(stmt.distance)
        found, given = self.name(stmt.var), self.text(stmt.value)
        return f'asm volatile("{instruction}" : "=f"({found}) : "f"({given}));'

    def _registers(self, values: tuple[Expr, ...]) -> tuple[str, ...]:
        """Halves, two of them a register."""
        made: list[str] = []
        scalars: list[str] = []
        for value in values:
            lanes = value.type.lanes
            if lanes == 1:
                scalars.append(self.text(value))
                if len(scalars) == 2:
                    pair = self.vector(scalars, Type(DType.F16, 2))
                    made.append(f"as_uint({pair})")
                    scalars = []
            elif lanes == 2:
                made.append(f"as_uint({self.text(value)})")
            else:
                text = _lanes_of(self.text(value, ATOM), lanes)
                made += [f"as_uint({text}{self.lanes(n, 2)})" for n in range(0, lanes, 2)]
        return tuple(made)

    # Expressions.

    def literal(self, expr: Literal) -> Spelling:
        if expr.type == Type(DType.I32) and expr.value == -(2**31):
            return "(-2147483647 - 1)", ATOM
        return super().literal(expr)

    def half_literal(self, value: float) -> Spelling:
        text = float_literal(value) + "f"
        if self.caps.f16_arithmetic:
            return f"(half){text}", UNARY
        return text, UNARY if text.startswith("-") else ATOM

    def vector(self, parts: list[str], type: Type) -> str:
        if type.dtype is DType.BOOL:
            parts = [{"true": "-1", "false": "0"}.get(p, f"-(int)({p})") for p in parts]
        if self._is_wide(type):
            return f"as_{WIDE[type.lanes]}((ushort{type.lanes})({', '.join(parts)}))"
        return f"({self.type_name(type)})({', '.join(parts)})"

    def _is_wide(self, type: Type) -> bool:
        """Whether values of this type are packed halves that are no vector of `ushort`."""
        return self.packed and type.dtype is DType.F16 and type.lanes in WIDE

    def spell(self, expr: Expr) -> Spelling:
        if isinstance(expr, Extract) and self._is_wide(expr.value.type):
            value = _lanes_of(self.text(expr.value, ATOM), expr.value.type.lanes)
            return value + self.lanes(expr.first, expr.count), ATOM
        return super().spell(expr)

    def lane(self, text: str, type: Type) -> Spelling:
        """One lane of a mask is 0 or -1, and a bool 0 or 1."""
        is_bool = type.dtype is DType.BOOL and type.lanes == 1
        return (f"{text} != 0", COMPARE) if is_bool else (text, ATOM)

    def lanes(self, first: int, count: int) -> str:
        return ".s" + "".join(f"{lane:x}" for lane in range(first, first + count))

    def choose(self, condition: Expr, then: Expr, otherwise: Expr) -> Spelling:
        lanes = max(condition.type.lanes, then.type.lanes, otherwise.type.lanes)
        if condition.type.lanes == 1:
            arms = [self.fitted(a, lanes, COMPARE) for a in (then, otherwise)]
            return f"{self.text(condition, COMPARE)} ? {arms[0]} : {arms[1]}", SELECT
        arms = [self.fitted(a, lanes) for a in (otherwise, then)]
        mask = self.text(condition)
        if self._halves((then,)):
            mask = f"convert_short{lanes}({mask})"
        return f"select({arms[0]}, {arms[1]}, {mask})", ATOM

    def cast(self, value: Expr, to: DType) -> Spelling:
        held = value.type.dtype
        if not self.packed or held is to or DType.F16 not in (held, to):
            return super().cast(value, to)
        width = str(value.type.lanes) if value.type.lanes > 1 else ""
        return f"{'narrowed' if to is DType.F16 else 'widened'}{width}({self.text(value)})", ATOM

    def convert(self, value: Expr, to: DType) -> Spelling:
        lanes, mask = value.type.lanes, value.type.dtype is DType.BOOL and value.type.lanes > 1
        if to is DType.BOOL:
            zero = "0" if value.type.dtype is DType.I32 else "0.0f"
            return f"{self.text(value, ADD)} != {zero}", COMPARE
        if mask:
            negated = f"-{self.text(value, ATOM)}"
            return (
                (negated, UNARY) if to is DType.I32 else (f"convert_float{lanes}({negated})", ATOM)
            )
        if lanes == 1:
            return f"({VALUES[to]}){self.text(value, UNARY)}", UNARY
        return f"convert_{VALUES[to]}{lanes}({self.text(value)})", ATOM

    # Memory.

    def _pointer(self, buffer: Buffer) -> str:
        name = self.buffer(buffer)
        return f"({SPACES[buffer.space]} half *){name}" if self._array_raw(buffer) else name

    def _array_raw(self, buffer: Buffer) -> bool:
        return buffer.space is not Space.GLOBAL and self._raw(buffer)

    def _address(self, buffer: Buffer, index: Expr) -> str:
        return f"{self._pointer(buffer)} + {self.text(index, ADD)}"

    def _element_at(self, buffer: Buffer, index: Expr, lanes: int) -> str:
        """An element of an array of vectors or scalars, or a part of it."""
        name, split = self.buffer(buffer), buffer.space is Space.GLOBAL and self._splits_offsets()
        const = "const " if buffer.access is Access.READ and buffer.space is Space.GLOBAL else ""
        kind = const + self._element(buffer, lanes)
        if not split and lanes != buffer.lanes:
            name = f"(({SPACES[buffer.space]} {kind} *){name})"
        if not split:
            return f"{name}[{self.quotient(index, lanes)}]"
        base, more = constant_apart(index if lanes == 1 else divided(index, lanes))
        if base is None and lanes == buffer.lanes:
            return f"{name}[{more}]"
        return f"AT({kind}, {name}, {self.text(base) if base is not None else 0})[{more}]"

    def _splits_offsets(self) -> bool:
        return self.caps.integer_bits < ADDRESS_BITS

    def load(self, load: Load) -> Spelling:
        buffer, lanes = load.buffer, load.lanes
        half = buffer.dtype is DType.F16
        memory_only = half and not self.caps.f16_arithmetic and not self.packed
        if memory_only and lanes == 1:
            return f"vload_half({self.text(load.index)}, {self._pointer(buffer)})", ATOM
        if (lanes == buffer.lanes or buffer.lanes > 1) and not memory_only:
            made = self._element_at(buffer, load.index, lanes)
        else:
            function = f"vload_half{lanes}" if memory_only else f"vload{lanes}"
            made = f"{function}(0, {self._address(buffer, load.index)})"
            made = f"as_{WIDE[lanes]}({made})" if self._is_wide(load.type) else made
        return (f"{made} != 0", COMPARE) if buffer.dtype is DType.BOOL else (made, ATOM)

    def store(self, buffer: Buffer, index: Expr, value: Expr) -> list[str]:
        lanes, half = value.type.lanes, buffer.dtype is DType.F16
        memory_only = half and not self.caps.f16_arithmetic and not self.packed
        if memory_only and isinstance(value, Cast):
            value = value.value
        text = self.text(value)
        if buffer.dtype is DType.BOOL and lanes > 1:
            text = f"-{self.text(value, ATOM)}"
        if (lanes == buffer.lanes or buffer.lanes > 1) and not memory_only:
            return [f"{self._element_at(buffer, index, lanes)} = {text};"]
        if memory_only and lanes == 1:
            return [f"vstore_half({text}, {self.text(index)}, {self._pointer(buffer)});"]
        function = f"vstore_half{lanes}" if memory_only else f"vstore{lanes}"
        text = _lanes_of(text, lanes) if self._is_wide(value.type) else text
        return [f"{function}({text}, 0, {self._address(buffer, index)});"]


def _packed(lanes: int) -> str:
    """The type of so many packed halves."""
    return WIDE.get(lanes, f"ushort{lanes}" if lanes > 1 else "ushort")


def _lanes_of(text: str, lanes: int) -> str:
    """Packed halves as a vector of `ushort`, whose lanes have names."""
    return f"as_ushort{lanes}({text})" if lanes in WIDE else text
