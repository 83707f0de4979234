"""Mistakes in statements and expressions.

In: nothing. Out: `STATEMENT_MISTAKES`, rows of `Mistake`. Invariant and example: see there.
"""

from __future__ import annotations

from sdlc.language.parse_build import REDUCTIONS
from sdlc.language.parse_mistakes import Mistake, word_in
from sdlc.language.parse_situation import Situation


def _chained(here: Situation) -> bool:
    return not here.expression_missing and here.earlier("COMPARE", "LESS", "IN")


def _before_semicolon(here: Situation) -> bool:
    return here.in_call and here.type(-2) in ("LPAR", "COMMA") and not here.earlier("SEMI")


def _assigned(here: Situation) -> bool:
    """Whether an `=` follows the bracket that opens here."""
    depth = 0
    for at in range(here.index, len(here.tokens)):
        kind = here.tokens[at].type
        depth += (kind == "LPAR") - (kind == "RPAR")
        if depth == 0:
            return here.type(at + 1 - here.index) == "EQUAL"
    return False


def _missing_over(here: Situation) -> bool:
    return here.word(-1) in REDUCTIONS and here.type(-2) != "REDUCE"


# ---- statements --------------------------------------------------------------------------------

_STATEMENTS = (
    Mistake(
        "E018",
        "there is no `{found}`",
        "write `else if c { … }`",
        found="NAME",
        test=word_in(0, "elif elsif elseif"),
    ),
    Mistake(
        "E018",
        "there is no `{before}`",
        "write `else if c { … }`",
        before="NAME",
        test=word_in(-1, "elif elsif elseif"),
        point=-1,
    ),
    Mistake(
        "E018",
        "there is no `while`",
        "a program is built once: `for i < n { … }` or `for x in list { … }`",
        before="NAME",
        test=word_in(-1, "while loop"),
        point=-1,
    ),
    Mistake(
        "E018",
        "a statement does not begin with `{before}`",
        "an assignment is `{found} = …`",
        found="NAME",
        before="NAME",
        accepted="EQUAL",
        test=word_in(-1, "let var const int float bool str list auto mut"),
        point=-1,
    ),
    Mistake(
        "E013",
        "`{before} =` stands before the `;`",
        "attributes come by name after a `;`: `f(x; {before} = …)`",
        found="EQUAL",
        before="NAME",
        test=_before_semicolon,
        point=-1,
    ),
    Mistake(
        "E013",
        "an attribute is passed by name",
        "write `name = {found}` after the `;`",
        accepted="NAME",
        found="NUMBER STRING LSQB MINUS LPAR",
        test=lambda here: here.in_call and here.earlier("SEMI"),
    ),
    Mistake(
        "E013",
        "an attribute is passed by name",
        "write `name = {before}` after the `;`",
        before="NAME",
        accepted="EQUAL",
        test=lambda here: here.in_call and here.earlier("SEMI") and here.type() != "COLON",
        point=-1,
    ),
    Mistake(
        "E013",
        "attributes are separated by commas",
        "only one `;` stands in a call: `f(x; a = 1, b = 2)`",
        found="SEMI",
        test=lambda here: here.in_call and here.earlier("SEMI"),
    ),
    Mistake(
        "E013",
        "a value is given with `=`",
        "write `{before} = …`",
        found="COLON",
        before="NAME",
        test=lambda here: here.in_call or here.type(-3) == "OF",
    ),
    Mistake(
        "E008",
        "two `=` with a space between",
        "an assignment is `=`, a comparison is `==`",
        found="EQUAL",
        before="EQUAL",
    ),
    Mistake(
        "E018",
        "a statement assigns once",
        "write one assignment on each line; a comparison is `==`",
        found="EQUAL",
        test=lambda here: here.opener is None and here.earlier("EQUAL"),
    ),
    Mistake(
        "E018",
        "a tensor's indices stand in brackets",
        "write `{before}[i] = …`",
        found="LPAR",
        before="NAME",
        accepted="EQUAL",
        test=_assigned,
    ),
    Mistake(
        "E018",
        "this call's result is not used",
        "name it, `y = {before}(…)`, or `return {before}(…)`",
        found="LPAR",
        before="NAME",
        accepted="EQUAL",
        point=-1,
    ),
    Mistake(
        "E018",
        "this call's result is not used",
        "name it: `y = {found} {after}(…)`",
        found="LABEL",
        test=lambda here: here.statement == here.index,
    ),
    Mistake(
        "E018",
        "only names and tensors are assigned",
        "a record's fields are read, `s.m`; a tensor is defined by `s[i] = …`",
        found="DOT",
        accepted="EQUAL",
        before="NAME",
    ),
    Mistake(
        "E018",
        "a statement has no type",
        "write `{before} = …`; types stand in signatures and after `param`",
        found="COLON",
        before="NAME",
        accepted="EQUAL",
        test=lambda here: here.starts("NAME"),
    ),
    Mistake(
        "E019",
        "an axis of a definition is a name",
        "write `{first}[i] = …`, where `i` runs over the whole axis; "
        "`i < n` gives its extent, `*b` is any number of axes",
        test=lambda here: (
            here.starts("NAME")
            and here.in_index
            and bool({"NAME", "LESS"} & here.accepted)
            and not here.earlier("EQUAL")
            and not here.expression_missing
            and here.opener == here.statement + 1
        ),
    ),
    Mistake(
        "E018",
        "`{first}` alone says nothing",
        "a statement is `name = …`, `name[i] = …`, `return …`, `param`, `config`, `require`, "
        "`for` or `if`",
        found="_NL RBRACE",
        before="NAME",
        accepted="EQUAL",
        test=lambda here: here.starts("NAME") and here.statement == here.index - 1,
        point=-1,
    ),
    Mistake(
        "E018",
        "`require` has no message",
        'say what is wrong: `require n > 0 "n must be positive"`',
        found="_NL RBRACE",
        accepted="STRING",
        test=lambda here: here.starts("REQUIRE"),
    ),
    Mistake(
        "E018",
        "a configuration value has a default",
        "write `config name = value`; its type is the value's",
        before="NAME",
        accepted="EQUAL",
        test=lambda here: here.starts("CONFIG"),
    ),
    Mistake(
        "E018",
        "a parameter of a block has a type",
        "write `param {before}: T[n]`",
        before="NAME",
        accepted="COLON",
        test=lambda here: here.starts("PARAM"),
    ),
    Mistake(
        "E018",
        "a loop over a range is `for i < n { … }`",
        "or go over a list: `for x in range(n) { … }`",
        found="DOTS",
        test=lambda here: here.starts("FOR"),
    ),
    Mistake(
        "E018",
        "names stand without parentheses here",
        "write `a, b = f(x)` or `for i, x in list { … }`",
        found="LPAR",
        test=lambda here: here.type(-1) == "FOR" or "RETURN" in here.accepted,
    ),
    Mistake(
        "E018",
        "the block of this `{first}` is missing",
        "blocks stand in braces: `{first} … { … }`",
        found="_NL",
        accepted="LBRACE",
        test=lambda here: here.starts("FOR", "IF"),
    ),
    Mistake(
        "E012",
        "`else` has no condition",
        "write `else if c { … }`",
        before="ELSE",
        accepted="LBRACE",
    ),
    Mistake(
        "E018",
        "blocks stand in braces",
        "write `{first} … { … }`",
        found="COLON",
        accepted="LBRACE",
        test=lambda here: here.starts("FOR", "IF"),
    ),
)

# ---- expressions -------------------------------------------------------------------------------

_EXPRESSIONS = (
    Mistake(
        "E009",
        "slices are written with `..`",
        "write `x[0..4]`, `x[2..]`, or `x[..]` for a whole axis",
        found="COLON",
        test=lambda here: here.in_index,
    ),
    Mistake(
        "E018",
        "a field is a name, not a number",
        "a record's field is read as `s.m`; after a label, `layers.{found}: f(…)`, a call follows",
        found="NUMBER",
        before="DOT",
    ),
    Mistake(
        "E018",
        "a label ends with a colon and names a call",
        "write `blocks.{i}: f(x)`",
        found="LBRACE",
        before="DOT",
    ),
    Mistake(
        "E018",
        "a label names a call",
        "write `{before}: f(…)`, with a block's name and its arguments",
        found="COLON",
        before="NAME NUMBER",
        test=lambda here: "PLUS" in here.accepted and here.opener is None,
    ),
    Mistake(
        "E010",
        "`over` is missing in this reduction",
        "write `sum over i < n of x[i]`",
        found="NAME",
        before="NAME",
        test=_missing_over,
    ),
    Mistake(
        "E010",
        "`over` is missing in this reduction",
        "write `reduce {before} over i < n of …`",
        before="NAME",
        accepted="OVER",
        test=lambda here: here.type(-2) == "REDUCE",
    ),
    Mistake(
        "E010",
        "the axes of a reduction stand without parentheses",
        "write `sum over i, j of x[i, j]`",
        found="LPAR",
        before="OVER",
    ),
    Mistake(
        "E010",
        "a reduction begins with its name and its axes",
        "write `sum over i of x[i]`",
        found="OVER",
        test=lambda here: "PLUS" in here.accepted,
    ),
    Mistake(
        "E010",
        "the range of an axis is written `i < n`",
        "write `sum over i < n of x[i]`; without a range, the axis runs over all of `x`",
        found="IN EQUAL",
        accepted="OF",
    ),
    Mistake(
        "E010",
        "`of` is missing in this reduction",
        "write `sum over i of x[i]`",
        accepted="OF",
        test=lambda here: here.earlier("OVER"),
    ),
    Mistake(
        "E010",
        "`of` is missing in this reduction",
        "write `sum over i of x[i]`",
        label="expected `of`",
        before="NAME",
        found="COLON LPAR",
        test=lambda here: here.type(-2) == "OVER",
    ),
    Mistake(
        "E011",
        "comparisons do not chain",
        "write `a < b and b < c`",
        found="COMPARE LESS IN",
        test=_chained,
    ),
    Mistake(
        "E012",
        "a choice begins with its condition",
        "write `if c then a else b`",
        found="IF",
        test=lambda here: "PLUS" in here.accepted,
    ),
    Mistake(
        "E001",
        "nothing stands between `{before}` and `{found}`",
        "a call is `{before}({found})`, a product `{before} * {found}`; statements stand on lines "
        "of their own",
        found="NAME NUMBER STRING",
        before="NAME",
        accepted="PLUS",
        test=lambda here: here.opener is None and "_NL" in here.accepted,
    ),
    Mistake(
        "E012",
        "an `if` in an expression has no braces",
        "write `if c then a else b`",
        found="LBRACE",
        accepted="THEN",
    ),
    Mistake(
        "E012",
        "an `if` statement has braces",
        "write `if c { … }`; `if c then a else b` is an expression: `y = if c then a else b`",
        found="THEN",
        accepted="LBRACE",
    ),
    Mistake(
        "E012",
        "this `if` has no `then`",
        "write `if c then a else b`",
        accepted="THEN",
    ),
    Mistake(
        "E012",
        "this `if` has no `else`",
        "an expression has a value either way: `if c then a else b`",
        accepted="ELSE",
        test=lambda here: here.earlier("THEN") and not here.expression_missing,
    ),
    Mistake(
        "E012",
        "this `else` belongs to no `if`",
        "it stands behind the `}` of its `if`: `if c { … } else { … }`",
        found="GUARD ELSE",
        after="LBRACE IF",
    ),
    Mistake(
        "E012",
        "this `else` belongs to no `if`",
        "between `then` and `else`, a guarded read stands in parentheses: `(x[i] else 0)`",
        found="GUARD",
        test=lambda here: here.earlier("THEN"),
    ),
    Mistake(
        "E012",
        "this `else` belongs to nothing",
        "a guarded read is `x[i] else 0`, a choice is `if c then a else b`",
        found="GUARD ELSE",
        test=lambda here: not here.expression_missing,
    ),
)

STATEMENT_MISTAKES = (*_STATEMENTS, *_EXPRESSIONS)
