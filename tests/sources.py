"""Random `.sdl` sources for the tests of the parser and the formatter.

In: Hypothesis. Out: `modules()`, texts that parse (they need not mean anything), and
`relaid(text)`, the same tokens with other spaces, newlines and comments. Example: `fn f(x) = x`
may become `fn  f(x) =` and, on a line of its own, `x  # note 1`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from sdlc.language.parse_grammar import tokens

Texts = SearchStrategy[str]

NAMES = st.sampled_from(["x", "y'", "in_", "batch", "x2", "a_rather_long_name_of_a_tensor", "n"])
NUMBERS = st.sampled_from(["0", "12", "0.5", "1e-5", "2.5e+3", "1234567890"])
STRINGS = st.sampled_from(['"s"', '""', '"a # b"', '"{ \\" }"', '"two words; and more of them"'])


def joined(parts: Texts, separator: str = ", ", least: int = 0, most: int = 2) -> Texts:
    return st.lists(parts, min_size=least, max_size=most).map(separator.join)


def filled(template: str, *parts: Texts) -> Texts:
    """`template` with each `@` replaced by one of the parts, in turn."""

    def fill(values: tuple[str, ...]) -> str:
        pieces = template.split("@")
        return "".join(a + b for a, b in zip(pieces, (*values, ""), strict=True))

    return st.tuples(*parts).map(fill)


def optional(part: Texts) -> Texts:
    return st.just("") | part


# ---- expressions -------------------------------------------------------------------------------

_OPERATORS = st.sampled_from([" + ", " - ", " * ", " / ", " % ", " ^ "])
_COMPARE = st.sampled_from([" < ", " <= ", " > ", " >= ", " == ", " != ", " in "])
_labels = joined(
    NAMES | st.sampled_from(["0", "12"]) | filled("@{@}", optional(NAMES), NAMES), ".", least=1
)


def _operands(inner: Texts) -> Texts:
    """What stands beside an operator, made of smaller expressions."""
    indices = joined(
        inner | filled("*@", NAMES) | st.just("..") | filled("@..@", NUMBERS, optional(NUMBERS))
    )
    attributes = filled("; @ = @", NAMES, inner)
    calls = filled("@(@@)", NAMES, joined(inner), optional(attributes))
    return st.one_of(
        NAMES,
        NUMBERS,
        STRINGS,
        calls,
        filled("@.@: @", NAMES, _labels, calls),
        filled("@[@]", NAMES, indices),
        filled("@.@[@]", NAMES, NAMES, indices),
        filled("(@[@] else @)", NAMES, indices, NAMES | NUMBERS),
        filled("(@)", inner),
        filled("[@]", joined(inner)),
    )


def _sums(operands: Texts) -> Texts:
    signed = filled("@@", st.sampled_from(["", "", "-"]), operands)
    return operands | filled("@@@", signed, _OPERATORS, signed)


def _axes(sums: Texts) -> Texts:
    return joined(NAMES | filled("*@", NAMES) | filled("@ < @", NAMES, sums), least=1)


def _larger(inner: Texts) -> Texts:
    """Expressions of which the parts are `inner`."""
    operands = _operands(inner)
    sums = _sums(operands)
    comparisons = sums | filled("@@@", sums, _COMPARE, sums)
    negated = filled("@@", st.sampled_from(["", "not "]), comparisons)
    fields = joined(filled("@ = @", NAMES, inner), least=1)
    return st.one_of(
        negated,
        filled("@ @ @", comparisons, st.sampled_from(["and", "or"]), comparisons),
        filled("sum over @ of @", _axes(sums), inner),
        filled("@ + max over @ of @", operands, _axes(sums), inner),
        filled("reduce @ over @ of (@)", NAMES, _axes(sums), fields),
        filled("if @ then @ else @", inner, inner, inner),
    )


expressions = _larger(_larger(NAMES | NUMBERS))
_small = _sums(NAMES | NUMBERS)
axes = _axes(_small)
indices = joined(expressions | st.just(".."))

# ---- statements and definitions ----------------------------------------------------------------

dimensions = joined(NAMES | filled("*@", NAMES) | filled("@ / @", NAMES, NUMBERS))
types = filled("@[@]", st.sampled_from(["T", "f32"]), dimensions)


def _statements(blocks: Texts) -> Texts:
    """Statements with these blocks in them."""
    return st.one_of(
        filled("@[@] = @", NAMES, optional(axes), expressions),
        filled("@ = @", joined(NAMES, least=1), expressions),
        filled("@ = @[@] else -@", NAMES, NAMES, indices, NAMES),
        filled("return @", joined(expressions, least=1)),
        filled("param @: @", NAMES, types),
        filled("config @ = @", NAMES, expressions),
        filled("require @ @", expressions, STRINGS),
        filled("for @ in @ @", joined(NAMES, least=1), expressions, blocks),
        filled("for @ < @ @", NAMES, _small, blocks),
        filled("if @ @", expressions, blocks),
        filled("if @ @ else @", expressions, blocks, blocks),
        filled("if @ @ else if @ @", expressions, blocks, _small, blocks),
    )


def _blocks(statements: Texts) -> Texts:
    return filled("{@}", joined(statements, "; ")) | filled("{\n@\n}", joined(statements, "\n"))


blocks = _blocks(_statements(_blocks(_statements(st.just("{}")))))
docs = optional(filled(" @", STRINGS))
_parameters = joined(filled("@: @", NAMES, types | st.just("int")))
_results = types | filled("(@)", joined(filled("@: @", NAMES, types), least=1))
_guards = optional(
    filled(" where @", joined(filled("@@", expressions, filled(" @", STRINGS)), least=1, most=2))
)
_definitions = filled(
    "@ @(@@) -> @@@ @",
    st.sampled_from(["op", "block", "model"]),
    NAMES,
    _parameters,
    optional(filled("; @: int = @", NAMES, expressions)),
    _results,
    docs,
    _guards,
    blocks,
)
_functions = filled("fn @(@)@ = @", NAMES, joined(NAMES), docs, expressions)
_fields = joined(filled("@: f32 = @", NAMES, expressions), "\n", least=1)
_binds = joined(filled("@ = @", NAMES, expressions), "; ")
_monoids = filled(
    "monoid @@ {\n@\ncombine(a, b) {@}\nfinish(a) {@}\n}", NAMES, docs, _fields, _binds, _binds
)
_imports = filled("import @", STRINGS)


def modules() -> Texts:
    items = st.lists(_definitions | _functions | _monoids | _imports, min_size=1, max_size=2)
    return filled("@@\n", optional(filled("@\n", STRINGS)), items.map("\n".join))


# ---- other layouts -----------------------------------------------------------------------------

_CONTINUES = frozenset(
    {"COMMA", "EQUAL", "PLUS", "STAR", "SLASH", "OF", "THEN", "ELSE", "ARROW", "AND"}
)

_ENDS = ("\n", "\n\n\n", "  # note @\n", "\n # note @\n", " # note @\n\n# note @\n")
_WITHIN = ("\n", " # note @\n", "\n  # note @\n\n")


@st.composite
def relaid(draw: DrawFn, text: str) -> str:
    """The tokens of `text` with other space between them, and with comments `# note N`."""
    counter = count(1)
    pieces: list[str] = []
    end, depth, last = 0, 0, ""
    for token in tokens(text):
        gap = text[end : token.start_pos]
        end = token.end_pos or 0
        depth -= token.type in ("RPAR", "RSQB")
        if token.type == "_NL":
            pieces.append(_numbered(draw(st.sampled_from(_ENDS)), counter))
        else:
            free = _WITHIN if depth > 0 or last in _CONTINUES else ()
            layout = draw(st.sampled_from([gap, gap + " ", *free]))
            pieces.append(_numbered(layout, counter) + str(token))
        depth += token.type in ("LPAR", "LSQB")
        last = token.type
    return "".join(pieces)


def _numbered(layout: str, counter: Iterator[int]) -> str:
    while "@" in layout:
        layout = layout.replace("@", str(next(counter)), 1)
    return layout
