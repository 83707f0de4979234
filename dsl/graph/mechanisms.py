"""Mechanisms: rewritings with a name that are no equations, and what the schedule does by name.

In: nothing. Out: `MECHANISMS`, listed, selected and reported like rules. Invariant: each is sound
for every graph; whoever applies one asks whether it is selected. Example: `MECHANISMS[0].name`.
"""

from __future__ import annotations

from sdlc.graph import halo, joined
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import Rule

SCHEDULED: tuple[Rule, ...] = ()
"""What `schedule/` applies: names, docs and numerics classes, without an attempt."""

DEFAULT = ("halo", "flash_attention")
"""The rules that a program is compiled with where none are named."""

MECHANISMS: tuple[Rule, ...] = (
    Rule(
        "concat_read",
        "What reads a joined tensor reads its parts, and the joined one is not made.",
        Numerics.EXACT,
        joined.reads_joined,
        joined.read_parts,
    ),
    Rule(
        "concat_k",
        "A contraction over the axis along which tensors are joined is a sum of those over each.",
        Numerics.REASSOCIATED,
        joined.contracts_joined,
        joined.contract_parts,
    ),
    Rule(
        "halo",
        "A map that a contraction reads beyond its borders is stored with a border.",
        Numerics.EXACT,
        halo.looks_at,
        halo.attempt,
        worth=halo.worth,
    ),
    *SCHEDULED,
)
