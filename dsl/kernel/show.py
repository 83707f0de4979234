"""Kernels as readable pseudo-code.

In: a kernel, a statement or an expression. Out: text for people (`explain`, error messages); no
level reads it back. Invariant: brackets stand only where precedence needs them, and a text stays
short: inside a very large expression, deep parts are written `…`.

    for k < 16 {                       # reduced
      acc = fma(x[row * 16 + k], w[k], acc)
    }
    out[row : 4] = acc   where row < 30
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

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
    Space,
    Stmt,
    Store,
    Var,
    Vector,
    WorkId,
    operands,
)

# Operator to (spelling, precedence); comparisons do not chain.
INFIX = MappingProxyType(
    {
        "or": ("or", 1),
        "and": ("and", 2),
        "lt": ("<", 4),
        "le": ("<=", 4),
        "gt": (">", 4),
        "ge": (">=", 4),
        "eq": ("==", 4),
        "ne": ("!=", 4),
        "add": ("+", 5),
        "sub": ("-", 5),
        "mul": ("*", 6),
        "div": ("/", 6),
        "floordiv": ("//", 6),
        "mod": ("%", 6),
    }
)
PREFIX = MappingProxyType({"not": ("not ", 3), "neg": ("-", 7)})
DIMENSIONS = "xyz"
LARGE, DEEP = 400, 10


def show_kernel(kernel: Kernel) -> str:
    """The whole kernel: launch, buffers, body."""
    grid, group = (" x ".join(map(str, size)) for size in (kernel.grid, kernel.group))
    lines = [f"kernel {kernel.name}   # {grid} work-groups of {group} work-items"]
    lines += [f"  {show_buffer(b)}" for b in (*kernel.buffers, *kernel.arrays)]
    return "\n".join([*lines, "{", *_body(kernel.body, "  "), "}"]) + "\n"


def show_buffer(buffer: Buffer) -> str:
    access = f"{buffer.access.value} " if buffer.space is Space.GLOBAL else ""
    return f"{buffer.space.value} {access}{buffer.name}: {buffer.dtype.value}[{buffer.size}]"


def show_statement(stmt: Stmt) -> str:
    """One statement; of a loop or a branch its first line."""
    match stmt:
        case Let():
            return f"let {stmt.var.name} = {show_expression(stmt.value)}"
        case Declare():
            return f"var {stmt.var.name}: {stmt.var.type} = {show_expression(stmt.value)}"
        case Assign():
            return f"{stmt.var.name} = {show_expression(stmt.value)}"
        case Store():
            place = _place(stmt.buffer, stmt.index, stmt.value.type.lanes, LARGE)
            guard = "" if stmt.guard is None else f"   where {show_expression(stmt.guard)}"
            return f"{place} = {show_expression(stmt.value)}{guard}"
        case For():
            label = f"   # {stmt.axis}" if stmt.axis else ""
            return f"for {stmt.var.name} < {stmt.extent} {{{label}"
        case If():
            return f"if {show_expression(stmt.condition)} {{"
        case MatrixMultiply():
            into = ", ".join(v.name for v in stmt.into)
            factors = (f"<{_list(side, LARGE)}>" for side in (stmt.left, stmt.right))
            return f"<{into}> += {' times '.join(factors)}   by {stmt.instruction.name}"
        case Exchange():
            value = show_expression(stmt.value)
            return f"let {stmt.var.name} = {value}   of work-item ^ {stmt.distance}"
        case Barrier():
            return "barrier"


def _body(body: tuple[Stmt, ...], indent: str) -> Iterator[str]:
    for stmt in body:
        yield indent + show_statement(stmt)
        if isinstance(stmt, (For, If)):
            yield from _body(stmt.body, indent + "  ")
            yield indent + "}"


def show_expression(expr: Expr) -> str:
    return _show(expr, 0, DEEP if _size(expr, {}) > LARGE else LARGE)


def _size(expr: Expr, known: dict[Expr, int]) -> int:
    """Nodes of the expression written out as a tree."""
    if expr not in known:
        known[expr] = 1 + sum(_size(o, known) for o in operands(expr))
    return known[expr]


def _show(expr: Expr, precedence: int, depth: int) -> str:
    """`expr` within an operator of `precedence`, at most `depth` levels of it."""
    if depth == 0:
        return "…"
    match expr:
        case Literal():
            return _literal(expr)
        case Var():
            return expr.name
        case WorkId():
            return f"{expr.kind}.{DIMENSIONS[expr.dim]}"
        case Call():
            return _call(expr, precedence, depth - 1)
        case Cast():
            return f"{expr.dtype.value}({_show(expr.value, 0, depth - 1)})"
        case Load():
            return _place(expr.buffer, expr.index, expr.lanes, depth - 1)
        case Vector():
            return f"<{_list(expr.parts, depth - 1)}>"
        case Extract():
            last = "" if expr.count == 1 else f"..{expr.first + expr.count - 1}"
            return f"{_show(expr.value, 9, depth - 1)}.{expr.first}{last}"


def _literal(expr: Literal) -> str:
    text = str(expr.value).lower() if isinstance(expr.value, bool) else repr(expr.value)
    return text if expr.type.lanes == 1 else f"<{text} x {expr.type.lanes}>"


def _list(parts: tuple[Expr, ...], depth: int) -> str:
    return ", ".join(_show(p, 0, depth) for p in parts)


def _place(buffer: Buffer, index: Expr, lanes: int, depth: int) -> str:
    span = f" : {lanes}" if lanes > 1 else ""
    return f"{buffer.name}[{_show(index, 0, depth)}{span}]"


def _call(expr: Call, precedence: int, depth: int) -> str:
    if expr.op in INFIX and len(expr.args) == 2:
        sign, level = INFIX[expr.op]
        left = _show(expr.args[0], level, depth)
        text = f"{left} {sign} {_show(expr.args[1], level + 1, depth)}"
    elif expr.op in PREFIX and len(expr.args) == 1:
        sign, level = PREFIX[expr.op]
        text = sign + _show(expr.args[0], level, depth)
    elif expr.op == "select" and len(expr.args) == 3:
        level = 0
        condition, then, other = (_show(a, 1, depth) for a in expr.args)
        text = f"if {condition} then {then} else {other}"
        return f"({text})" if precedence else text
    else:
        return f"{expr.op}({_list(expr.args, depth)})"
    return f"({text})" if level < precedence else text
