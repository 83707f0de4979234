"""An explanation as text, for a terminal or a pipe.

In: `Explanation`. Out: sections, each with a name, a title and lines. Invariant: what a page shows
of a group, its section shows too.

    12  linear y:
      total = sum over k < 96 of x[b, k] * weight[n, k]
      y[b, n] = total + bias[n]
      group0 n < 12 step 8
      …
      reads 37.5 KiB, writes 384 bytes, 18,432 FLOP; about 2.1 µs, bound by memory
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdlc.program.explain_data import (
        DispatchFacts,
        Explanation,
        GroupFacts,
        TensorFacts,
        Verdict,
    )

WIDEST = 72
CURVE = 64
MOST_REASONS = 8
LEVELS = "▁▂▃▄▅▆▇█"
MEANING = MappingProxyType(
    {
        "naive": "every temporary in a place of its own",
        "arena": "the temporaries as they are laid out",
        "lower_bound": "the most that is live in one dispatch: no arena can be smaller",
        "weights": "as stored",
    }
)


def sections(made: Explanation) -> tuple[tuple[str, str, str], ...]:
    """Names, titles and texts in reading order."""
    languages = ", ".join(dict.fromkeys(k.language for k in made.kernels))
    kernels = "\n\n".join(f"-- {k.name}\n{k.text.strip()}" for k in made.kernels)
    total = f"{made.flop:,} FLOP, about {time_text(made.seconds)} a run"
    if made.device:
        total += f", measured {time_text(made.measured)} on {made.device}"
    pairs = zip(made.groups, made.dispatches, strict=True)
    return (
        ("graph", f"{made.name} for {made.target}: graph", made.graph.strip()),
        ("groups", f"groups ({len(made.groups)})", "\n\n".join(_group(g, d) for g, d in pairs)),
        ("rules", f"rules ({len(made.rules)})", "\n".join(_rules(made))),
        ("dispatches", f"dispatches ({len(made.dispatches)}, {total})", _dispatches(made)),
        ("kernels", f"kernels ({len(made.kernels)}, {languages})", kernels),
        ("tensors", f"tensors ({len(made.tensors)})", _tensors(made.tensors)),
        ("memory", "memory", "\n".join((*_memory(made.memory), *timeline(made.live)))),
    )


def time_text(seconds: float) -> str:
    """Three digits and a unit: `12.3 µs`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def bytes_text(nbytes: float) -> str:
    """`1.5 MiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= size:
            return f"{nbytes / size:.{0 if nbytes >= 100 * size else 1}f} {unit}"
    return f"{nbytes:,.0f} bytes"


def count_text(count: float) -> str:
    """`1.84 G`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"


# ---- groups --------------------------------------------------------------------------------------


def _group(group: GroupFacts, dispatch: DispatchFacts) -> str:
    lines = [f"{_number(group)}  {group.text}"]
    lines += [f"  called from {c.file}:{c.line} {c.definition}: {c.text}" for c in group.calls]
    if group.steps:
        lines.append(f"  schedule: {'; '.join(group.steps)}")
    lines += [f"  {line}" for line in group.nest.splitlines()]
    lines += [f"  {verdict_text(v)}" for v in group.verdicts]
    return "\n".join([*lines, f"  {cost_text(dispatch)}"])


def _number(item: GroupFacts | DispatchFacts) -> str:
    """`12`, or `load 12` for what is done once."""
    return f"{item.number}" if item.part == "run" else f"{item.part} {item.number}"


def verdict_text(verdict: Verdict) -> str:
    """`rule x fired for a.b`, `rule x did not fire for a.b: why`."""
    what = f"{verdict.kind} {verdict.name} {'fired' if verdict.fired else 'did not fire'}"
    what += f" for {verdict.about}" if verdict.about else ""
    return f"{what}: {verdict.why}" if verdict.why else what


def cost_text(dispatch: DispatchFacts) -> str:
    moved = f"reads {bytes_text(dispatch.read)}, writes {bytes_text(dispatch.written)}"
    time = f"about {time_text(dispatch.seconds)}, bound by {dispatch.bound}"
    if dispatch.measured:
        time += f"; measured {time_text(dispatch.measured)}"
    return f"{moved}, {dispatch.flop:,} FLOP; {time}"


def _rules(made: Explanation) -> list[str]:
    lines = []
    for r in made.rules:
        lines.append(f"{r.kind} {r.name}: fired in {r.fired} of {r.fired + r.missed} groups")
        lines += [f"  {count:4}  {why}" for why, count in r.reasons[:MOST_REASONS]]
        if more := len(r.reasons) - MOST_REASONS:
            lines += [f"        and {more} more reasons"] if more > 0 else []
    lines = lines or ["no rule and no step of a schedule reported anything"]
    return [*lines, f"not applied: {', '.join(made.off)}"] if made.off else lines


# ---- dispatches, tensors -------------------------------------------------------------------------


def _dispatches(made: Explanation) -> str:
    """A line a launch: number, kernel, what it reads and writes, work-groups and work-items, what
    it costs."""
    rows = []
    for d in made.dispatches:
        read, written = (
            ", ".join(o.tensor for o in d.operands if o.written is writes)
            for writes in (False, True)
        )
        grid, group = ("×".join(map(str, n)) for n in (d.grid, d.group))
        moved = f"{bytes_text(d.read)} in, {bytes_text(d.written)} out"
        rows.append(
            (
                _number(d),
                f"{d.kernel}({read or 'nothing'}) -> {written}",
                f"grid {grid}",
                f"of {group}",
                moved,
                f"{count_text(d.flop)}FLOP",
                f"{time_text(d.seconds)} ({d.bound})",
                f"measured {time_text(d.measured)}" if d.measured else "",
            )
        )
    return "\n".join(_columns(rows))


def _tensors(tensors: Sequence[TensorFacts]) -> str:
    """A line a tensor: name, type, bytes, role; where a temporary is in the arena and from which
    dispatch to which it is live, a weight's scope path, an order that is not row-major."""
    rows = [
        (t.name, t.type, f"{t.nbytes:,} bytes", t.role, _place(t))
        for t in tensors
        if t.part == "run" or t.first >= 0
    ]
    return "\n".join(_columns(rows))


def _place(tensor: TensorFacts) -> str:
    parts = [f"= {tensor.weight}"] if tensor.weight else []
    if tensor.first >= 0:
        when = "" if tensor.part == "run" else f" of {tensor.part}"
        live = f"live in dispatches {tensor.first} to {tensor.last}{when}"
        parts.append(f"at {tensor.offset:,}, {live}")
    if tensor.order != tuple(range(len(tensor.order))):
        parts.append(f"axes stored as {', '.join(map(str, tensor.order))}")
    return "; ".join(parts)


# ---- memory --------------------------------------------------------------------------------------


def _memory(memory: Mapping[str, int]) -> list[str]:
    return _columns(
        (name.replace("_", " "), f"{size:,} bytes".rjust(20), MEANING.get(name, ""))
        for name, size in memory.items()
    )


def timeline(live: Sequence[int]) -> list[str]:
    """The live bytes over the dispatches as a curve one line high."""
    most = max(live, default=0)
    if not most:
        return []
    step = -(-len(live) // CURVE)
    tops = [max(live[i : i + step]) for i in range(0, len(live), step)]
    curve = "".join(LEVELS[min(7, 8 * top // (most + 1))] for top in tops)
    peak = f"most in dispatch {live.index(most)}: {most:,} bytes"
    return [f"live         {curve}", f"             {peak}"]


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows with every column but the last as wide as its widest cell; long cells stand out."""
    made = list(rows)
    widths = [min(WIDEST, max(map(len, column))) for column in zip(*made, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in made
    ]
