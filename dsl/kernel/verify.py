"""The verifier of level 4: what no driver checks, proven before any driver sees the kernel.

In: a kernel and, possibly, the capabilities of a target. Out: nothing, or `KernelError` with every
problem and its statement. Invariant: a kernel that passes is well-typed, never leaves a buffer,
reaches each barrier with all lanes of a group, and has no two work-items on one cell in one phase
if one of them writes; on a target whose capabilities were given, it fits.

    verify(kernel, target.caps)

Bounds follow from intervals of the index under its guard and branches (`verify_accesses`), else by
enumeration; races are the business of `verify_races`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sdlc.kernel.intervals import INT32
from sdlc.kernel.ir import Access as Permission
from sdlc.kernel.ir import (
    Barrier,
    Expr,
    For,
    If,
    Kernel,
    Literal,
    Load,
    MatrixMultiply,
    Space,
    Var,
    WorkId,
    call,
    i32,
    statements,
    walk,
)
from sdlc.kernel.show import show_expression
from sdlc.kernel.verify_accesses import Access, Collector, accesses, branches, phases
from sdlc.kernel.verify_enumerate import outside
from sdlc.kernel.verify_races import race_problems
from sdlc.kernel.verify_types import (
    LANES,
    launch_problems,
    limit_problems,
    located,
    type_problems,
)
from sdlc.target import Capabilities

__all__ = ["KernelError", "verify"]


class KernelError(Exception):
    """A kernel that must not run: `problems` are sentences, each with its statement."""

    def __init__(self, kernel: Kernel, problems: tuple[str, ...]) -> None:
        self.kernel = kernel
        self.problems = problems
        super().__init__(f"kernel {kernel.name}:\n" + "\n".join(f"  - {p}" for p in problems))


def verify(kernel: Kernel, caps: Capabilities | None = None) -> None:
    """Raises `KernelError` with all problems of `kernel`, on a target with `caps` if given."""
    widths = LANES if caps is None else caps.vector_widths
    halves = caps is None or caps.f16_arithmetic
    problems = [*launch_problems(kernel), *type_problems(kernel, widths, halves)]
    if caps is not None:
        problems += limit_problems(kernel, caps)
    # Ranges and races are only defined where names and types are.
    problems = problems or list(meaning_problems(kernel))
    if problems:
        raise KernelError(kernel, tuple(dict.fromkeys(problems)))


def meaning_problems(kernel: Kernel) -> Iterator[str]:
    """Bounds, uniformity and races of a well-typed kernel."""
    collector = Collector(kernel)
    found = list(accesses(collector.items))
    proven: set[tuple[object, ...]] = set()
    for access in found:
        what = (access.buffer, access.index, access.lanes, access.conditions)
        if what not in proven:
            proven.add(what)
            yield from (located(p, access.stmt) for p in bounds_problems(collector, access))
    for branch in branches(collector.items):
        if not is_uniform(branch.condition, kernel):
            yield located(
                f"{_collective(branch.stmt)} under a condition that lanes may not share",
                branch.stmt,
            )
    lanes = tuple(WorkId("lane", d) for d in range(3) if kernel.group[d] > 1)
    groups = tuple(WorkId("group", d) for d in range(3) if kernel.grid[d] > 1)
    written = {a.buffer for a in found if a.write and a.buffer.space is Space.GLOBAL}
    everywhere = [free_of_loops(a) for a in found if a.buffer in written]
    races = race_problems(phases(collector.items), lanes)
    races += race_problems([everywhere], (*groups, *lanes))
    yield from (located(problem, access.stmt) for problem, access in races)


def _collective(stmt: If) -> str:
    kinds = {type(s) for s in statements(stmt.body)}
    if Barrier in kinds:
        return "a barrier"
    return "a matrix instruction" if MatrixMultiply in kinds else "an exchange of values"


def free_of_loops(access: Access) -> Access:
    """Barriers do not order global memory: there every loop variable is a lane's own."""
    return replace(access, free=frozenset(v for v in access.ranges if isinstance(v, Var)))


def bounds_problems(collector: Collector, access: Access) -> Iterator[str]:
    """Whether every lane of an access lies in its buffer, and a whole vector where it must."""
    low, high = access.bounds.interval(access.index)
    size = access.buffer.size
    if (low < 0 or high + access.lanes > size) and outside(access) is not False:
        span = "unknown" if (low, high) == INT32 else f"{low} … {high + access.lanes - 1}"
        name = f"{access.buffer.name}[{show_expression(access.index)}]"
        yield f"cannot prove {name} in bounds: {span} of 0 … {size - 1}"
    width = access.lanes
    if access.buffer.lanes > 1:
        rest = collector.simplifier.visit(call("mod", access.index, i32(width)))
        if not (isinstance(rest, Literal) and rest.value == 0):
            yield f"cannot prove that an access of {access.buffer.name} starts a vector of {width}"


def is_uniform(condition: Expr, kernel: Kernel) -> bool:
    """Whether all lanes of a group agree on a canonical condition: it reads no lane, no variable
    that lanes may assign differently, and only memory that the kernel does not write."""
    for e in walk(condition):
        match e:
            case WorkId() if e.kind == "lane" and kernel.group[e.dim] > 1:
                return False
            case Load() if e.buffer.space is not Space.GLOBAL:
                return False
            case Load() if e.buffer.access is not Permission.READ:
                return False
    loops = loop_variables(kernel)
    return all(v in loops for v in condition.variables if isinstance(v, Var))


def loop_variables(kernel: Kernel) -> set[Expr]:
    return {s.var for s in statements(kernel.body) if isinstance(s, For)}
