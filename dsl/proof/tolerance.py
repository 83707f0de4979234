"""How far a result may be from the truth: computed for each program and each element.

In: a graph and the arrays it is run on. Out: for every output its f64 value r64 and the error that
rounding explains: |y - r64| <= k * max(|r32 - r64|, eps(dtype) * |r64|).

One f32 evaluation can be right by luck where another correct one is wrong, so |r32 - r64| is the
largest over several: the reference in the program's own arithmetic, and `SAMPLES` evaluations in
which every inexact operation is rounded up or down at random (Parker 1997, Monte Carlo arithmetic)
and sums run one by one, where errors grow most: in half of them in order, in half in a random one,
since large terms may cancel exactly in one order and not in another. Library functions err by as
much as their language allows (`ACCURACY`). Cancellation, overflow and ties are thus measured and
never guessed. So is whether an overflow is hidden: an infinity that the identity of a fold replaces
(a least value of infinities is one of them or the identity) is no number after it; and what depends
on how a value compares that is no number is found by comparing it at random.
`k` belongs to the numerics class of what was done to the program, and to nothing else.

A kernel may round to half precision on its way where the definition does not (weights before a
matrix instruction). That is in the graph `narrowed` (`narrow.py`), which is evaluated so too, and
held against its own f64 value: what it adds is what rounding does to it, not what else it computes.

    allowed = tolerance(graph, {"x": x}, {}, language="wgsl")
    check(allowed, outputs, Numerics.REASSOCIATED)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from sdlc.graph.expr import Apply, walk
from sdlc.graph.node import Graph, Reduce, expressions, topological
from sdlc.graph.numerics import Numerics as Numerics
from sdlc.graph.reference import Mode, Options, evaluate
from sdlc.graph.types import Array, DType
from sdlc.proof.roundings import repeated

Reals = npt.NDArray[np.float64]
Given = tuple[Graph, Mapping[str, Array], Mapping[str, Array]]
"""A graph with its inputs and weights."""
SAMPLES, MORE_SAMPLES = 8, 64
POINTS = 1 << 16
"""The most elements of a tensor with which evaluations are made at once."""


FACTORS: Mapping[Numerics, float] = MappingProxyType(
    {
        Numerics.EXACT: 4.0,
        Numerics.REASSOCIATED: 8.0,
        Numerics.RESCALED: 16.0,
        Numerics.BILINEAR: 64.0,
    }
)
"""`k` of each class: what was done to the arithmetic."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The error of a function: `ulps`, and as many again for each unit of |log2 result| as
    `growing` says, and `absolute` (in units of 1). A result that is a float is met exactly, as
    whole numbers divide without error; but not by a function that only comes near to its `limit`
    and is rounded to it."""

    ulps: float
    growing: float = 0.0
    absolute: float = 0.0
    limit: float | None = None


# OpenCL C 3.0 specification, section 7.4, full profile, single precision.
_OPENCL = {
    "div": Accuracy(2.5),
    "exp": Accuracy(3),
    "exp2": Accuracy(3),
    "log": Accuracy(3),
    "log2": Accuracy(3),
    "pow": Accuracy(16),
    "sqrt": Accuracy(3),
    "rsqrt": Accuracy(2),
    "sin": Accuracy(4),
    "cos": Accuracy(4),
    "tan": Accuracy(5),
    "atan": Accuracy(5),
    "tanh": Accuracy(5, limit=1),
    "erf": Accuracy(16, limit=1),
}
# WGSL, section 15.7.4 (accuracy of built-in functions); erf is not built in there and is expanded
# to exp and arithmetic.
_WGSL = {
    "div": Accuracy(2.5),
    "exp": Accuracy(3, growing=2),
    "exp2": Accuracy(3, growing=2),
    "log": Accuracy(3, absolute=2**-21),
    "log2": Accuracy(3, absolute=2**-21),
    "pow": Accuracy(3, growing=4, absolute=2**-21),
    "sqrt": Accuracy(5),
    "rsqrt": Accuracy(2),
    "sin": Accuracy(0, absolute=2**-11),
    "cos": Accuracy(0, absolute=2**-11),
    "tan": Accuracy(5, absolute=2**-11),
    "atan": Accuracy(4096),
    "tanh": Accuracy(5, absolute=1e-5, limit=1),
    "erf": Accuracy(16, absolute=2**-21, limit=1),
}
ACCURACY: Mapping[str, Mapping[str, Accuracy]] = MappingProxyType(
    {"numpy": {name: Accuracy(1) for name in _OPENCL}, "opencl": _OPENCL, "wgsl": _WGSL}
)


@dataclass(frozen=True, slots=True)
class RandomRounding:
    """A rounding for the reference: f32 (or, for a store to half precision, f16), up or down."""

    generator: np.random.Generator
    functions: Mapping[str, Accuracy]

    def __call__(self, op: str, value: Array) -> Array:
        exact = value.astype(np.float64)
        if op in self.functions:
            exact = self._blurred(exact, self.functions[op])
        return self._rounded(exact, np.dtype(np.float16 if op == "f16" else np.float32))

    def _rounded(self, exact: Reals, kind: np.dtype[Any]) -> Reals:
        """The nearest number of a kind, or by turns at random the next one on the other side. The
        bits of floats of one sign count them in the order of their sizes."""
        near = exact.astype(kind)
        size, nearest = np.abs(exact), np.abs(near)
        other = (size > nearest).astype(np.int8)
        other -= (size < nearest) & (nearest != np.inf)
        other *= self.generator.random(exact.shape, np.float32) < 0.5
        made = near.view(np.int16 if kind.itemsize == 2 else np.int32) + other
        rounded: Reals = made.view(kind).astype(np.float64)
        return rounded

    def _blurred(self, exact: Reals, accuracy: Accuracy) -> Reals:
        near = exact.astype(np.float32)
        size = np.abs(near)
        ulps = accuracy.ulps + accuracy.growing * np.abs(np.log2(np.maximum(size, 1e-37)))
        error = ulps * np.spacing(size) + accuracy.absolute
        met = (near == exact) & (size != accuracy.limit)
        error = np.where(met | ~np.isfinite(near), 0.0, error)
        return exact + error * self.generator.uniform(-1, 1, exact.shape)


@dataclass(frozen=True, slots=True)
class RandomOrder:
    """Orders of folds for evaluations along a first axis: by turns as they come and at random."""

    generator: np.random.Generator
    kept: bool
    """Whether the first is as it comes."""

    def __call__(self, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        times, count = shape[0], shape[-1]
        places = np.tile(np.arange(count), (times, 1))
        mixed = slice(1 if self.kept else 0, None, 2)
        places[mixed] = self.generator.permuted(places[mixed], axis=1)
        return places.reshape(times, *(1,) * (len(shape) - 2), count)


@dataclass(slots=True)
class RandomDoubt:
    """What is not known of values that are not finite: how one that is no number compares, and how
    two equal infinities do, which stand for different numbers. Such results, and what whole number
    comes of no number, are left as they are (no generator), or changed at random."""

    generator: np.random.Generator | None = None
    seen: bool = False

    def __call__(self, value: Array, args: Sequence[Array]) -> Array:
        floats = [a for a in args if a.dtype.kind == "f"]
        if not floats:
            return value
        doubtful = np.isnan(floats[0])
        if len(floats) == 2:
            one, other = floats
            doubtful = doubtful | np.isnan(other) | ((one == other) & np.isinf(one))
        if not doubtful.any():
            return value
        self.seen = True
        if self.generator is None:
            return value
        flipped = doubtful & (self.generator.random(doubtful.shape) < 0.5)
        changed: Array = np.bitwise_xor(value, flipped)
        return changed


@dataclass(frozen=True, slots=True)
class Allowed:
    """For one output: `exact` (r64), `error` (the bracket, before `k`), and where it is `defined`:
    some correct evaluation overflows elsewhere, or what it is depends there on how a value compares
    that is no number, so that any value is right."""

    exact: Reals
    error: Reals
    defined: npt.NDArray[np.bool_]
    dtype: DType
    surer: Callable[[], Allowed] | None = field(default=None, compare=False, repr=False)
    """The same by more evaluations: asked before a result is called wrong."""


def mode_of(graph: Graph) -> Mode:
    """The arithmetic that a program for this graph has."""
    types = {d for node in topological(graph) for d in node.dtypes}
    return Mode.F16 if DType.F16 in types else Mode.F32


def tolerance(
    graph: Graph,
    inputs: Mapping[str, Array],
    weights: Mapping[str, Array],
    language: str = "numpy",
    measured: bool = True,
) -> dict[str, Allowed]:
    """The allowed error of every output; `language` is a key of ACCURACY. Not `measured`: without
    the reference's own error, for a test of the reference."""
    return Tolerances(graph, inputs, weights, measured).of(language)


class Tolerances:
    """The same for several languages, which share what does not depend on their functions."""

    def __init__(
        self,
        graph: Graph,
        inputs: Mapping[str, Array],
        weights: Mapping[str, Array],
        measured: bool = True,
        narrowed: Graph | None = None,
    ) -> None:
        self._given = (graph, inputs, weights)
        self._exact = evaluate(*self._given, Mode.F64)
        self._own = evaluate(*self._given, mode_of(graph)) if measured else None
        self._narrowed = None if narrowed is None else (narrowed, inputs, weights)
        self._known: list[tuple[Mapping[str, Accuracy], dict[str, Allowed]]] = []

    def of(self, language: str) -> dict[str, Allowed]:
        """The allowed error of every output in a language."""
        called = operators(self._given[0])
        functions = {op: a for op, a in ACCURACY[language].items() if op in called}
        for known, found in self._known:
            if known == functions:
                return found
        few = self._by(functions, SAMPLES)
        more = cache(partial(self._by, functions, MORE_SAMPLES))
        made = {name: replace(few[name], surer=partial(_of, more, name)) for name in few}
        self._known.append((functions, made))
        return made

    def _by(self, functions: Mapping[str, Accuracy], count: int) -> dict[str, Allowed]:
        samples = _samples(self._given, functions, count)
        if self._own is not None:
            samples = {n: np.concatenate([self._own[n][None], s]) for n, s in samples.items()}
        types = {name: node.dtypes[field] for name, node, field in self._given[0].outputs}
        found = {n: _allowed(self._exact[n], samples[n], types[n]) for n in types}
        if self._narrowed is None:
            return found
        return _widened(found, self._narrowed, functions, count)


def _widened(
    allowed: Mapping[str, Allowed], given: Given, functions: Mapping[str, Accuracy], count: int
) -> dict[str, Allowed]:
    """Errors at least as large as those of the narrowed graph beside its own f64 value. Where it
    overflows, that is no excuse."""
    exact, samples = evaluate(*given, Mode.F64), _samples(given, functions, count)
    found = {}
    for name, limit in allowed.items():
        with np.errstate(invalid="ignore"):
            spread = np.abs(samples[name].astype(np.float64) - exact[name].astype(np.float64))
        spread = np.where(limit.defined & np.isfinite(spread), spread, 0.0).max(axis=0)
        found[name] = replace(limit, error=np.maximum(limit.error, spread))
    return found


def operators(graph: Graph) -> set[str]:
    """The names of all operators that a graph's expressions, and those of its monoids, apply."""
    nodes = tuple(topological(graph))
    monoids = [e for n in nodes if isinstance(n, Reduce) for e in n.monoid.combine]
    own = [e for n in nodes for e in expressions(n)]
    return {e.op for e in walk(*own, *monoids) if isinstance(e, Apply)}


def _of(more: Callable[[], Mapping[str, Allowed]], name: str) -> Allowed:
    return more()[name]


def _samples(
    given: Given,
    functions: Mapping[str, Accuracy],
    count: int,
) -> dict[str, Array]:
    """The outputs of `count` evaluations that round at random, along a first axis, as f64: no
    number where values that are none decide. Small graphs are evaluated several times at once."""
    graph, inputs, weights = given
    points = max(1, max((prod(n.shape) for n in topological(graph)), default=1))
    together = max(n for n in (1, 2, 4, SAMPLES) if n * points <= max(POINTS, points))
    several = repeated(graph, together)
    made = []
    for seed in range(count // together):
        run = partial(_sampled, (several, inputs, weights), functions, seed)
        plain = RandomDoubt()
        once = run(plain)
        again = run(RandomDoubt(np.random.default_rng(seed))) if plain.seen else once
        made.append({n: np.where(once[n] == again[n], once[n], np.nan) for n in once})
    return {name: np.concatenate([m[name] for m in made]) for name in made[0]}


def _sampled(
    given: Given, functions: Mapping[str, Accuracy], seed: int, doubt: RandomDoubt
) -> dict[str, Array]:
    """One evaluation; the same roundings and orders for the same seed, whatever is in doubt."""
    generator = np.random.default_rng(seed)
    options = Options(
        rounding=RandomRounding(generator, functions),
        order=RandomOrder(generator, seed % 2 == 0),
        doubt=doubt,
    )
    return evaluate(*given, mode_of(given[0]), options)


def _allowed(exact: Array, others: Array, dtype: DType) -> Allowed:
    r64, samples = exact.astype(np.float64), others.astype(np.float64)
    if not dtype.is_float:
        defined = np.asarray(np.isfinite(samples).all(axis=0))
        error = np.where(defined, np.abs(samples - r64), 0.0).max(axis=0)
        return Allowed(r64, error, defined, dtype)
    facts = np.finfo(np.float16 if dtype is DType.F16 else np.float32)
    defined = np.isfinite(samples).all(axis=0) & (np.abs(r64) <= float(facts.max))
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.where(defined, np.abs(samples - r64), 0.0).max(axis=0)
    unit = float(facts.eps) * np.where(defined, np.abs(r64), 0.0)
    # Drivers may flush numbers below the smallest normal f32 to zero.
    tiny = float(np.finfo(np.float32).tiny)
    return Allowed(r64, np.maximum(np.maximum(spread, unit), tiny), defined, dtype)


def check(
    allowed: Mapping[str, Allowed], got: Mapping[str, Array], numerics: Numerics, who: str = ""
) -> None:
    """Raises AssertionError naming the worst element of the first output that is too far off."""
    for name, limit in allowed.items():
        message = disagreement(limit, got[name], numerics)
        assert message is None, f"{who + ': ' if who else ''}output `{name}`: {message}"


def by_norm(allowed: Allowed) -> Allowed:
    """A bilinear algorithm adds and subtracts the elements of a tile, so that each has the error of
    the largest: its bounds are by norm, and none holds by element (Higham 2002, chapter 23)."""
    return replace(allowed, error=np.full_like(allowed.error, allowed.error.max(initial=0)))


def disagreement(allowed: Allowed, got: Array, numerics: Numerics) -> str | None:
    """What is wrong with an output, or None. Eight samples may all round one way where another way
    was as right: what they do not explain is held against more before it is wrong."""
    message = _difference(allowed, got, numerics)
    if message is None or allowed.surer is None:
        return message
    return _difference(allowed.surer(), got, numerics)


def _difference(allowed: Allowed, got: Array, numerics: Numerics) -> str | None:
    if got.shape != allowed.exact.shape:
        return f"shape {got.shape}, expected {allowed.exact.shape}"
    if numerics is Numerics.BILINEAR:
        allowed = by_norm(allowed)
    k = FACTORS[numerics] if allowed.dtype.is_float else 1.0
    value = got.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(value - allowed.exact)
        wrong = allowed.defined & ~(distance <= k * allowed.error)
    if not wrong.any():
        return None
    with np.errstate(over="ignore"):
        ratio = np.nan_to_num(distance / np.maximum(allowed.error, 1e-300), nan=np.inf)
    excess = np.where(wrong, ratio, -1.0)
    worst = np.unravel_index(int(excess.argmax()), excess.shape)
    return (
        f"{int(wrong.sum())} of {wrong.size} elements wrong, the worst at "
        f"{[int(i) for i in worst]}: got {value[worst]:.9g}, expected "
        f"{allowed.exact[worst]:.9g} ± {k * allowed.error[worst]:.3g} ({numerics.name.lower()})"
    )
