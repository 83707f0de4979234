"""The charts of a page, as SVG that the page's own style colours.

In: an explanation. Out: SVG text. Invariant: no script, no style and no address inside; every mark
has a title, which browsers show, and what belongs to a dispatch or a definition links to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pygal  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

from sdlc.program.explain_data import DispatchFacts, Explanation, TensorFacts
from sdlc.program.explain_text import bytes_text, time_text

BOUNDS = ("memory", "compute", "launch")
MOST_BARS, OTHERS = 14, "all others"
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))
HUES = 8
"""Colours that definitions share."""
_NOISE = re.compile(
    r"<!--.*?-->|<defs>.*?</defs>|<desc class=\"(?!label).*?</desc>|<title>[^<]*</title>"
    r"| xmlns(:\w+)?=\"[^\"]*\"| target=\"_blank\"| id=\"[^\"]*\"",
    re.S,
)


def time_by_definition(made: Explanation) -> str:
    """Bars: predicted time of the definitions that take most, by what bounds them."""
    spent = _spent(made)
    names = list(spent)[::-1]
    chart = pygal.HorizontalStackedBar(
        **_common(height=60 + 27 * len(names)),
        show_x_guides=True,
        show_y_guides=False,
        x_labels_major_count=5,
        max_scale=7,
    )
    chart.x_labels = names
    chart.value_formatter = time_text
    for bound in BOUNDS:
        chart.add(bound, [_bar(name, bound, spent[name]) for name in names])
    return _cleaned(chart.render(is_unicode=True, disable_xml_declaration=True))


def _spent(made: Explanation) -> dict[str, dict[str, float]]:
    """Seconds by definition and bound, the slowest definition first, the last ones together."""
    spent: dict[str, dict[str, float]] = {}
    for group, dispatch in zip(made.groups, made.dispatches, strict=True):
        if dispatch.part != "run":
            continue
        bounds = spent.setdefault(group.definition, dict.fromkeys(BOUNDS, 0.0))
        bounds[dispatch.bound] += dispatch.seconds
    order = sorted(spent, key=lambda name: -sum(spent[name].values()))
    shown = {name: spent[name] for name in order[:MOST_BARS]}
    if rest := order[MOST_BARS:]:
        shown[OTHERS] = {b: sum(spent[name][b] for name in rest) for b in BOUNDS}
    return shown


def _bar(name: str, bound: str, spent: dict[str, float]) -> dict[str, object]:
    total = time_text(sum(spent.values()))
    title = f"{name}: {time_text(spent[bound])} bound by {bound}, {total} in all"
    link = {} if name == OTHERS else {"xlink": f"#definition={name}"}
    return {"value": spent[bound], "label": title, **link}


def live_bytes(live: Sequence[int]) -> str:
    """The bytes of temporaries that are alive in each dispatch."""
    scale, unit = next((u for u in UNITS if max(live) >= u[0]), UNITS[-1])
    chart = pygal.Line(
        **_common(height=200, width=1240),
        fill=True,
        show_dots=False,
        include_x_axis=True,
        max_scale=6,
        show_x_guides=False,
    )
    step = max(1, -(-len(live) // 14))
    chart.x_labels = [str(n) if n % step == 0 else "" for n in range(len(live))]
    chart.value_formatter = lambda value: f"{value:g} {unit}"
    chart.add("live", [nbytes / scale for nbytes in live])
    return _cleaned(chart.render(is_unicode=True, disable_xml_declaration=True))


def _common(height: int, width: int = 760) -> dict[str, object]:
    return {
        "js": [],
        "width": width,
        "height": height,
        "margin": 6,
        "show_legend": False,
        "truncate_label": 40,
        "style": Style(label_font_size=13, major_label_font_size=13),
    }


def _cleaned(svg: str) -> str:
    """Without what the page brings itself; descriptions of marks become their titles."""
    svg = _NOISE.sub("", svg)
    svg = re.sub(r"<desc class=\"label\">(.*?)</desc>", r"<title>\1</title>", svg)
    svg = re.sub(r"<g [^>]*class=\"plot tooltip-overlay\">.*(?=</g></svg>)", "", svg, flags=re.S)
    return svg.replace("xlink:href", "href")


@dataclass(frozen=True, slots=True)
class Block:
    """A temporary in the picture of the arena: dispatches across, thousandths of it down."""

    name: str
    title: str
    dispatch: int
    x: int
    width: int
    y: str
    height: str
    hue: int


def arena(made: Explanation, hue: Callable[[str], int]) -> tuple[Block, ...]:
    """Every temporary, as long as it is live and where it lies."""
    run = [d for d in made.dispatches if d.part == "run"]
    makers = {o.tensor: d for d in run for o in d.operands if o.written}
    placed = [t for t in made.tensors if t.part == "run" and t.first >= 0 and t.nbytes]
    return tuple(_block(t, makers.get(t.name), made, hue) for t in placed)


def _block(
    tensor: TensorFacts, maker: DispatchFacts | None, made: Explanation, hue: Callable[[str], int]
) -> Block:
    scale = 1000 / made.memory["arena"]  # browsers lose track of coordinates above 10 ** 8
    number = tensor.first if maker is None else maker.number
    definition = made.groups[number].definition
    return Block(
        tensor.name,
        f"{tensor.name}: {tensor.type}, {bytes_text(tensor.nbytes)} at {tensor.offset:,}, "
        f"made by {definition}, live in dispatches {tensor.first} to {tensor.last}",
        number,
        tensor.first,
        tensor.last - tensor.first + 1,
        f"{1000 - scale * (tensor.offset + tensor.nbytes):.3f}",
        f"{scale * tensor.nbytes:.3f}",
        hue(definition),
    )
