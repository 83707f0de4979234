"""The arena planner: a published example and the invariants of every strategy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlc.program.ejection import Lifetime, within
from sdlc.program.memory import (
    STRATEGIES,
    arena_size,
    conflicts,
    greedy_by_area,
    greedy_by_breadth,
    greedy_by_life,
    greedy_by_size,
    naive,
    plan_memory,
)

# arXiv 2001.03288, figure 1: (first operator, last operator, bytes).
PUBLISHED = (
    (0, 1, 32),
    (1, 4, 28),
    (2, 5, 36),
    (3, 5, 16),
    (4, 5, 8),
    (5, 7, 64),
    (6, 8, 10),
    (7, 8, 40),
)


def lifetimes_of(rows: tuple[tuple[int, int, int], ...]) -> tuple[Lifetime, ...]:
    return tuple(Lifetime(f"t{i}", *row) for i, row in enumerate(rows))


@st.composite
def lifetimes(draw: st.DrawFn) -> tuple[Lifetime, ...]:
    rows = draw(
        st.lists(st.tuples(st.integers(0, 12), st.integers(0, 5), st.integers(0, 300)), max_size=24)
    )
    return lifetimes_of(tuple((first, first + length, n) for first, length, n in rows))


def test_published_example_reaches_its_lower_bound() -> None:
    plan = plan_memory(lifetimes_of(PUBLISHED), alignment=1)
    assert (plan.arena, plan.lower_bound, plan.naive) == (124, 124, 234)


def test_a_chain_needs_two_buffers() -> None:
    """What a straight network needs: the input and the output of one dispatch at a time."""
    chain = lifetimes_of(tuple((i, i + 1, 64) for i in range(50)))
    plan = plan_memory(chain, alignment=16)
    assert (plan.arena, plan.naive) == (128, 50 * 64)


def test_long_shortcuts_lie_beside_what_comes_and_goes() -> None:
    """A chain with two shortcuts: what lives long has a place at the bottom."""
    chain = tuple((t, t + 1, size) for t, size in enumerate((6, 1, 4, 6, 4, 8)))
    tensors = lifetimes_of((*chain, (0, 6, 1), (2, 4, 2)))
    others = (greedy_by_size, greedy_by_breadth, greedy_by_area)
    plan = plan_memory(tensors, alignment=1)
    assert (plan.strategy, plan.arena, plan.lower_bound) == ("greedy_by_life", 13, 13)
    assert all(arena_size(tensors, strategy(tensors)) > 13 for strategy in others)


def test_depthwise_separable_network_reaches_its_lower_bound() -> None:
    """MobileNet v1's activations (f32, 224x224): facts give a lower bound of 4.594 MiB."""
    plan = plan_memory(_mobilenet_v1(), alignment=1)
    assert plan.lower_bound == plan.arena
    assert round(plan.lower_bound / 2**20, 3) == 4.594


def _mobilenet_v1() -> tuple[Lifetime, ...]:
    shapes, side = [(112, 32)], 112
    for channels_in, channels_out, stride in (
        (32, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
    ):
        side //= stride
        shapes += [(side, channels_in), (side, channels_out)]
    rows = tuple((i, i + 1, s * s * c * 4) for i, (s, c) in enumerate(shapes))
    return lifetimes_of(rows)


def test_a_gap_is_filled_before_the_arena_grows() -> None:
    rows = ((0, 0, 100), (0, 9, 60), (1, 9, 40), (1, 2, 50))
    for strategy in (greedy_by_size, greedy_by_breadth):
        given_lifetimes = lifetimes_of(rows)
        assert arena_size(given_lifetimes, strategy(given_lifetimes)) == 160


@given(lifetimes(), st.sampled_from([1, 4, 16, 256]))
def test_plan_invariants(tensors: tuple[Lifetime, ...], alignment: int) -> None:
    plan = plan_memory(tensors, alignment)
    assert conflicts(tensors, plan.offsets) == []
    assert all(offset % alignment == 0 and offset >= 0 for offset in plan.offsets.values())
    assert plan.lower_bound <= plan.arena <= plan.naive
    assert set(plan.offsets) == {t.name for t in tensors}


@given(lifetimes(), st.sampled_from([strategy for _, strategy in STRATEGIES]))
def test_every_strategy_is_legal_alone(tensors: tuple[Lifetime, ...], strategy: object) -> None:
    assert callable(strategy)
    offsets = strategy(tensors)
    assert conflicts(tensors, offsets) == []
    assert arena_size(tensors, offsets) <= sum(t.nbytes for t in tensors)


@st.composite
def filled(draw: st.DrawFn) -> tuple[int, tuple[Lifetime, ...]]:
    """A height and lifetimes that fill it at all times: a rectangle cut again and again."""
    height, count = draw(st.integers(2, 60)), draw(st.integers(2, 30))
    pieces = [(0, count - 1, height)]
    for _ in range(draw(st.integers(1, 24))):
        first, last, size = pieces.pop(draw(st.integers(0, len(pieces) - 1)))
        if draw(st.booleans()) and size > 1:
            part = draw(st.integers(1, size - 1))
            pieces += [(first, last, part), (first, last, size - part)]
        elif last > first:
            end = draw(st.integers(first, last - 1))
            pieces += [(first, end, size), (end + 1, last, size)]
        else:
            pieces.append((first, last, size))
    return height, lifetimes_of(tuple(draw(st.permutations(pieces))))


@given(filled())
def test_the_search_finds_places_where_everything_is_filled(
    case: tuple[int, tuple[Lifetime, ...]],
) -> None:
    """There is a plan at the bound; what greedy strategies make takes up to half as much again."""
    height, tensors = case
    plan = plan_memory(tensors, alignment=1)
    assert plan.lower_bound == height
    assert plan.arena <= 1.02 * height


def test_the_search_reaches_a_bound_that_greedy_strategies_miss() -> None:
    lives = ((7, 9, 4), (1, 3, 1), (0, 0, 9), (0, 3, 4), (6, 6, 9), (3, 6, 8), (3, 5, 4))
    tensors = tuple(Lifetime(str(n), *life) for n, life in enumerate(lives))
    plan = plan_memory(tensors, 1)
    assert plan.arena == plan.lower_bound
    greedy = (greedy_by_size, greedy_by_breadth, greedy_by_area, greedy_by_life)
    assert all(arena_size(tensors, s(tensors)) > plan.lower_bound for s in greedy)


def test_a_search_says_where_it_finds_no_places() -> None:
    tensors = lifetimes_of(((0, 1, 2), (1, 2, 2)))
    assert within(tensors, 4, steps=10) is not None
    assert within(tensors, 3, steps=1000) is None
    assert within(tensors, 1, steps=10) is None


@given(lifetimes())
def test_conflicts_agrees_with_the_definition(tensors: tuple[Lifetime, ...]) -> None:
    """The sweep that other tests trust, against all pairs, on a plan that is wrong on purpose."""
    offsets = {t.name: (7 * i) % 40 for i, t in enumerate(tensors)}

    def shares(a: Lifetime, b: Lifetime) -> bool:
        start = max(offsets[a.name], offsets[b.name])
        return start < min(offsets[a.name] + a.nbytes, offsets[b.name] + b.nbytes)

    expected = {
        frozenset((a.name, b.name))
        for i, a in enumerate(tensors)
        for b in tensors[:i]
        if a.overlaps(b) and shares(a, b)
    }
    assert {frozenset(pair) for pair in conflicts(tensors, offsets)} == expected


def test_naive_is_disjoint() -> None:
    assert naive(lifetimes_of(PUBLISHED))["t2"] == 60


@pytest.mark.parametrize(
    ("tensors", "alignment"),
    [
        ((Lifetime("a", 0, 1, 4), Lifetime("a", 1, 2, 4)), 1),
        ((Lifetime("a", 1, 0, 4),), 1),
        ((Lifetime("a", 0, 1, 4),), 0),
    ],
)
def test_defects_of_a_caller_are_refused(tensors: tuple[Lifetime, ...], alignment: int) -> None:
    with pytest.raises(ValueError):
        plan_memory(tensors, alignment)
