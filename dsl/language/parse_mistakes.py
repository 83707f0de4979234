"""A mistake that people make, and what to tell them: one row of a table.

In: a `Situation`. Out: a `Diagnostic`. Invariant: the first row that matches speaks, so particular
rows stand before general ones. A new mistake is a new row in `parse_mistakes_definitions.py` or
`parse_mistakes_statements.py`. Example: `f(x, s = 2)` matches the row of E013, because an `=`
stands in a call before any `;`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdlc.language.diagnostics import Diagnostic
from sdlc.language.parse_situation import Situation

Test = Callable[[Situation], bool]


@dataclass(frozen=True, slots=True)
class Mistake:
    """`found`, `before`, `after`: the types (one of several) of the unexpected token and of its
    neighbours; `accepted`: one that would have been right; `point`: which token to point at, as an
    offset. The texts may name `{found} {before} {after} {first}`, the last being the word with
    which the statement begins."""

    code: str
    message: str
    help: str
    label: str = ""
    found: str = ""
    before: str = ""
    after: str = ""
    accepted: str = ""
    test: Test = lambda here: True
    point: int = 0

    def matches(self, here: Situation) -> bool:
        return (
            one_of(here.type(), self.found)
            and one_of(here.type(-1), self.before)
            and one_of(here.type(1), self.after)
            and (not self.accepted or self.accepted in here.accepted)
            and self.test(here)
        )

    def diagnostic(self, here: Situation) -> Diagnostic:
        words = {
            "found": here.word(),
            "before": here.word(-1),
            "after": here.word(1),
            "first": here.tokens[here.statement].strip(),
        }
        message, label, help = (
            _fill(text, words) for text in (self.message, self.label, self.help)
        )
        return Diagnostic(self.code, message, here.span(self.point), label, (), help)


def _fill(text: str, words: dict[str, str]) -> str:
    """Puts the words in: not with `format`, because the texts hold braces."""
    for name, word in words.items():
        text = text.replace("{" + name + "}", word)
    return text


def one_of(kind: str, kinds: str) -> bool:
    return not kinds or kind in kinds.split()


def word_in(offset: int, words: str) -> Test:
    return lambda here: here.word(offset) in words.split()


def touches(offset: int) -> Test:
    return lambda here: here.adjacent(offset)
