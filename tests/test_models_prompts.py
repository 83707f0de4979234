"""Prompts: what brackets mean, whatever they hold; texts of any length in rows of tokens.

`tests/data/prompts.npz` holds what compel and transformers make of weighted texts
(`tests/parity_prompts.py`)."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend_run import device
from parity_prompts import FILE, conditions, painter_for, small_texts
from peer_prompts import CASES
from sdlc.models.folder import default_folder, load_folder
from sdlc.models.prompts import UP, Phrase, chunk_count, emphasise, parse, tokenize
from sdlc.models.tokenizer import ClipTokenizer, load_tokenizer

Tree = str | tuple[str, "list[Tree]", float]


@cache
def tokenizer() -> ClipTokenizer:
    return load_tokenizer(default_folder() / "tokenizer")


# ---- brackets ------------------------------------------------------------------------------------

WORDS = st.text(st.sampled_from("ab :1.3()[]\\,"), min_size=1, max_size=8)
FACTORS = st.sampled_from([0.5, 0.75, 1.0, 1.3, 2.0])
TREES: st.SearchStrategy[list[Tree]] = st.recursive(
    WORDS.map(lambda word: [word]),
    lambda inner: st.lists(
        WORDS | st.tuples(st.sampled_from(["(", "[", ":"]), inner, FACTORS), min_size=1, max_size=4
    ),
    max_leaves=12,
)


def escaped(text: str) -> str:
    return "".join("\\" + c if c in "()[]\\" else c for c in text)


def written(tree: list[Tree]) -> str:
    """The text of a tree; a colon at the end of a bracket's text would be read as its weight."""
    parts = []
    for item in tree:
        if isinstance(item, str):
            parts.append(escaped(item))
        else:
            kind, inner, factor = item
            body = written(inner)
            parts.append({"(": f"({body}_)", "[": f"[{body}]", ":": f"({body}:{factor})"}[kind])
    return "".join(parts)


def leaves(tree: list[Tree], weight: float = 1.0) -> list[tuple[str, float]]:
    """Each character with its weight."""
    found = []
    for item in tree:
        if isinstance(item, str):
            found += [(c, weight) for c in item]
        else:
            kind, inner, factor = item
            own = weight * {"(": UP, "[": 1 / UP, ":": factor}[kind]
            found += leaves(inner, own) + [("_", own)] * (kind == "(")
    return found


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_nested_brackets_multiply(tree: list[Tree]) -> None:
    got = [(c, phrase.weight) for phrase in parse(written(tree)) for c in phrase.text]
    expected = leaves(tree)
    assert [c for c, _ in got] == [c for c, _ in expected]
    np.testing.assert_allclose([w for _, w in got], [w for _, w in expected])


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab ()[]:1.\\\n"), max_size=40))
def test_every_text_has_phrases(text: str) -> None:
    """Nothing of a text is lost but brackets, weights, with the white space before them, and
    backslashes before signs."""
    phrases = parse(text)
    assert all(p.text for p in phrases) and all(np.isfinite(p.weight) for p in phrases)
    assert all(p.weight != q.weight for p, q in pairwise(phrases))
    kept = "".join(p.text for p in phrases)
    for sign in "ab \n":
        assert kept.count(sign) == text.count(sign) or (sign in " \n" and ":" in text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [("a cat", 1.0)]),
        ("a (red:1.2) car", [("a ", 1.0), ("red", 1.2), (" car", 1.0)]),
        ("(a) [b]", [("a", UP), (" ", 1.0), ("b", 1 / UP)]),
        ("((a:2) b:3)", [("a", 6.0), (" b", 3.0)]),
        (r"\(a\) b\\", [("(a) b\\", 1.0)]),
        ("a) b]", [("a) b]", 1.0)]),
        ("a (b", [("a ", 1.0), ("b", UP)]),
        ("(note: this)", [("note: this", UP)]),
        ("[a:1.3)", [("a:1.3)", 1 / UP)]),
        ("", []),
    ],
)
def test_texts_and_their_phrases(text: str, expected: list[tuple[str, float]]) -> None:
    assert parse(text) == tuple(Phrase(*each) for each in expected)


# ---- rows of tokens ------------------------------------------------------------------------------


def test_weights_stand_beside_their_tokens() -> None:
    made = tokenize(tokenizer(), "a (red:1.5) car", 1)
    assert made.weights[0, :5].tolist() == [1, 1, 1.5, 1, 1] and made.weighted
    plain = tokenize(tokenizer(), "a red car", 1)
    np.testing.assert_array_equal(made.ids, plain.ids)
    assert not plain.weighted and plain.last.tolist() == [4] == made.last.tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400))
def test_long_texts_fill_rows(count: int) -> None:
    text = " ".join("1" for _ in range(count))
    chunks = chunk_count(tokenizer(), text)
    assert chunks == max(1, -(-count // 75))
    made = tokenize(tokenizer(), text, chunks + 1)
    assert made.ids.shape == (chunks + 1, 77) and made.cut == ""
    assert (made.last - 1).sum() == count and made.last[-1] == 1
    for row, last in zip(made.ids, made.last, strict=True):
        assert row[0] == tokenizer().start and row[last] == tokenizer().end
        assert (row[1:last] == tokenizer().tokens("1")[0][0]).all()
        assert (row[last + 1 :] == tokenizer().padding).all()


def test_what_does_not_fit_is_said() -> None:
    assert tokenize(tokenizer(), "1 " * 74 + "2 3 4", 1).cut == "3 4"


def test_emphasis_keeps_the_mean() -> None:
    states = np.random.default_rng(0).normal(1, 1, (2, 4, 3)).astype(np.float32)
    weights = np.array([[1, 1, 1, 1], [1, 2, 1, 0.5]], np.float32)
    got = emphasise(states, weights)
    np.testing.assert_allclose(got.mean(axis=(1, 2)), states.mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(got[0], states[0], rtol=1e-5)
    np.testing.assert_allclose(got[1, 1] / got[1, 0], 2 * states[1, 1] / states[1, 0], rtol=1e-5)
    assert emphasise(states, np.ones((2, 4), np.float32)) is states


def test_states_of_a_weighted_text_are_those_of_the_peers(tmp_path: Path) -> None:
    """SDXL's two encoders and two ways to fill rows up; one row of tokens, and two."""
    held = np.load(FILE)
    model = load_folder(small_texts("xl", tmp_path / "model"))
    for number, text in enumerate(CASES):
        if str(number) in held:
            states, pooled = conditions(painter_for(model, text, device("cpu")), text)
            np.testing.assert_allclose(states, held[str(number)], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(pooled, held[f"{number}/pooled"], rtol=1e-4, atol=1e-5)
