"""Mechanisms: rewritings with a name that are no equations, and what the schedule does by name.

In: nothing. Out: `MECHANISMS`, listed, selected and reported like rules. Invariant: each is sound
for every graph; whoever applies one asks whether it is selected. Example: `MECHANISMS[0].name`.
"""

from __future__ import annotations

from sdlc.graph import beside, biases, halo, joined, shifts
from sdlc.graph.numerics import Numerics
from sdlc.graph.rules import Rule

SCHEDULED: tuple[Rule, ...] = (
    Rule(
        "inline_prologue",
        "A map that one reader reads once an element is computed where it is read.",
        Numerics.EXACT,
    ),
    Rule(
        "inline_epilogue",
        "A map over a reduction's results, in any arrangement, is computed where they are stored.",
        Numerics.EXACT,
    ),
    Rule(
        "pair_reductions",
        "Parts of a contraction that one map reads together are fields of one reduction in it.",
        Numerics.REASSOCIATED,
    ),
    Rule(
        "share_operand",
        "Contractions with one left factor and equal extents are computed in one kernel.",
        Numerics.EXACT,
    ),
    Rule(
        "rows",
        "A map and the statistics of its rows are one kernel: a work-group for each row.",
        Numerics.REASSOCIATED,
    ),
    Rule(
        "nest_factors",
        "Rows that one contraction multiplies are normalised in its kernel, with their statistics.",
        Numerics.REASSOCIATED,
    ),
    Rule(
        "hold_factors",
        "What a contraction computes for its left factor is held by work-items, made in vectors.",
        Numerics.EXACT,
    ),
    Rule(
        "nest_transforms",
        "Of two short sums weighted by constants, one is computed inside the other.",
        Numerics.EXACT,
    ),
    Rule(
        "fold_blocks",
        "A rescaled state is folded block by block, what it reads computed inside it.",
        Numerics.RESCALED,
    ),
    Rule(
        "strips",
        "What transforms store on their way is made and used in pieces, where it is large.",
        Numerics.EXACT,
    ),
    Rule(
        "vector_rows",
        "Vector lanes run along rows folded side by side, where that is estimated to be quicker.",
        Numerics.REASSOCIATED,
    ),
    Rule(
        "register_tile",
        "A work-item computes a tile of a contraction's results: what it reads serves several.",
        Numerics.EXACT,
    ),
    Rule(
        "storage_orders",
        "Values and weights are stored in the order in which contractions read them.",
        Numerics.REASSOCIATED,
    ),
    Rule(
        "local_operands",
        "Work-groups fetch a contraction's factors to local memory, slice by slice.",
        Numerics.EXACT,
    ),
    Rule(
        "split_reductions",
        "A reduction with too few results to keep a device busy is folded in parts, then combined.",
        Numerics.REASSOCIATED,
    ),
    Rule(
        "compute_late",
        "A kernel runs just before the first reader of its results where less is live so.",
        Numerics.EXACT,
    ),
    Rule(
        "compute_again",
        "What a run's inputs cheaply give is computed again for late readers rather than kept.",
        Numerics.EXACT,
    ),
)
"""What `schedule/` applies: names, docs and numerics classes, without an attempt."""

PLACED: tuple[Rule, ...] = (
    Rule(
        "in_place",
        "A result is written over a temporary that its kernel is the last to read.",
        Numerics.EXACT,
    ),
)
"""What `program/` applies when tensors get their places, likewise."""

DEFAULT = (
    "concat_read",
    "join_weights",
    "halo",
    "flash_attention",
    "join_read_together",
    "join_shifts",
    "compose_products",
    "fold_affine",
    "join_biases",
    "scale_and_shift",
    "upsample_phases",
    "winograd_4",
    *(r.name for r in (*SCHEDULED, *PLACED)),
)
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
        "join_weights",
        "Products of one operand by several weights, read alike, are one, by the weights joined.",
        Numerics.EXACT,
        beside.looks_at,
        beside.attempt,
    ),
    Rule(
        "join_read_together",
        "Products of one operand by weights that end in one node are one, by the weights joined.",
        Numerics.EXACT,
        beside.looks_at,
        beside.attempt_together,
    ),
    Rule(
        "join_shifts",
        "What several products of one operand are shifted by is one weight: a row for each.",
        Numerics.EXACT,
        shifts.looks_at,
        shifts.attempt,
    ),
    Rule(
        "join_biases",
        "Biases that are added one after the other are one, made when weights are loaded.",
        Numerics.REASSOCIATED,
        biases.looks_at,
        biases.attempt,
    ),
    Rule(
        "halo",
        "A map that a contraction reads beyond its borders is stored with a border.",
        Numerics.EXACT,
        halo.looks_at,
        halo.attempt,
        worth=halo.worth,
        borders=True,
    ),
    *SCHEDULED,
    *PLACED,
)
