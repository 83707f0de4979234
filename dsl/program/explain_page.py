"""An explanation as one HTML page that needs nothing else.

In: `Explanation`. Out: HTML. Invariant: no address outside the page; every dispatch stands in it
once, every kernel's text once; without scripts all of the text is there (scripts only open it
later: what is folded stands in `noscript`, which costs a browser nothing until it is read).

    page(explanation)      '<!doctype html>…'

The page is `templates/explain.html` with `explain.css` and `explain.js`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from sdlc.language.diagnostics import plural
from sdlc.program.explain_charts import HUES, arena, live_bytes, time_by_definition
from sdlc.program.explain_data import (
    Defined,
    DispatchFacts,
    Explanation,
    GroupFacts,
    KernelFacts,
    Statement,
)
from sdlc.program.explain_highlight import Highlighter
from sdlc.program.explain_text import bytes_text, count_text, time_text

LONG, AROUND = 28, 3
"""A definition of more lines than `LONG` is shown around the lines that a kernel comes from."""
LANGUAGES = {"opencl": "OpenCL C", "wgsl": "WGSL"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text: its number, its HTML, the statements that it belongs to, its colour."""

    number: int
    html: Markup
    statements: str
    hue: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Consecutive lines under a caption; `skipped` says that lines before them are left out."""

    caption: str
    lines: tuple[Line, ...]
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Pane:
    title: str
    listings: tuple[Listing, ...]


@dataclass(frozen=True, slots=True)
class KernelView:
    """A kernel in every language beside its sources; `dispatches` are those that launch it."""

    id: str
    name: str
    panes: tuple[Pane, ...]
    dispatches: tuple[DispatchFacts, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """A dispatch of the list; `source` is where it comes from, where that is not its kernel's."""

    group: GroupFacts
    dispatch: DispatchFacts
    kernel: str
    hue: int
    source: Pane | None


def page(made: Explanation) -> str:
    """The page's HTML."""
    hues = _hues(made)
    highlighter = Highlighter()
    views = _kernel_views(made, highlighter)
    launched = {d.kernel for d in made.dispatches if d.part == "run"}
    slowest = max((max(d.seconds, d.measured) for d in made.dispatches), default=0.0)
    return (
        _environment(highlighter)
        .get_template("explain.html")
        .render(
            made=made,
            rows=_rows(made, views, hues, highlighter),
            count=sum(d.part == "run" for d in made.dispatches),
            distinct=plural(len(launched), "distinct kernel"),
            kernels=views,
            slowest=slowest or 1.0,
            definitions=sorted({name for g in made.groups for name in g.definitions}),
            bars=Markup(time_by_definition(made)),
            curve=Markup(live_bytes(made.live)) if any(made.live) else "",
            blocks=arena(made, lambda name: hues[name]),
            legend=[(name, hue) for name, hue in hues.items() if hue < HUES - 1],
            style=Markup(_file("explain.css")),
            script=Markup(_file("explain.js")),
        )
    )


def _rows(
    made: Explanation, views: Sequence[KernelView], hues: dict[str, int], highlighter: Highlighter
) -> Iterator[Row]:
    ids = {view.name: view.id for view in views}
    statements = {k.name: k.statements for k in made.kernels}
    for group, dispatch in zip(made.groups, made.dispatches, strict=True):
        own, shown = group.statements, statements[dispatch.kernel]
        source = None
        if own != shown and len(own) == len(shown):
            source = _source_pane(own, made.definitions, highlighter)
        yield Row(group, dispatch, ids[dispatch.kernel], hues[group.definition], source)


def _environment(highlighter: Highlighter) -> Environment:
    made = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        time=time_text,
        bytes=bytes_text,
        count=count_text,
        sdl=lambda text: Markup("\n".join(highlighter.lines(text, "sdl"))),
        id=lambda d: f"{'d' if d.part == 'run' else 'l'}{d.number}",
        ticked=ticked,
        size=lambda extents: " × ".join(map(str, extents)),
    )
    return made


def ticked(text: str) -> Markup:
    """What stands between backticks as code; a last one without a partner stays."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = ["`".join(parts[-2:])]
    made = (
        escape(p) if n % 2 == 0 else Markup("<code>{}</code>").format(p)
        for n, p in enumerate(parts)
    )
    return Markup("").join(made)


def _file(name: str) -> str:
    return files("sdlc.program").joinpath("templates", name).read_text("utf-8")


def _hues(made: Explanation) -> dict[str, int]:
    """A colour for every definition: those that take most time have one of their own."""
    spent: dict[str, float] = {}
    for group, dispatch in zip(made.groups, made.dispatches, strict=True):
        spent[group.definition] = spent.get(group.definition, 0.0) + dispatch.seconds
    order = sorted(spent, key=lambda name: -spent[name])
    return {name: min(place, HUES - 1) for place, name in enumerate(order)}


# ---- kernels -------------------------------------------------------------------------------------


def _kernel_views(made: Explanation, highlighter: Highlighter) -> list[KernelView]:
    """Every kernel once, in the order of its first launch."""
    texts: dict[str, list[KernelFacts]] = {}
    for kernel in made.kernels:
        texts.setdefault(kernel.name, []).append(kernel)
    launches: dict[str, list[DispatchFacts]] = {}
    for dispatch in made.dispatches:
        launches.setdefault(dispatch.kernel, []).append(dispatch)
    return [
        KernelView(
            f"k{number}",
            name,
            (
                _source_pane(texts[name][0].statements, made.definitions, highlighter),
                *(_text_pane(text, highlighter) for text in texts[name]),
            ),
            tuple(found),
            sum(d.seconds for d in found),
        )
        for number, (name, found) in enumerate(launches.items())
    ]


def _text_pane(kernel: KernelFacts, highlighter: Highlighter) -> Pane:
    html = highlighter.lines(kernel.text, kernel.language)
    lines = (
        _line(number, text, links)
        for number, (text, links) in enumerate(zip(html, kernel.links, strict=True), 1)
    )
    return Pane(LANGUAGES[kernel.language], (Listing("", tuple(lines)),))


def _source_pane(
    statements: Sequence[Statement], definitions: Iterable[Defined], highlighter: Highlighter
) -> Pane:
    """The definitions that statements stand in, long ones in part."""
    listings: list[Listing] = []
    for d in definitions:
        own: dict[int, list[int]] = {}
        for number, s in enumerate(statements):
            for line in range(max(s.line, d.line), min(s.end_line, d.end_line) + 1):
                if s.file == d.file:
                    own.setdefault(line, []).append(number)
        if own:
            listings += _excerpts(d, own, highlighter)
    return Pane(".sdl", tuple(listings))


def _excerpts(d: Defined, own: dict[int, list[int]], highlighter: Highlighter) -> Iterator[Listing]:
    html = highlighter.lines(d.text, "sdl")
    caption = f"{d.file}:{d.line} {d.name}"
    shown: list[Line] = []
    skipped = False
    for number, text in enumerate(html, d.line):
        near = any(abs(number - line) <= AROUND for line in own)
        if len(html) <= LONG or number == d.line or near:
            shown.append(_line(number, text, own.get(number, ())))
        elif shown:
            yield Listing(caption, tuple(shown), skipped)
            caption, shown, skipped = "", [], True
    if shown:
        yield Listing(caption, tuple(shown), skipped)


def _line(number: int, html: str, links: Sequence[int]) -> Line:
    """Lines of several statements have no colour of their own."""
    hue = "" if not links else f"h{links[0] % HUES}" if len(links) == 1 else "hx"
    return Line(number, Markup(html), " ".join(map(str, links)), hue)
