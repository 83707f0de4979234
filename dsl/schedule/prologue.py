"""Maps computed in the loads of the transforms that read them, instead of stored before.

In: groups after reductions are split, and who estimates. Out: groups in execution order; a map that
only transforms read is computed where they read it, and what it held for its rows (a norm's
statistics) is a kernel of its own. Invariant: values are the same but for the rounding of what is
no longer stored, outside of borders they are the fill; no more kernels start and no more bytes are
live at most than before, and together they are estimated to take less time.

    s[g] = statistics of x[g];  y[i] = silu(f(x[i], s[g]))        one kernel
    v[j, t] = sum over p < 6 of B[j, p] * (y[4 * t + p - 1] else 0)
    becomes: s[g] = statistics of x[g];  v[j, t] = sum of B[j, p] * (silu(f(x[4 * t + p - 1], …)) …)

A transform reads an element once for each tile that it belongs to, (6 / 4)² times where tiles of
6 × 6 lie 4 apart, since a work-item keeps its tile in registers for all outputs. What is saved is a
store of the whole value and its loads. The estimates of all kernels say which is more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sdlc.graph.expr import Expr, Read, rebuild, substitute
from sdlc.graph.node import Map, Node, Reduce
from sdlc.graph.rewrite import read_through
from sdlc.schedule.absorb import arrangement, readers_of
from sdlc.schedule.again import live_bytes
from sdlc.schedule.contraction import constant_factor
from sdlc.schedule.draft import Setting
from sdlc.schedule.fuse import MAX_INLINED_READS
from sdlc.schedule.group import Group
from sdlc.schedule.transform import values_of_place

NAME = "inline_prologue"

Seconds = Callable[[Group], float]
"""The estimate of a group's default schedule."""


@dataclass(frozen=True, slots=True)
class Prologues:
    """Computes maps in the transforms that read them; a kernel binds at most `most` buffers, at
    most `room` bytes are live; `kept` are the program's results."""

    seconds: Seconds
    setting: Setting
    kept: frozenset[Node]
    most: int
    room: int

    def groups(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """The groups without the maps that transforms compute themselves, in execution order."""
        readers = readers_of(tuple(groups))
        made: list[Group | None] = list(groups)
        for number, group in enumerate(groups):
            own = [n for n, g in enumerate(made) if n in readers[group.stores[0].node] and g]
            reading = [g for n in own if (g := made[n]) is not None]
            if not _is_map(group) or not reading or not all(map(_is_transform, reading)):
                continue
            why = self._refused(group, reading)
            if not why:
                then = list(made)
                then[number] = _statistics(group)
                for n, reader in zip(own, reading, strict=True):
                    then[n] = with_prologue(reader, group)
                why = self._too_much(then)
                made = made if why else then
            self.setting.journal.tell(NAME, group, why)
        return _present(made)

    def _too_much(self, groups: Sequence[Group | None]) -> str:
        """Why groups need more memory than there is room for, or ''."""
        fits = max(live_bytes(_present(groups), self.kept)) <= self.room
        return "" if fits else "what it reads would be kept while most memory is needed"

    def _refused(self, group: Group, readers: Sequence[Group]) -> str:
        """Why these transforms, which alone read a map, do not compute it, or ''."""
        if group.stores[0].node in self.kept:
            return "it is a result of the program"
        if len(group.stores) != 1 or arrangement(group) is None:
            return "its kernel stores several values, or a part of one"
        alone = _statistics(group)
        if group.inner and alone is None:
            return "what its kernel holds exists only there"
        whole = [with_prologue(reader, group) for reader in readers]
        if any(len(g.operands) + len(g.stores) > self.most for g in whole):
            return f"its reader would bind more than {self.most} buffers"
        if any(len(part.reads) > MAX_INLINED_READS for g in whole for part in g.parts):
            return f"its reader would read in more than {MAX_INLINED_READS} places"
        held, most = values_of_place(whole[0], self.setting), self.setting.profile.registers
        if 0 < most < held:
            return f"a work-item would hold {held} values at once (profile.registers is {most})"
        before = sum(map(self.seconds, (group, *readers)))
        after = sum(map(self.seconds, whole if alone is None else (alone, *whole)))
        dearer = f"in its readers' loads: {1e3 * after:.3g} ms instead of {1e3 * before:.3g}"
        return "" if after < before else dearer


def _present(groups: Sequence[Group | None]) -> tuple[Group, ...]:
    return tuple(g for g in groups if g is not None)


def _is_map(group: Group) -> bool:
    """Whether a group is a map, which may hold statistics of its rows."""
    return group.monoid is None and len(group.inner) <= 1


def _is_transform(group: Group) -> bool:
    """Whether all that reads stored values in a kernel is weighed by constants and written out."""
    first = group.parts[0]
    return constant_factor(first) is not None


def _statistics(group: Group) -> Group | None:
    """What a map holds for its rows, as a kernel that stores it; None where there is no such thing,
    or no name for it outside."""
    named = [g for g in group.inner if all(isinstance(s.node, Reduce) for s in g.stores)]
    return named[0] if named else None


def with_prologue(reader: Group, group: Group) -> Group:
    """The reader with a map written into its reads; outside of borders they are the fill."""
    store, places = group.stores[0], arrangement(group)
    assert places is not None and isinstance(store.node, Map)
    written = replace(store.node, body=substitute(store.value, places))

    def change(e: Expr) -> Expr | None:
        if isinstance(e, Read) and e.source is store.node:
            return read_through(e, written)
        return None

    def changed(part: Group) -> Group:
        stores = tuple(replace(s, value=rebuild(s.value, change)) for s in part.stores)
        return replace(part, lift=tuple(rebuild(e, change) for e in part.lift), stores=stores)

    origins = tuple(dict.fromkeys((*group.origins, *reader.origins)))
    inner = tuple(map(changed, reader.inner))
    return replace(changed(reader), inner=inner, origins=origins)
