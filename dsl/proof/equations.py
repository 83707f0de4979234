"""Whether an equation holds: a search for sizes and inputs at which its sides differ.

In: a rule that is an equation. Out: the number of instances at which its sides agree, or an error
that shows one at which they do not, as small as could be found. Invariant: sides differ only where
the difference is more than what rounding and the rule's numerics class explain (`tolerance`).

    check_equation(rule, sources)      # SdlError E048 with sizes, inputs and both values
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import prod

import numpy as np

from sdlc.graph.node import Graph
from sdlc.graph.reference import Mode, evaluate
from sdlc.graph.rules import Rule, Sizes, always, rewrite
from sdlc.graph.types import Array, DType
from sdlc.language.diagnostics import Diagnostic, SdlError
from sdlc.proof.tolerance import Numerics, disagreement, mode_of, tolerance

EXTENTS = (1, 2, 3, 5)
"""Sizes that are tried, the smallest instances first."""
MOST_INSTANCES = 40
LARGEST = 4096
"""Elements of the largest operand of an instance that is tried."""
SEEDS = 3
NOT_FOR_THESE_SIZES = "E037"
CLOSE = 1e-12
"""Relative distance in f64 below which sides are equal beyond doubt."""

Arrays = dict[str, Array]


@dataclass(frozen=True, slots=True)
class CounterExample:
    """Sizes and inputs at which the sides differ, most at the element `where`."""

    sizes: Sizes
    inputs: Mapping[str, Array]
    where: tuple[int, ...]
    left: float
    right: float


def check_equation(rule: Rule, sources: Mapping[str, str]) -> int:
    """How many instances were compared. Raises SdlError where the rule is no rule: E047 (the sides
    have different shapes, or the left side does not match itself), E048 (they differ)."""
    assert rule.sides is not None
    count = 0
    for sizes in _instances(rule):
        try:
            left, right = rule.sides(sizes, DType.F32)
        except SdlError as error:
            if all(d.code == NOT_FOR_THESE_SIZES for d in error.diagnostics):
                continue
            raise
        _check_shapes(rule, left, right, sizes, sources)
        if sizes in rule.examples:
            _check_match(rule, left, sizes, sources)
        found = _compare(rule, left, right, sizes)
        if found is not None:
            raise SdlError((_differ(rule, _shrunk(rule, left, right, found)),), sources)
        count += 1
    return count


def _instances(rule: Rule) -> Iterator[Sizes]:
    """The examples, and small sizes for the same names, from the smallest instance on."""
    names = sorted(rule.examples[0]) if rule.examples else []
    combinations = sorted(product(EXTENTS, repeat=len(names)), key=lambda c: (prod(c), c))
    step = -(-len(combinations) // MOST_INSTANCES)
    yield from (dict(zip(names, c, strict=True)) for c in combinations[::step])
    yield from rule.examples


def _check_shapes(
    rule: Rule, left: Graph, right: Graph, sizes: Sizes, sources: Mapping[str, str]
) -> None:
    one, other = left.outputs[0][1].shape, right.outputs[0][1].shape
    if one != other:
        message = f"the sides of `{rule.name}` have different shapes"
        label = f"{list(one)} on the left, {list(other)} on the right"
        help = "both sides must give the same tensor"
        raise SdlError((_diagnostic(rule, "E047", message, label, sizes, help),), sources)


def _check_match(rule: Rule, left: Graph, sizes: Sizes, sources: Mapping[str, str]) -> None:
    """The left side of an example matches itself; at other sizes it may fold to something else."""
    _, report = rewrite(left, [rule], always)
    if not report.fired(rule.name) and not _conditional(report.refusals(rule.name)):
        message = f"the left side of `{rule.name}` does not match itself"
        why = next(iter(report.refusals(rule.name)), "it computes nothing")
        help = "the left side reads every parameter, and the right side does not hold the left one"
        raise SdlError((_diagnostic(rule, "E047", message, why, sizes, help),), sources)


def _conditional(refusals: Mapping[str, int]) -> bool:
    """Whether the rule's own conditions on sizes were in the way: those end with the sizes."""
    return any(why.endswith(")") and " = " in why for why in refusals)


def _compare(rule: Rule, left: Graph, right: Graph, sizes: Sizes) -> CounterExample | None:
    for seed in range(SEEDS):
        inputs = _values(left, seed)
        if max((a.size for a in inputs.values()), default=0) > LARGEST:
            return None
        found = _difference(rule, left, right, inputs)
        if found is not None:
            return CounterExample(sizes, inputs, *found)
    return None


def _values(graph: Graph, seed: int) -> Arrays:
    """Small whole numbers first, which are easy to follow, then normal ones."""
    generator = np.random.default_rng(seed)
    made: Arrays = {}
    for node in graph.inputs:
        whole = generator.integers(-2, 3, node.extents)
        real = generator.standard_normal(node.extents)
        made[node.name] = (real if seed and node.dtype.is_float else whole).astype(node.dtype.numpy)
    return made


def _difference(
    rule: Rule, left: Graph, right: Graph, inputs: Arrays
) -> tuple[tuple[int, ...], float, float] | None:
    """The element at which the sides differ most, and both values; None where they agree."""
    one = evaluate(left, inputs, {}, Mode.F64)["out"].astype(np.float64)
    other = evaluate(right, inputs, {}, Mode.F64)["out"].astype(np.float64)
    distance = np.abs(one - other)
    if np.isfinite(distance).all() and (distance <= CLOSE * np.abs(one).max(initial=0)).all():
        return None
    allowed = tolerance(left, inputs, {})["out"]
    numerics = Numerics[rule.numerics.name]
    got = evaluate(right, inputs, {}, mode_of(right))["out"]
    if disagreement(allowed, got, numerics) is None:
        return None
    worst = np.unravel_index(int(np.nan_to_num(distance, nan=np.inf).argmax()), distance.shape)
    return tuple(int(i) for i in worst), float(one[worst]), float(other[worst])


# ---- shrinking -----------------------------------------------------------------------------------


def _shrunk(rule: Rule, left: Graph, right: Graph, found: CounterExample) -> CounterExample:
    """The same sizes, with as many zeros and then ones in the inputs as leave a difference."""
    best = found
    for simple in (0, 1):
        for name in best.inputs:
            for at in np.ndindex(best.inputs[name].shape):
                if best.inputs[name][at] in (0, simple):
                    continue
                inputs = {n: a.copy() for n, a in best.inputs.items()}
                inputs[name][at] = simple
                still = _difference(rule, left, right, inputs)
                if still is not None:
                    best = CounterExample(best.sizes, inputs, *still)
    return best


# ---- words ---------------------------------------------------------------------------------------


def _differ(rule: Rule, found: CounterExample) -> Diagnostic:
    message = f"the sides of `{rule.name}` differ"
    at = f"[{', '.join(map(str, found.where))}]"
    label = f"at {at}: {found.left:.9g} on the left, {found.right:.9g} on the right"
    made = _diagnostic(rule, "E048", message, label, found.sizes, "correct one of the sides")
    shown = tuple((name, _text(array)) for name, array in found.inputs.items())
    return replace(made, notes=(*made.notes, *shown))


def _diagnostic(
    rule: Rule, code: str, message: str, label: str, sizes: Sizes, help: str
) -> Diagnostic:
    given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    return Diagnostic(code, message, rule.span, label, (("with", given),), help)


def _text(array: Array) -> str:
    return " ".join(np.array2string(array, precision=4, separator=", ", threshold=64).split())
