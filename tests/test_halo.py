"""Borders in storage: which reads get a padded copy, and why others get none."""

from __future__ import annotations

import pytest

from sdlc.graph.rules import RewriteReport, rewrite
from sdlc.graph.types import DType
from sdlc.language.elaborate import build
from sdlc.language.elaborate_rule import chosen_rules
from sdlc.language.library import load

SIZES = {"c": 3, "h": 12, "w": 12, "o": 4}
WINDOW = "sum over d < c, i < 3, j < 3 of"


def report(text: str) -> RewriteReport:
    library = load(None, text)
    graph = build(library, None, SIZES, {}, DType.F32)
    return rewrite(graph, chosen_rules(library, only=["halo"]))[1]


def operator(body: str, result: str = "T[o, h, w]") -> str:
    return f"op f(x: T[c, h, w], k: T[o, c, 3, 3]) -> {result} {{ {body} }}"


READ = f"out[n, p, q] = {WINDOW} (y[d, p + i - 1, q + j - 1] else 0) * k[n, d, i, j]"


def test_a_map_that_one_sum_reads_is_stored_with_its_border() -> None:
    assert report(operator(f"y[d, p, q] = x[d, p, q] * 2\n{READ}")).fired("halo") == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (operator(READ.replace("y[", "x[")), "is no map"),
        (
            operator(
                f"y[d, p, q] = x[d, p, q] * 2\n{READ.replace('else 0', 'else k[0, d, i, j]')}"
            ),
            "no constant",
        ),
        (
            operator(
                "y[d, p, q] = x[d, p, q] * 2\n"
                "z[d, p, q] = x[d, p, q] * 3\n"
                "out[n, p, q] = sum over d < 2 * c of "
                "(y[d, p, q] else z[d - c, p, q] else 0) * k[n, d % 3, 0, 0]"
            ),
            "is joined to what is read before it",
        ),
        (
            operator(
                "y[d, p, q] = x[d, p, q] * 2\n"
                f"out[n, p, q] = {WINDOW} (y[d, p + i - 12, q + j - 12] else 0) * k[n, d, i, j]"
            ),
            "the copy would be",
        ),
        (
            operator(
                "y[d, p, q] = x[d, q, p]\n" + READ,
            ),
            "it is a view, read through, and each element is read",
        ),
        (
            operator(
                f"y[d, p, q] = x[d, p, q] * 2\n{READ}\nreturn out, y",
                "(out: T[o, h, w], y: T[c, h, w])",
            ),
            "something else reads it too",
        ),
    ],
    ids=["an input", "no constant", "joined", "growth", "view", "a result"],
)
def test_why_there_is_no_copy(text: str, why: str) -> None:
    found = report(text)
    assert any(why in said for said in found.refusals("halo")), list(found.refusals("halo"))
