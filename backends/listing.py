"""What a compiler's listing of a kernel says of its main loop.

In: the disassembly that a back-end printed, and the name of the instruction set's reader. Out:
`Loop`: how many issue slots one pass of the main loop takes, and how many of them are fused
multiply-adds. Invariant: slots are those of one work-item; nothing is estimated.

The main loop is the innermost loop with the most multiply-adds; in a kernel without a loop, the
whole body (its loops were unrolled). Phases are what stands between barriers: of each, the loop
with the most multiply-adds, or all of it. Issue slots and multiply-adds are

    ir3      every instruction, once for each repetition, with the idle slots that it asks for
             (`(rpt3)`: 4 slots; `(nop2)`: 2 more; `nop`); multiply-adds: `mad.f16`, `mad.f32`
    valhall  every instruction; multiply-adds: `FMA.f32`, `FMA.v2f16` (one slot, two lanes)
    agx      every instruction after register allocation; multiply-adds: `ffma`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Loop:
    """Multiply-adds among the issue slots of one pass."""

    multiply_adds: int
    slots: int

    @property
    def share(self) -> float:
        return self.multiply_adds / max(self.slots, 1)


@dataclass(frozen=True, slots=True)
class _Instruction:
    slots: int
    multiply_adds: int


@dataclass(slots=True)
class _Program:
    """Instructions in order, and the loops: the first and the last instruction of each."""

    instructions: list[_Instruction]
    loops: list[tuple[int, int]]
    barriers: list[int] = field(default_factory=list)
    """The instructions that are barriers of a work-group."""


def main_loop(listing: str, reader: str) -> Loop | None:
    """The main loop; None where the listing holds no program."""
    program = READERS[reader](listing)
    if not program.instructions:
        return None
    inner = [span for span in program.loops if not _holds_another(span, program.loops)]
    spans = inner or [(0, len(program.instructions) - 1)]
    return max((_count(program, span) for span in spans), key=lambda loop: loop.multiply_adds)


def phases(listing: str, reader: str) -> tuple[Loop, ...]:
    """What stands between the barriers of a kernel, in order, where there is a multiply-add; a loop
    that has barriers ends a phase where it ends. Empty for a kernel without barriers.

    A compiler may move arithmetic past a barrier: neighbours together are right in any case.
    """
    program = READERS[reader](listing)
    if not program.barriers:
        return ()
    around = [(a, b) for a, b in program.loops if any(a <= n <= b for n in program.barriers)]
    ends = {0, *program.barriers, *(b + 1 for _, b in around), len(program.instructions)}
    cuts = sorted(ends)
    found = (_phase(program, first, end - 1) for first, end in pairwise(cuts))
    return tuple(loop for loop in found if loop.multiply_adds)


def _phase(program: _Program, first: int, last: int) -> Loop:
    """The loop with the most multiply-adds in a range, or the whole range where none has any."""
    inner = [span for span in program.loops if first <= span[0] and span[1] <= last]
    counted = [_count(program, span) for span in inner if not _holds_another(span, inner)]
    most = max(counted, key=lambda loop: loop.multiply_adds, default=Loop(0, 0))
    return most if most.multiply_adds else _count(program, (first, last))


def _holds_another(span: tuple[int, int], spans: list[tuple[int, int]]) -> bool:
    first, last = span
    return any(other != span and first <= other[0] and other[1] <= last for other in spans)


def _count(program: _Program, span: tuple[int, int]) -> Loop:
    body = program.instructions[span[0] : span[1] + 1]
    return Loop(sum(i.multiply_adds for i in body), sum(i.slots for i in body))


def _ir3(listing: str) -> _Program:
    """`l12:` labels, `(sy)(rpt3)mad.f16 …`, `br p0.x, #l12`; comments and declarations apart."""
    program, labels = _Program([], []), {}
    for line in map(str.strip, listing.splitlines()):
        if label := re.fullmatch(r"(l\d+):", line):
            labels[label[1]] = len(program.instructions)
        elif line and line[0] not in ";@" and not line.startswith("Native code"):
            if re.search(r"\bbar\.g\b", line):
                program.barriers.append(len(program.instructions))
            repeated = 1 + _flag(line, "rpt")
            fused = repeated if re.search(r"\bmad\.f(16|32)\b", line) else 0
            program.instructions.append(_Instruction(repeated + _flag(line, "nop"), fused))
            jump = re.search(r"#(l\d+)$", line)
            if jump and jump[1] in labels:
                program.loops.append((labels[jump[1]], len(program.instructions) - 1))
    return program


def _flag(line: str, name: str) -> int:
    found = re.search(rf"\({name}(\d+)\)", line)
    return int(found[1]) if found else 0


def _valhall(listing: str) -> _Program:
    """The last part of the listing, behind all intermediate forms: `   FMA.f32 r1, r2, r3, r4`,
    and branches by a number of instructions from the next one."""
    lines = listing.splitlines()
    forms = re.compile(r" = |->|^\}|\{$")
    first = max((n for n, line in enumerate(lines) if forms.search(line)), default=-1) + 1
    program = _Program([], [])
    for line in lines[first:]:
        if re.match(r"   [A-Z]", line):
            if line.startswith("   BARRIER"):
                program.barriers.append(len(program.instructions))
            fused = int(line.startswith("   FMA."))
            program.instructions.append(_Instruction(1, fused))
            branch = re.search(r"BRANCH\w*.*offset:(-\d+)$", line)
            if branch:
                at = len(program.instructions) - 1
                program.loops.append((max(at + 1 + int(branch[1]), 0), at))
    return program


def _agx(listing: str) -> _Program:
    """The last printed form that holds a loop or any multiply-add: blocks of instructions, with
    edges `} -> block1 from …`; an edge that goes back closes a loop."""
    forms = re.split(r"^block0 \{$", listing, flags=re.M)[1:]
    chosen = next((f for f in reversed(forms) if "ffma" in f), forms[-1] if forms else "")
    program, starts, number = _Program([], []), {0: 0}, 0
    for line in chosen.splitlines():
        if opened := re.match(r"block(\d+) \{", line):
            number = int(opened[1])
            starts[number] = len(program.instructions)
        elif line.startswith("}"):
            targets = [int(t) for t in re.findall(r"block(\d+)", line.split("from")[0])]
            for target in targets:
                if target <= number and len(program.instructions) > starts[target]:
                    program.loops.append((starts[target], len(program.instructions) - 1))
        elif re.match(r"   \S", line):
            if line.startswith("   threadgroup_barrier"):
                program.barriers.append(len(program.instructions))
            program.instructions.append(_Instruction(1, int(" = ffma" in line)))
    return program


READERS: Mapping[str, Callable[[str], _Program]] = MappingProxyType(
    {"ir3": _ir3, "valhall": _valhall, "agx": _agx}
)
