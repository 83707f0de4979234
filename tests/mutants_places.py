"""Mutants of who holds a value and where: places, exchanges, borders, rows of tiles, caches.

In: nothing. Out: `PLACES`. Invariant: each can be applied (`test_mutants.py`) and is noticed
(`mutants.py`). Example: `PLACES[0].name`.
"""

from __future__ import annotations

from mutants_known import Mutant

ADDRESSES = "tests/test_kernel_addresses.py"
MATRIX = "tests/test_matrix.py"
BORDERS = "tests/test_halo.py"
STAGED = "tests/test_staging.py"
ROWS = "tests/test_register_tiles.py -k 'rows or queries'"

PLACES = (
    # ---- places in memory
    Mutant(
        "a place before a loop that changes what it is made of",
        "dsl/kernel/addresses.py",
        "names <= known and ",
        "",
        ADDRESSES,
    ),
    Mutant(
        "a place before a loop that stores what it is read from",
        "dsl/kernel/addresses.py",
        " and not any(isinstance(e, Load) for e in inside)",
        "",
        ADDRESSES,
    ),
    Mutant(
        "a place beside a name that changes",
        "dsl/kernel/addresses.py",
        " and first in fixed and ",
        " and ",
        ADDRESSES,
    ),
    Mutant(
        "a place that replaces no more than one quotient",
        "dsl/kernel/addresses.py",
        "if len(early) >= len(there & _quotients(early)):",
        "if not early:",
        ADDRESSES,
    ),
    Mutant(
        "a place beside a place that has no name any more",
        "dsl/kernel/addresses.py",
        "spelled[stmt.var] = made.value",
        "spelled[stmt.var] = stmt.value",
        ADDRESSES,
    ),
    # ---- what work-items exchange
    Mutant(
        "an exchange of what is no number",
        "dsl/kernel/verify_types.py",
        'if stmt.value.type is not F32:\n            yield f"work-items exchange',
        'if ():\n            yield f"work-items exchange',
        MATRIX,
    ),
    Mutant(
        "an exchange that not all reach",
        "dsl/kernel/verify_accesses.py",
        "(Barrier, Exchange, MatrixMultiply)",
        "(Barrier, MatrixMultiply)",
        MATRIX,
    ),
    Mutant(
        "an exchange with itself",
        "dsl/kernel/interpret_matrix.py",
        "^ distance",
        "^ 0",
        MATRIX,
    ),
    Mutant(
        "what an exchange gives is called settled",
        "dsl/kernel/settled.py",
        "Let | Declare | Exchange | For))}",
        "Let | Declare | For))}",
        "tests/test_kernel_settled.py",
    ),
    Mutant(
        "a name that an exchange has already",
        "dsl/kernel/rewrite.py",
        "isinstance(stmt, Let | Declare | Exchange | For)",
        "isinstance(stmt, Let | Declare | For)",
        MATRIX,
    ),
    # ---- borders
    Mutant(
        "a seam of joined values called a border",
        "dsl/graph/halo.py",
        "        if read in behind:",
        "        if ():",
        BORDERS,
    ),
    Mutant(
        "a copy many times as large",
        "dsl/graph/halo.py",
        'if sizes["growth"] > MOST_GROWTH:',
        "if ():",
        BORDERS,
    ),
    Mutant(
        "a copy of a view that is read through",
        "dsl/graph/halo.py",
        'if sizes["view"] and sizes["reads"] < READS_THAT_PAY:',
        "if ():",
        BORDERS,
    ),
    Mutant(
        "a copy of what others read too",
        "dsl/graph/halo.py",
        'if sizes["others"] and sizes["reads"] < READS_THAT_PAY:',
        "if ():",
        BORDERS,
    ),
    Mutant(
        "the copy and its tests weighed the wrong way round",
        "dsl/graph/halo.py",
        "return self.left, self.right",
        "return self.right, self.left",
        "tests/test_cost.py -k border",
    ),
    # ---- rows of a tile
    Mutant(
        "rows beyond the end that a whole tile would not have",
        "dsl/schedule/tactics.py",
        "    if whole:",
        "    if ():",
        ROWS,
    ),
    Mutant(
        "local memory for a factor that no work-items share",
        "dsl/schedule/operands.py",
        "if alone and setting",
        "if () and setting",
        "tests/test_register_tiles.py -k stays_in_memory",
    ),
    Mutant(
        "columns by their name",
        "dsl/schedule/staging.py",
        "frozenset().union(*(axes_of(p) for p, moving in pairs if moving))",
        "frozenset(wide).intersection(part.axes)",
        STAGED,
    ),
    Mutant(
        "a work-group of one waits",
        "dsl/kernel/lower.py",
        "several = prod(self.work.group_size) > 1",
        "several = True",
        STAGED,
    ),
    # ---- what is kept
    Mutant(
        "a cache's sound entry exchanged for another",
        "dsl/program/store.py",
        "if _sound(place, by_size) is not None:",
        "if ():",
        "tests/test_cache.py",
    ),
)
