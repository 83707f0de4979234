"""Mistakes in definitions, and symbols of other languages.

In: nothing. Out: `DEFINITION_MISTAKES`, rows of `Mistake`. Invariant and example: see there.
"""

from __future__ import annotations

from sdlc.language.parse_mistakes import Mistake, one_of, touches
from sdlc.language.parse_situation import KEYWORDS, Situation

_OPERATORS = "PLUS MINUS STAR SLASH PERCENT CARET"
_AFTER_NAMES = "EQUAL LSQB DOT COLON COMMA RPAR RSQB PLUS STAR SLASH LESS SEMI _NL RBRACE"


def _in_condition(here: Situation) -> bool:
    """Whether an `=` here would be read as a comparison by its writer."""
    at = here.earlier_at("IF", "THEN", "ELSE", "WHERE", "REQUIRE", "LBRACE")
    return at is not None and here.type(at) in ("IF", "WHERE", "REQUIRE")


def _is_name(here: Situation) -> bool:
    """Whether a keyword stands where its writer meant a name."""
    used = one_of(here.type(1), _AFTER_NAMES)
    return here.type() in KEYWORDS and (used or not here.expression_missing)


def _in_definition(here: Situation) -> bool:
    return here.starts("KIND") and here.opener is None


# ---- symbols of other languages ----------------------------------------------------------------

_SYMBOLS = (
    Mistake(
        "E018",
        "there is no `{found}=`",
        "write `{before} = {before} {found} …`",
        found=_OPERATORS,
        after="EQUAL",
        test=touches(0),
    ),
    Mistake("E018", "there is no `:=`", "write `=`", found="COLON", after="EQUAL", test=touches(0)),
    Mistake(
        "E001",
        "there is no `**`",
        "a power is written `x ^ 2`",
        found="STAR",
        before="STAR",
        test=touches(-1),
        point=-1,
    ),
    Mistake(
        "E001",
        "there is no `//`",
        "`/` of two integers rounds down; a comment begins with `#`",
        found="SLASH",
        before="SLASH",
        test=touches(-1),
        point=-1,
    ),
    Mistake(
        "E001",
        "a comment begins with `#`",
        "write `# …`",
        found="SLASH",
        after="SLASH STAR",
        test=touches(0),
    ),
    Mistake(
        "E009",
        "there is no `...`",
        "`..` is a whole axis, `*b` any number of axes",
        found="DOT",
        before="DOTS",
        test=touches(-1),
        point=-1,
    ),
    Mistake(
        "E017",
        "a number does not end with a point",
        "write it with a digit behind the point: `1.0`",
        before="DOT",
        test=lambda here: here.type(-2) == "NUMBER",
        point=-1,
    ),
    Mistake(
        "E017",
        "a number does not begin with a point",
        "write `0.{after}`",
        found="DOT",
        after="NUMBER",
        test=touches(0),
    ),
    Mistake(
        "E001",
        "there is no `c ? a : b`",
        "a choice is written `if c then a else b`",
        found="QUESTION",
        test=lambda here: "PLUS" in here.accepted,
    ),
)

# ---- definitions -------------------------------------------------------------------------------

_DEFINITIONS = (
    Mistake(
        "E008",
        "`=` assigns, it does not compare",
        "write `==`",
        found="EQUAL",
        test=_in_condition,
    ),
    Mistake(
        "E015",
        "definitions do not nest",
        "write `{found} {after}` at the top of the file, outside of this definition",
        found="KIND FN MONOID",
        after="NAME",
        accepted="RETURN",
    ),
    Mistake(
        "E015",
        "imports stand at the top of the file",
        'move `import "…"` out of this definition',
        found="IMPORT",
        accepted="RETURN",
    ),
    Mistake(
        "E007",
        "`{found}` is a keyword, so it cannot be a name",
        "choose another name, such as `{found}_`",
        accepted="NAME",
        test=_is_name,
    ),
    Mistake(
        "E015",
        "`{found}` begins no definition",
        "a definition begins with `op`, `block`, `model`, `fn`, `monoid` or `rule`",
        found="NAME",
        accepted="KIND",
    ),
    Mistake(
        "E015",
        "an import names a file",
        'write the path in quotes: `import "{found}.sdl"`',
        found="NAME",
        before="IMPORT",
    ),
    Mistake(
        "E015",
        "an `fn` has no block",
        "it is one expression: `fn name(x) = x * x`; an `op` has a block and works on tensors",
        found="LBRACE",
        accepted="EQUAL",
        test=lambda here: here.starts("FN"),
    ),
    Mistake(
        "E015",
        "the body of this `fn` is missing",
        "write `fn name(x) = expression`",
        found="_NL",
        accepted="EQUAL",
        test=lambda here: here.starts("FN"),
    ),
    Mistake(
        "E015",
        "a docstring stands before the `=`",
        "write `fn name(x) {found} = …`",
        found="STRING",
        test=lambda here: here.starts("FN") and here.opener is None,
    ),
    Mistake(
        "E015",
        "a docstring stands before the `{`",
        'write `op name(…) -> T[n] "What it does." { … }`',
        found="STRING",
        before="LBRACE",
    ),
    Mistake(
        "E015",
        "the body of this {first} stands in braces",
        "write `{ out[i] = … }`",
        found="EQUAL _NL",
        accepted="LBRACE",
        test=_in_definition,
    ),
    Mistake(
        "E014",
        "the result has no type",
        "say what it gives after the parameters: `-> T[n]`",
        label="expected `->`",
        found="LBRACE STRING WHERE _NL EQUAL",
        accepted="ARROW",
    ),
    Mistake(
        "E014",
        "the result's type stands after `->`",
        "write `-> T[n]`",
        found="COLON NAME LPAR",
        accepted="ARROW",
    ),
    Mistake(
        "E014",
        "parameter `{before}` has no type",
        "write `{before}: T[n]` for a tensor, `{before}: int` for a compile-time value",
        found="COMMA RPAR SEMI EQUAL",
        before="NAME",
        accepted="COLON",
        test=lambda here: here.in_signature,
        point=-1,
    ),
    Mistake(
        "E014",
        "parameter `{before}` has no type",
        "its name and its type are separated by a colon: `{before}: T[n]`",
        found="LSQB NAME",
        before="NAME",
        accepted="COLON",
        test=lambda here: here.in_signature,
        point=-1,
    ),
    Mistake(
        "E014",
        "several results have names",
        "write `-> (mean: T[n], var: T[n])`",
        found="COMMA",
        before="RSQB",
        accepted="WHERE",
    ),
    Mistake(
        "E014",
        "the parameters of an `fn` have no types",
        "they are scalars: `fn name(x, y) = x * y`; an `op` works on tensors",
        found="COLON",
        test=lambda here: here.starts("FN") and here.opener == here.statement + 2,
    ),
    Mistake(
        "E014",
        "several results have names",
        "write `-> (mean: T[n], var: T[n])`",
        found="LSQB",
        accepted="COLON",
        test=lambda here: here.starts("KIND"),
        point=-1,
    ),
    Mistake(
        "E014",
        "a named result stands in parentheses",
        "write `-> ({before}: T[n])`",
        found="COLON",
        before="NAME",
        accepted="LSQB",
        test=lambda here: here.type(-2) == "ARROW",
        point=-1,
    ),
    Mistake(
        "E014",
        "`{before}` is no tensor type",
        "a tensor's type names its axes: `{before}[n]`, or `{before}[]` for rank 0",
        before="NAME",
        accepted="LSQB",
        test=lambda here: here.type(-2) in ("ARROW", "COLON") and "PLUS" not in here.accepted,
        point=-1,
    ),
    Mistake(
        "E019",
        "a rule has no result type",
        "its sides say what it gives: `rule name(x: T[n]) { left => right … }`",
        found="ARROW",
        test=lambda here: here.starts("RULE") and here.opener is None,
    ),
    Mistake(
        "E019",
        "a rule begins with its equation",
        "write `left => right`, and what is to be said of it below",
        accepted="IMPLIES",
        found="ARROW NAME EQUAL _NL",
    ),
    Mistake(
        "E019",
        "an equation stands in a rule",
        "write `rule name(x: T[n]) { left => right … }` at the top of the file",
        found="IMPLIES",
    ),
    Mistake(
        "E016",
        "this field has no identity",
        "write `name: f32 = value`, with the value that changes nothing: 0 for a sum",
        found="_NL RBRACE",
        accepted="EQUAL",
        test=lambda here: here.type(-2) == "COLON",
    ),
)

DEFINITION_MISTAKES = (*_SYMBOLS, *_DEFINITIONS)
