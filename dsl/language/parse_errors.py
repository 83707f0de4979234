"""What a syntax error means, in words.

In: Lark's exception and the text. Out: a located `Diagnostic`, either of a known mistake
(`parse_mistakes.py`) or E001 with what the grammar allows there. Invariant: `describe` never fails.
Example: `x = a +` gives "an expression is missing after `+`".
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from sdlc.language.diagnostics import Diagnostic
from sdlc.language.parse_grammar import tokens
from sdlc.language.parse_lexical import classify, spoiled
from sdlc.language.parse_mistakes import one_of
from sdlc.language.parse_mistakes_definitions import DEFINITION_MISTAKES
from sdlc.language.parse_mistakes_statements import STATEMENT_MISTAKES
from sdlc.language.parse_situation import Situation, expected_words


def describe(error: UnexpectedInput, text: str, file: str) -> Diagnostic:
    """The diagnostic of the first error of a text."""
    if isinstance(error, UnexpectedCharacters):
        return classify(text, error.pos_in_stream or 0, file).diagnostic
    return explain(situation(error, text, file))


def situation(error: UnexpectedInput, text: str, file: str) -> Situation:
    """Where the parser stood when it met an unexpected token."""
    assert isinstance(error, UnexpectedToken)
    stream = tokens(spoiled(text, file)[0])
    at = error.token.start_pos or 0
    behind = (i for i, t in enumerate(stream) if (t.end_pos or 0) > at or (t.start_pos or 0) >= at)
    accepted: set[str] = error.interactive_parser.accepts()  # type: ignore[no-untyped-call]
    return Situation(stream, next(behind, len(stream) - 1), frozenset(accepted), file)


def explain(here: Situation) -> Diagnostic:
    unfinished = _unfinished_line(here)
    if unfinished is not None:
        return _missing(unfinished)
    for mistake in (*DEFINITION_MISTAKES, *STATEMENT_MISTAKES):
        if mistake.matches(here):
            return mistake.diagnostic(here)
    if here.expression_missing:
        return _missing(here)
    label = f"expected {expected_words(here.accepted)}"
    return Diagnostic("E001", f"unexpected {here.found}", here.span(), label, (), _help(here))


def _unfinished_line(here: Situation) -> Situation | None:
    """The beginning of the line, if the unexpected `=` makes it a statement of its own although
    the line before it asks to be continued: `a = 3 +`, newline, `b = 4`."""
    if here.type() != "EQUAL" or here.opener is not None:
        return None
    first = here
    while first.index and not first.new_line:
        first = replace(first, index=first.index - 1)
    begun = first.index > here.statement and first.type() == "NAME"
    return first if begun and first.type(-1) not in ("NAME", "RSQB", "RPAR") else None


def _missing(here: Situation) -> Diagnostic:
    before = here.word(-1)
    after = f" after `{before}`" if before else ""
    span = here.behind(-1) if here.new_line and here.index else here.span()
    idle = one_of(here.type(-1), "PLUS MINUS STAR SLASH PERCENT CARET COMMA AND OR NOT WHERE")
    help = "write one here" + (f", or take the `{before}` away" if before and idle else "")
    label = "expected an expression"
    return Diagnostic("E001", f"an expression is missing{after}", span, label, (), help)


def _help(here: Situation) -> str:
    """What to try where no known mistake was recognised."""
    begins = here.type() in ("NAME", "NUMBER", "STRING", "LPAR", "LABEL")
    if begins and "COMMA" in here.accepted and here.opener is not None:
        return "a comma or an operator may be missing before it"
    if begins and "_NL" in here.accepted:
        return "statements stand on lines of their own, or are separated by `;`"
    if "RETURN" in here.accepted:
        return f"a statement is {_STATEMENTS}"
    first = here.tokens[here.statement].type if here.statement < here.index else ""
    return f"the form is `{_FORMS[first]}`" if first in _FORMS else _OUTLINE


_FORMS = MappingProxyType(
    {
        "KIND": 'op name(x: T[n]; attribute: int) -> T[n] "doc" where condition "message" { … }',
        "FN": 'fn name(x, y) "doc" = expression',
        "MONOID": 'monoid name "doc" { field: f32 = identity; combine(a, b) { field = … } }',
        "RULE": 'rule name(x: T[n]) "doc" where guard { left => right; example n = 5 }',
        "IMPORT": 'import "file.sdl"',
        "NAME": "name = expression` or `name[i, j] = expression",
        "RETURN": "return expression, …",
        "PARAM": "param name: T[n]",
        "CONFIG": "config name = value",
        "REQUIRE": 'require condition "message"',
        "FOR": "for x in list { … }` or `for i < n { … }",
        "IF": "if condition { … } else { … }",
        "PRECISION": "precision f32 { … }",
    }
)
_STATEMENTS = "`name = …`, `name[i] = …`, `return …`, `param`, `config`, `require`, `for` or `if`"
_OUTLINE = (
    "a file holds `import`, `op`, `block`, `model`, `fn`, `monoid` and `rule`, and their blocks "
    "hold statements"
)
