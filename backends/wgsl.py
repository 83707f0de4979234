"""The WGSL dialect.

In: a legalised kernel (vectors of at most four lanes, no function that WGSL lacks). Out: one
`@compute` function with its bindings in parameter order at group 0. Every binding is `read_write`:
tensors share one arena, and a buffer bound `read` and `read_write` in one dispatch is refused.
Halves are `f16` where `shader-f16` exists; else two of them live in each u32 of a binding.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from sdlc.backends.printer import ATOM, COMPARE, UNARY, Printer, Spelling, float_literal
from sdlc.backends.quotients import divided
from sdlc.graph.types import DType
from sdlc.kernel.ir import Buffer, Call, Cast, Expr, Load, Space, Type, WorkId

VALUES = MappingProxyType(
    {DType.F32: "f32", DType.F16: "f16", DType.I32: "i32", DType.BOOL: "bool"}
)
STORED = MappingProxyType({DType.F32: "f32", DType.F16: "f16", DType.I32: "i32", DType.BOOL: "i32"})
VECTOR_WITH_SCALAR = ("add", "sub", "mul", "div", "floordiv", "mod")

RESERVED = """
alias break case const const_assert continue continuing default diagnostic discard else enable false
fn for if let loop override requires return struct switch true var while
NULL Self abstract active alignas alignof as asm asm_fragment async attribute auto await become cast
catch class co_await co_return co_yield coherent column_major common compile compile_fragment
concept const_cast consteval constexpr constinit
crate debugger decltype delete demote demote_to_helper do
dynamic_cast enum explicit export extends extern external fallthrough filter final finally friend
from fxgroup get goto groupshared highp impl implements import inline instanceof interface layout
lowp macro macro_rules match mediump meta mod module move mut mutable namespace new nil noexcept
noinline nointerpolation non_coherent noncoherent noperspective null nullptr of operator package
packoffset partition pass patch pixelfragment precise precision premerge priv protected pub public
readonly ref regardless register reinterpret_cast require resource restrict self set shared sizeof
smooth snorm static static_assert static_cast std subroutine super target template this thread_local
throw trait try type typedef typeid typename typeof union unless unorm unsafe unsized use using
varying virtual volatile wgsl where with writeonly yield
bool f16 f32 i32 u32 vec2 vec3 vec4 mat2x2 mat3x3 mat4x4 array atomic ptr sampler bitcast
read write read_write function private workgroup uniform storage
any all select arrayLength clamp cross dot degrees distance length mix modf normalize radians sign
smoothstep step trunc fract saturate unpack2x16float pack2x16float quantizeToF16 workgroupBarrier
"""


class WgslPrinter(Printer):
    functions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            **{name: name for name in ("min", "max", "abs", "pow", "exp", "exp2", "log", "log2")},
            **{name: name for name in ("sqrt", "sin", "cos", "tan", "atan", "tanh", "floor")},
            **{name: name for name in ("ceil", "round", "fma")},
            "rsqrt": "inverseSqrt",
        }
    )
    reserved = frozenset((*RESERVED.split(), *functions.values()))

    def type_name(self, type: Type) -> str:
        return self._vector_of(VALUES[self.held(type.dtype)], type.lanes)

    @staticmethod
    def _vector_of(scalar: str, lanes: int) -> str:
        return scalar if lanes == 1 else f"vec{lanes}<{scalar}>"

    def splats(self, expr: Call) -> bool:
        return expr.op not in VECTOR_WITH_SCALAR

    # Head.

    def head(self) -> None:
        kernel = self.kernel
        if self.caps.f16_arithmetic and self.uses_half():
            self.line("enable f16;")
        for number, buffer in enumerate(kernel.buffers):
            declared = f"{self.buffer(buffer)}: array<{self._element(buffer)}>;"
            self.line(f"@group(0) @binding({number}) var<storage, read_write> {declared}")
        for array in kernel.arrays:
            if array.space is Space.LOCAL:
                self.line(f"var<workgroup> {self._array(array)};")
        group = ", ".join(map(str, kernel.group))
        self.line("")
        self.line(f"@compute @workgroup_size({group})")
        self.line(f"fn {self.entry}({', '.join(self._builtins())}) {{")
        for array in kernel.arrays:
            if array.space is Space.PRIVATE:
                self.line(f"  var {self._array(array)};")

    def _builtins(self) -> list[str]:
        kinds = {w.kind for w in self._work_ids()}
        names = {"group": "workgroup_id", "lane": "local_invocation_id"}
        return [
            f"@builtin({builtin}) {self.names.of('builtin', kind)}: vec3<u32>"
            for kind, builtin in names.items()
            if kind in kinds
        ]

    def work_id(self, work: WorkId) -> str:
        return f"i32({self.names.of('builtin', work.kind)}.{self.axes[work.dim]})"

    def _element(self, buffer: Buffer) -> str:
        return (
            "u32" if self._packed(buffer) else self._vector_of(STORED[buffer.dtype], buffer.lanes)
        )

    def _packed(self, buffer: Buffer) -> bool:
        return buffer.dtype is DType.F16 and not self.caps.f16_arithmetic

    def _array(self, array: Buffer) -> str:
        return f"{self.buffer(array)}: array<{self._element(array)}, {array.size // array.lanes}>"

    # Statements.

    def local(self, var: str, type: Type, value: str, mutable: bool) -> str:
        return (
            f"var {var}: {self.type_name(type)} = {value};" if mutable else f"let {var} = {value};"
        )

    def loop(self, var: str, extent: int) -> str:
        return f"for (var {var} = 0; {var} < {extent}; {var}++)"

    def barrier(self) -> str:
        return "workgroupBarrier();"

    # Expressions.

    def half_literal(self, value: float) -> Spelling:
        text = float_literal(value) + ("h" if self.caps.f16_arithmetic else "f")
        return text, UNARY if text.startswith("-") else ATOM

    def vector(self, parts: list[str], type: Type) -> str:
        return f"{self.type_name(type)}({', '.join(parts)})"

    def lanes(self, first: int, count: int) -> str:
        return "." + "xyzw"[first : first + count]

    def choose(self, condition: Expr, then: Expr, otherwise: Expr) -> Spelling:
        lanes = max(condition.type.lanes, then.type.lanes, otherwise.type.lanes)
        arms = f"{self.fitted(otherwise, lanes)}, {self.fitted(then, lanes)}"
        return f"select({arms}, {self.text(condition)})", ATOM

    def convert(self, value: Expr, to: DType) -> Spelling:
        if to is DType.F16 and not self.caps.f16_arithmetic:
            return f"quantizeToF16({self.text(value)})", ATOM
        return f"{self._vector_of(VALUES[to], value.type.lanes)}({self.text(value)})", ATOM

    # Memory.

    def load(self, load: Load) -> Spelling:
        buffer, index, lanes = load.buffer, load.index, load.lanes
        if self._packed(buffer):
            return self._load_packed(load), ATOM
        name = self.buffer(buffer)
        if lanes == buffer.lanes:
            stored = f"{name}[{self.quotient(index, lanes)}]"
        else:
            cells = [f"{name}[{self.offset(index, lane)}]" for lane in range(lanes)]
            stored = f"{self._vector_of(STORED[buffer.dtype], lanes)}({', '.join(cells)})"
        if buffer.dtype is not DType.BOOL:
            return stored, ATOM
        zero = "0" if lanes == 1 else f"vec{lanes}<i32>(0)"
        return f"{stored} != {zero}", COMPARE

    def _load_packed(self, load: Load) -> str:
        name, index = self.buffer(load.buffer), load.index
        if load.lanes == 1:
            at = self.text(index, UNARY)
            return f"unpack2x16float({name}[{at} >> 1u])[{at} & 1]"
        cells = [f"unpack2x16float({word})" for word in self._words(load.buffer, index, load.lanes)]
        return cells[0] if load.lanes == 2 else f"vec{load.lanes}<f32>({', '.join(cells)})"

    def _words(self, buffer: Buffer, index: Expr, lanes: int) -> list[str]:
        words = divided(index, 2)
        name = self.buffer(buffer)
        return [f"{name}[{self.offset(words, n)}]" for n in range(lanes // 2)]

    def store(self, buffer: Buffer, index: Expr, value: Expr) -> list[str]:
        lanes, dtype = value.type.lanes, buffer.dtype
        name = self.buffer(buffer)
        if self._packed(buffer):
            if isinstance(value, Cast):
                value = value.value
            words = self._words(buffer, index, lanes)
            return [
                f"{word} = pack2x16float({self._lanes_of(value, 2 * n, 2)});"
                for n, word in enumerate(words)
            ]
        if lanes == buffer.lanes:
            return [f"{name}[{self.quotient(index, lanes)}] = {self._narrowed(value)};"]
        if dtype in (DType.F16, DType.BOOL):
            wide = self.text(value, ATOM) if dtype is DType.F16 else self._narrowed(value)
            return [
                f"{name}[{self.offset(index, n)}] = {wide}{self.lanes(n, 1)};" for n in range(lanes)
            ]
        return [
            f"{name}[{self.offset(index, n)}] = {self._lanes_of(value, n, 1)};"
            for n in range(lanes)
        ]

    def _lanes_of(self, value: Expr, first: int, count: int) -> str:
        if value.type.lanes == count:
            return self.text(value)
        return self.text(value, ATOM) + self.lanes(first, count)

    def _narrowed(self, value: Expr) -> str:
        if value.type.dtype is not DType.BOOL:
            return self.text(value)
        return f"{self._vector_of(STORED[DType.BOOL], value.type.lanes)}({self.text(value)})"
