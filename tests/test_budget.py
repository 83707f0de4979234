"""A budget of weights: what is stored never exceeds it, more bytes never save less time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations

import click
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import sdlc
from sdlc.api import make_request
from sdlc.cli_common import parse_bytes
from sdlc.graph.types import Origin
from sdlc.language.diagnostics import SdlError
from sdlc.language.elaborate_rule import chosen_rules
from sdlc.program.pipeline import Planned, Wishes, planned, stored_weights
from sdlc.schedule.budget import Offer, chosen, offered, quickest
from sdlc.schedule.cost import seconds_of
from sdlc.schedule.point import NO_CHOICES
from sdlc.schedule.profit import profitable

KIB = 1024
NET = """
model net(x: T[b, c, h, w]) -> T[b, 64, h, w] {
  y = first: conv(x, 96)
  for i < 2 {
    y = same.{i}: conv(silu(y), 96)
  }
  return last: conv(y, 64)
}
"""
SIZES = {"b": 1, "c": 64, "h": 32, "w": 32}
REQUEST = make_request(NET, "cpu", None, SIZES, (None, "f32"))
LEAST = 4 * 9 * (64 * 96 + 2 * 96 * 96 + 96 * 64) + 4 * (3 * 96 + 64)
"""Bytes of the kernels and biases as a file has them."""


def offer(number: int, nbytes: int, seconds: float) -> Offer:
    return Offer("rule", Origin(f"y{number}", "f"), nbytes, seconds)


offers = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20).map(float)), max_size=8).map(
    lambda found: [offer(n, *each) for n, each in enumerate(found)]
)


@given(offers, st.integers(-5, 120))
def test_the_choice_is_the_best_that_fits(found: list[Offer], room: int) -> None:
    taken = chosen(found, room)
    assert sum(o.nbytes for o in taken) <= max(0, room) and set(taken) <= set(found)
    subsets = (s for n in range(len(found) + 1) for s in combinations(found, n))
    fitting = (s for s in subsets if sum(o.nbytes for o in s) <= max(0, room))
    best = max(sum(o.seconds for o in s) for s in fitting)
    assert sum(o.seconds for o in taken) == best


def test_many_unlike_offers_are_chosen_among_within_the_room() -> None:
    found = [offer(n, 1000 + 7919 * n % 1013, 1.0 + 104729 * n % 997) for n in range(60)]
    taken = chosen(found, 30_000)
    assert sum(o.nbytes for o in taken) <= 30_000
    greedy, room = 0.0, 30_000
    for each in sorted(found, key=lambda o: -o.seconds / o.nbytes):
        if each.nbytes <= room:
            greedy, room = greedy + each.seconds, room - each.nbytes
    assert sum(o.seconds for o in taken) >= greedy


@cache
def within(budget: int | None) -> Planned:
    return planned(REQUEST.graph(), REQUEST.target, REQUEST.rules, Wishes(NO_CHOICES, budget))


def extremes() -> tuple[Planned, Planned]:
    return within(None), within(LEAST)


def stored(made: Planned) -> int:
    return stored_weights(made.parts.run, made.plan)


@settings(max_examples=5, deadline=None, phases=[Phase.generate])
@given(st.integers(LEAST, 5 * LEAST))
def test_weights_stay_within_any_budget(budget: int) -> None:
    assert stored(within(budget)) <= budget


def test_more_bytes_never_save_less_time_by_the_estimates() -> None:
    paying = profitable(REQUEST.target)
    found = offered(REQUEST.graph(), REQUEST.rules, paying)[1]
    assert len(found) == 4 and all(o.seconds > 0 and o.nbytes > 0 for o in found)
    rooms = range(0, sum(o.nbytes for o in found) + 1, 50_000)
    saved = [sum(o.seconds for o in chosen(found, room)) for room in rooms]
    assert saved == sorted(saved) and len(set(saved)) > 5
    predicted = [seconds_of(m.plan.kernels, REQUEST.target, m.plan.orders) for m in extremes()]
    assert predicted == sorted(predicted)


def test_a_budget_is_used_from_none_to_all() -> None:
    every, none = extremes()
    assert every.report.fired("winograd_4") == 4 and stored(every) > 3 * LEAST
    assert none.report.fired("winograd_4") == 0 and stored(none) == LEAST
    assert within(stored(every)).report.fired("winograd_4") == 4
    some = within(2 * LEAST)
    assert 0 < some.report.fired("winograd_4") < 4
    why = some.report.refusals("winograd_4")
    assert any(w.endswith("within the weight budget") for w in why)


@settings(deadline=None)
@given(offers, offers, st.integers(-5, 120))
def test_of_rivals_at_a_place_one_is_chosen(
    some: list[Offer], other: list[Offer], room: int
) -> None:
    found = [*some[:4], *(replace(o, rule="rival") for o in other[:4])]
    taken = chosen(found, room)
    assert len({o.at for o in taken}) == len(taken) and sum(o.nbytes for o in taken) <= max(0, room)
    subsets = (s for n in range(len(found) + 1) for s in combinations(found, n))
    fitting = (s for s in subsets if sum(o.nbytes for o in s) <= max(0, room))
    apart = (s for s in fitting if len({o.at for o in s}) == len(s))
    assert sum(o.seconds for o in taken) == max(sum(o.seconds for o in s) for s in apart)


def test_the_cost_model_chooses_among_tiles_of_several_sizes() -> None:
    """Where weights may take what they like, the size that saves most, else one whose weights grow
    less. The order in which rules are written does not count."""
    rules = chosen_rules(REQUEST.library, only=("default", "winograd_2", "winograd_6"))
    names = ("winograd_2", "winograd_4", "winograd_6")

    def fired(budget: int | None) -> list[int]:
        made = planned(REQUEST.graph(), REQUEST.target, rules, Wishes(NO_CHOICES, budget))
        assert budget is None or stored(made) <= budget
        return [made.report.fired(name) for name in names]

    paying = profitable(REQUEST.target, REQUEST.graph(), rules)
    found = [
        o
        for rule in rules
        if rule.name in names
        for o in offered(REQUEST.graph(), [rule], paying)[1]
    ]
    best = quickest(found)
    assert fired(None) == [sum(o.rule == name for o in best) for name in names]
    assert fired(LEAST) == [0, 0, 0]
    small = fired(2 * LEAST)
    assert small[0] > 0 and 0 < sum(small) <= 4


@pytest.mark.parametrize(("channels", "wanted"), [(64, [1, 0]), (640, [0, 1])])
def test_of_unlike_rules_at_a_place_the_quicker_is_used(channels: int, wanted: list[int]) -> None:
    """Doubled pixels: few channels pay in phases, whose sums are not stored; many in tiles."""
    head = "model m(x: T[b, c, h, w]) -> T[b, c, 2 * h, 2 * w]"
    text = head + " { return conv(upsample_nearest(x), c) }"
    request = make_request(text, "adreno", None, SIZES | {"c": channels}, (None, "f16"))
    made = planned(request.graph(), request.target, request.rules)
    assert [made.report.fired(name) for name in ("upsample_phases", "winograd_4")] == wanted
    if wanted == [0, 1]:
        why = made.report.refusals("upsample_phases")
        assert "another rule that could be used there serves the program better" in why


def test_a_budget_below_the_least_names_it() -> None:
    with pytest.raises(SdlError, match="P011") as raised:
        sdlc.compile(NET, sizes=SIZES, weight_budget=LEAST - 1)
    assert f"take {LEAST:,} bytes" in str(raised.value)
    help = f"--weight-budget {-(-LEAST // 2**20)}MiB or more"
    assert f"{help}, or --precision f16" in str(raised.value)
    with pytest.raises(SdlError, match=r"P011[^$]*MiB or more$"):
        sdlc.compile(NET, sizes=SIZES, precision="f16", weight_budget=1)


def test_results_are_the_same_program_within_a_budget() -> None:
    program = sdlc.compile(NET, sizes=SIZES, weight_budget=2 * LEAST)
    assert program.memory.weights == stored(within(2 * LEAST)) <= 2 * LEAST


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1900MiB", 1900 * KIB**2), ("2GiB", 2 * KIB**3), ("1.5 kb", 1500), ("77", 77), ("2g", 2e9)],
)
def test_sizes_as_people_write_them(text: str, nbytes: int) -> None:
    assert parse_bytes(None, None, text) == nbytes  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "MiB", "-1MiB", "1TiB", "1,5GiB", "٣MiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size"):
        parse_bytes(None, None, text)  # type: ignore[arg-type]
