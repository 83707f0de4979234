"""Matching of a pattern on the graph: higher-order unification on index notation.

In: a pattern (a graph whose inputs are metavariables) and a node. Out: a `Match`, or why there is
none. A metavariable that is read at distinct axes, `x[s, t]`, stands for any expression in what
those axes are matched to and in *ambient* axes, which are those of the node that the pattern does
not mention (Miller's pattern fragment: such a match is unique). One that is read at computed
places, `x[c, row + i - 1] else 0`, stands for any tensor that is read at equal places.
Invariant: with the metavariables replaced by what they are bound to, the pattern is the node, up
to the unfolding of maps and the order of the operands of + * min max.

    sum over k of x[i, k] * y[k, j]   on   o[b, i, j] = sum over t of exp(p[b, i, t]) * v[t, j]
    gives x := exp(p[b, _, _]), y := v, and the ambient axis b
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations

from sdlc.graph.affine import affine
from sdlc.graph.expr import Apply, Axis, Expr, Index, Literal, Read, i32, rebuild, substitute
from sdlc.graph.match_show import axis_name, node_name, shown
from sdlc.graph.match_solve import State, Where, solve
from sdlc.graph.node import Input, Map, Node, Reduce
from sdlc.graph.rewrite import read_through

COMMUTE = frozenset({"add", "mul", "min", "max", "eq", "ne", "and", "or"})
LETTERS = "ijklmn"
PROBE = 1000
"""Extents from here on stand for unknown sizes (see `elaborate_rule`)."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """The left side of an equation; every map but the root is unfolded.

    `probes` names the sizes that are not known yet by the extent that stands for them.
    """

    root: Map | Reduce
    variables: tuple[Input, ...]
    probes: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bound:
    """What a metavariable stands for: `body` at the point `params`, in ambient axes."""

    params: tuple[Axis, ...]
    body: Expr


@dataclass(frozen=True, slots=True)
class Match:
    """`axes` leads from the pattern's axes to the node's; `inside` are the nodes that the pattern
    covers besides the root."""

    root: Map | Reduce
    axes: Mapping[Axis, Axis]
    sizes: Mapping[str, int]
    bound: Mapping[str, Bound]
    inside: frozenset[Node]

    @property
    def wide(self) -> bool:
        """Whether something that it covers must not be rounded to half precision."""
        return any(isinstance(n, Map | Reduce) and n.wide for n in (self.root, *self.inside))


@dataclass(slots=True)
class Trace:
    """The mismatch that was found farthest into the pattern."""

    depth: int = -1
    words: Callable[[], str] | None = None

    @property
    def why(self) -> str:
        return self.words() if self.words is not None else "it does not match"

    def note(self, state: State, why: Callable[[], str]) -> None:
        if state.depth > self.depth:
            self.depth, self.words = state.depth, why


def make_pattern(root: Node, variables: tuple[Input, ...]) -> Pattern:
    """The pattern of an elaborated left side."""
    assert isinstance(root, Map | Reduce)
    return Pattern(_unfolded(root), variables)


def _unfolded(node: Map | Reduce) -> Map | Reduce:
    if isinstance(node, Map):
        return replace(node, body=_unfold(node.body))
    return replace(node, lift=tuple(_unfold(e) for e in node.lift))


def _unfold(expr: Expr) -> Expr:
    """The expression without reads of maps, reductions' own expressions included."""

    def change(e: Expr) -> Expr | None:
        if isinstance(e, Read) and isinstance(e.source, Map):
            return _unfold(read_through(e, e.source))
        if isinstance(e, Read) and isinstance(e.source, Reduce):
            source = _unfolded(e.source)
            return None if source is e.source else _unfold(replace(e, source=source))
        return None

    return rebuild(expr, change)


def matches(pattern: Pattern, node: Map | Reduce, trace: Trace) -> Iterator[Match]:
    """Every way in which the pattern is the node; `trace` says what was in the way."""
    matcher = _Matcher(pattern, node, trace)
    for state in matcher.root():
        for solved in solve(state, pattern.root.axes, node.axes, matcher):
            bound = matcher.bind(solved)
            if bound is not None:
                names = {
                    name: solved.sizes[p] for p, name in pattern.probes.items() if p in solved.sizes
                }
                yield Match(node, solved.axes, names, bound, solved.inside)


class _Matcher:
    """One pattern on one node. Methods that yield are choices; the order is that of trying."""

    def __init__(self, pattern: Pattern, node: Map | Reduce, trace: Trace) -> None:
        self.pattern, self.node, self.trace = pattern, node, trace
        self.free = frozenset(node.axes)
        self.count = 0

    def fail(self, state: State, why: Callable[[], str]) -> None:
        self.trace.note(state, why)

    # ---- nodes ---------------------------------------------------------------------------------

    def root(self) -> Iterator[State]:
        start = State()
        match self.pattern.root, self.node:
            case Map() as p, Map() as t:
                yield from self.unify(p.body, t.body, start)
            case Reduce() as p, Reduce() as t:
                yield from self.folds(p, t, p.lift, t.lift, start)

    def folds(
        self,
        p: Reduce,
        t: Reduce,
        wanted: tuple[Expr, ...],
        given: tuple[Expr, ...],
        state: State,
    ) -> Iterator[State]:
        """Reductions over axes that correspond in some order; where the other has more, those of
        one element are no axes."""
        if p.monoid is not t.monoid:
            self.fail(
                state, lambda: f"`{t.origin.name}` folds {t.monoid.name}, not {p.monoid.name}"
            )
            return
        reduced = t.over
        if len(p.over) < len(t.over):
            reduced = tuple(a for a in t.over if a.extent > 1)
            ones: dict[Axis, Expr] = {a: i32(0) for a in t.over if a.extent == 1}
            given = tuple(substitute(e, ones) for e in given)
        if len(p.over) != len(reduced):
            self.fail(
                state,
                lambda: f"`{t.origin.name}` reduces {_axes(t.over)}, not {len(p.over)}",
            )
            return
        for over in permutations(reduced):
            paired: State | None = state
            for mine, other in zip(p.over, over, strict=True):
                paired = paired and self.pair(mine, other, paired)
            if paired is not None:
                yield from self.all(wanted, given, paired)

    def pair(self, p: Axis, t: Axis, state: State) -> State | None:
        """`p` is `t`, if their extents allow it."""
        sized = self.extent(p.extent, t.extent, state)
        if sized is None:
            name = axis_name(t)
            self.fail(
                state, lambda: f"the extent of `{name}` is {t.extent}, not {self.size(p.extent)}"
            )
            return None
        return replace(sized, axes={**sized.axes, p: t})

    def extent(self, p: int, t: int, state: State) -> State | None:
        """Binds a size that is not known yet."""
        if p not in self.pattern.probes:
            lenient = bool(self.pattern.probes) and p >= PROBE
            return state if p == t or lenient else None
        known = state.sizes.get(p)
        if known is None:
            return replace(state, sizes={**state.sizes, p: t})
        return state if known == t else None

    def size(self, p: int) -> str:
        return f"`{self.pattern.probes[p]}`" if p in self.pattern.probes else str(p)

    # ---- expressions ---------------------------------------------------------------------------

    def all(self, ps: tuple[Expr, ...], ts: tuple[Expr, ...], state: State) -> Iterator[State]:
        if not ps:
            yield state
            return
        for first in self.unify(ps[0], ts[0], state):
            yield from self.all(ps[1:], ts[1:], first)

    def unify(self, p: Expr, t: Expr, state: State) -> Iterator[State]:
        match p:
            case Read(source=Input()):
                yield from self.variable(p, t, state)
            case Read():
                yield from self.folded(p, t, state)
            case Literal():
                yield from self.literal(p, t, state)
            case Index(axis=axis):
                yield from self.index(axis, t, state)
            case Apply():
                yield from self.apply(p, t, state)

    def apply(self, p: Apply, t: Expr, state: State) -> Iterator[State]:
        t, state = self.expose(t, state)
        if not isinstance(t, Apply) or t.op != p.op:
            self.fail(state, lambda: f"`{shown(t)}` is not `{shown(p)}`")
            return
        deeper = replace(state, depth=state.depth + 1)
        yield from self.all(p.args, t.args, deeper)
        if p.op in COMMUTE and p.args[0] is not p.args[1]:
            yield from self.all(p.args, t.args[::-1], deeper)

    def literal(self, p: Literal, t: Expr, state: State) -> Iterator[State]:
        t, state = self.expose(t, state)
        same = isinstance(t, Literal) and t.dtype is p.dtype
        if same and (t.value == p.value or self.pattern.probes):  # type: ignore[union-attr]
            yield replace(state, depth=state.depth + 1)
            return
        self.fail(state, lambda: f"`{shown(t)}` is not {p.value:.9g}")

    def index(self, axis: Axis, t: Expr, state: State) -> Iterator[State]:
        if not isinstance(t, Index):
            self.fail(state, lambda: f"`{shown(t)}` is no axis")
            return
        yield from self.same_axis(axis, t.axis, state)

    def same_axis(self, p: Axis, t: Axis, state: State) -> Iterator[State]:
        known = state.axes.get(p)
        if known is None and t in self.free and t not in state.axes.values():
            found = self.pair(p, t, state)
            if found is not None:
                yield found
        elif known == t:
            yield state
        else:
            self.fail(state, lambda: f"`{axis_name(t)}` does not play the part of `{axis_name(p)}`")

    def folded(self, p: Read, t: Expr, state: State) -> Iterator[State]:
        """A field of a reduction: the same field of an equal reduction."""
        t, state = self.expose(t, state)
        if not isinstance(t, Read) or not isinstance(t.source, Reduce) or t.fill is not None:
            self.fail(state, lambda: f"`{shown(t)}` is no reduction")
            return
        assert isinstance(p.source, Reduce)
        if p.field != t.field:
            names = t.source.monoid.fields
            self.fail(
                state, lambda: f"`{shown(t)}` is the field {names[t.field].name} of its reduction"
            )
            return
        key, value = (p.source, p.indices), (t.source, t.indices)
        if state.folds.get(key) == value:
            yield state
            return
        inside = state.inside | {t.source}
        deeper = replace(
            state, depth=state.depth + 1, inside=inside, folds={**state.folds, key: value}
        )
        one, other = self.entered(p.source, p.indices), self.entered(t.source, t.indices)
        yield from self.folds(one, other, one.lift, other.lift, deeper)

    def entered(self, node: Reduce, indices: tuple[Expr, ...]) -> Reduce:
        """A reduction at one point: its axes replaced, those that it reduces renamed apart."""
        self.count += 1
        over = tuple(Axis(f"{a.name}${self.count}", a.extent) for a in node.over)
        places: dict[Axis, Expr] = dict(zip(node.axes, indices, strict=True))
        places |= {a: Index(b) for a, b in zip(node.over, over, strict=True)}
        lift = tuple(substitute(e, places) for e in node.lift)
        return Reduce((), over, node.monoid, lift, node.dtypes, node.origin)

    def expose(self, t: Expr, state: State) -> tuple[Expr, State]:
        """`t` with maps unfolded until it shows an operator."""
        while isinstance(t, Read) and isinstance(t.source, Map):
            state = replace(state, inside=state.inside | {t.source})
            t = read_through(t, t.source)
        return t, state

    # ---- metavariables -------------------------------------------------------------------------

    def variable(self, p: Read, t: Expr, state: State) -> Iterator[State]:
        if p.dtype is not t.dtype:
            self.fail(state, lambda: f"`{shown(t)}` is {t.dtype.value}, not {p.dtype.value}")
            return
        axes = [i.axis for i in p.indices if isinstance(i, Index)]
        deeper = replace(state, depth=state.depth + 1)
        if len(set(axes)) == len(p.indices) and p.fill is None:
            yield replace(deeper, flexible=(*state.flexible, (p, t)))
        else:
            yield from self.places(p, t, deeper)

    def places(self, p: Read, t: Expr, state: State) -> Iterator[State]:
        """A metavariable at computed places: a tensor that is read at the same ones."""
        if not isinstance(t, Read):
            self.fail(state, lambda: f"`{shown(t)}` is no element of a tensor")
            return
        if (p.fill is None) != (t.fill is None):
            wanted = "with" if t.fill is None else "without"
            self.fail(state, lambda: f"`{shown(t)}` is not read {wanted} an `else`")
        elif p.fill is None or t.fill is None:
            yield from self.positions(p, t, 0, (), state)
        else:
            for filled in self.unify(p.fill, t.fill, state):
                yield from self.positions(p, t, 0, (), filled)
        if isinstance(t.source, Map) and t.fill is None:
            inside = state.inside | {t.source}
            yield from self.places(p, read_through(t, t.source), replace(state, inside=inside))

    def positions(
        self, p: Read, t: Read, at: int, taken: tuple[int, ...], state: State
    ) -> Iterator[State]:
        """Which dimension of the tensor each of the metavariable's is."""
        if at == len(p.indices):
            yield replace(state, fixed=(*state.fixed, Where(p, t, taken)))
            return
        for position, index in enumerate(t.indices):
            if position in taken:
                continue
            sized = self.extent(p.source.shape[at], t.source.shape[position], state)
            if sized is None:
                self.fail(state, lambda: f"`{node_name(t.source)}` is not as long as `{shown(p)}`")
                continue
            for found in self.place(p.indices[at], index, sized):
                deeper = replace(found, depth=found.depth + 1)
                yield from self.positions(p, t, at + 1, (*taken, position), deeper)

    def place(self, p: Expr, t: Expr, state: State) -> Iterator[State]:
        """Equal indices: as affine forms where both are."""
        one, other = affine(p), affine(t)
        if one is None or other is None:
            yield from self.unify(p, t, state)
            return
        if one[1] != other[1] or sorted(one[0].values()) != sorted(other[0].values()):
            self.fail(state, lambda: f"the index `{shown(t)}` is not `{shown(p)}`")
            return
        yield from self.terms(tuple(one[0].items()), tuple(other[0].items()), state)

    def terms(
        self,
        ps: tuple[tuple[Axis, int], ...],
        ts: tuple[tuple[Axis, int], ...],
        state: State,
    ) -> Iterator[State]:
        if not ps:
            yield state
            return
        axis, coefficient = ps[0]
        for at, (other, factor) in enumerate(ts):
            if factor == coefficient:
                for found in self.same_axis(axis, other, state):
                    yield from self.terms(ps[1:], (*ts[:at], *ts[at + 1 :]), found)

    # ---- what the metavariables are ------------------------------------------------------------

    def bind(self, state: State) -> dict[str, Bound] | None:
        """What every metavariable stands for; None where two places disagree."""
        found: dict[str, Bound] = {}
        for p, t in state.flexible:
            source = p.source
            assert isinstance(source, Input)
            params = parameters(source)
            axes = [state.axes[i.axis] for i in p.indices if isinstance(i, Index)]
            places: dict[Axis, Expr] = {a: Index(b) for a, b in zip(axes, params, strict=True)}
            if not self.add(found, source, Bound(params, substitute(t, places)), state):
                return None
        for where in state.fixed:
            source = where.pattern.source
            assert isinstance(source, Input)
            params = parameters(source)
            indices = list(where.target.indices)
            for param, position in zip(params, where.positions, strict=True):
                indices[position] = Index(param)
            body = Read(where.target.source, tuple(indices), where.target.field, None)
            if not self.add(found, source, Bound(params, body), state):
                return None
        return found

    def add(self, found: dict[str, Bound], source: Input, bound: Bound, state: State) -> bool:
        known = found.setdefault(source.name, bound)
        if known.body is bound.body or _plain(known.body) is _plain(bound.body):
            return True
        name = node_name(source)
        why = f"`{name}` is `{shown(known.body)}` in one place and `{shown(bound.body)}`"
        self.fail(replace(state, depth=state.depth + 1), lambda: f"{why} in another")
        return False


def _axes(axes: tuple[Axis, ...]) -> str:
    return "1 axis" if len(axes) == 1 else f"{len(axes)} axes"


def parameters(variable: Input) -> tuple[Axis, ...]:
    """The axes at which a metavariable's value is written down."""
    return tuple(
        Axis(f"{LETTERS[k % len(LETTERS)]}${k}{variable.name}", n)
        for k, n in enumerate(variable.extents)
    )


def _plain(expr: Expr) -> Expr:
    """The expression with all maps unfolded, for comparison."""

    def change(e: Expr) -> Expr | None:
        if isinstance(e, Read) and isinstance(e.source, Map) and e.fill is None:
            return _plain(read_through(e, e.source))
        return None

    return rebuild(expr, change)
