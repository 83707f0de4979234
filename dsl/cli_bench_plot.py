"""The plot of `sdlc bench`: the ablation's time and memory, or where the time goes.

In: measurements. Out: a .png, an .svg, or an .html page that holds the latter; matplotlib draws.
Invariant: the file appears when it is complete.

    write_plot(Path("unet.html"), timed, ablation=True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdlc.cli_common import write_whole
from sdlc.language.diagnostics import failure

if TYPE_CHECKING:
    from sdlc.cli_bench_run import Timed

MOST_BARS = 20
MIB = 2**20
BAR_HEIGHT, PANEL_WIDTH, MARGIN = 34, 420, 140
"""Pixels."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars from top to bottom."""

    title: str
    labels: tuple[str, ...]
    values: tuple[float, ...]


def write_plot(path: Path, timed: Sequence[Timed], ablation: bool) -> None:
    """Draws into `path`. Raises SdlError (K002) where matplotlib is not installed."""
    rows = [panels(name, of, ablation) for name, of in _by_program(timed).items()]
    is_page = path.suffix == ".html"
    drawn = _picture(rows, "svg" if is_page else path.suffix[1:])
    data = _page(f"sdlc bench {timed[0].name}", drawn) if is_page else drawn
    write_whole(path, lambda file: file.write(data))


def _by_program(timed: Sequence[Timed]) -> dict[str, list[Timed]]:
    found: dict[str, list[Timed]] = {}
    for each in timed:
        found.setdefault(each.name, []).append(each)
    return found


def panels(name: str, timed: Sequence[Timed], ablation: bool) -> tuple[Panel, ...]:
    """One program's panels: the rows' latency and memory, or the kernels that take longest."""
    if ablation:
        labels = tuple(t.row.name for t in timed)
        return (
            Panel(f"{name}: latency, ms", labels, tuple(t.median * 1e3 for t in timed)),
            Panel("tensors, MiB", labels, tuple(t.program.memory.arena / MIB for t in timed)),
            Panel("weights, MiB", labels, tuple(t.program.memory.weights / MIB for t in timed)),
        )
    from sdlc.program.profile import summed

    rows = summed(timed[0].dispatches, lambda m: m.kernel)[:MOST_BARS]
    labels = tuple(f"{row.name} ({row.count}×)" for row in rows)
    values = tuple(row.seconds * 1e3 for row in rows)
    return (Panel(f"{name}: time on the device by kernel, ms", labels, values),)


def _page(title: str, drawing: bytes) -> bytes:
    """The drawing in an HTML page of its own."""
    svg = drawing.decode()
    body = (
        f"<!DOCTYPE html>\n<meta charset=utf-8>\n<title>{title}</title>\n{svg[svg.index('<svg') :]}"
    )
    return body.encode()


def check_library() -> None:
    """Raises SdlError (K002) where there is nothing to draw with."""
    _figures()


def _figures() -> Any:
    try:
        return import_module("matplotlib.figure")
    except ImportError as error:
        message = "the plot needs matplotlib, which is not installed"
        raise failure("K002", message, "pip install 'sdlc[plot]'") from error


def _picture(rows: Sequence[Sequence[Panel]], form: str) -> bytes:
    figures = _figures()
    columns = max(len(panels) for panels in rows)
    height = sum(MARGIN + BAR_HEIGHT * len(panels[0].labels) for panels in rows)
    size = ((columns + 0.6) * PANEL_WIDTH / 100, height / 100)
    figure = figures.Figure(figsize=size, layout="constrained", dpi=150)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for y, panels in enumerate(rows):
        for x, panel in enumerate(panels):
            places = range(len(panel.labels))
            axis = axes[y][x]
            axis.bar_label(axis.barh(places, panel.values), fmt="%.4g", padding=3)
            axis.set_yticks(places, panel.labels if x == 0 else [""] * len(panel.labels))
            axis.invert_yaxis()
            axis.margins(x=0.2)
            axis.set_xlim(left=0, right=None if any(panel.values) else 1)
            axis.set_title(panel.title, fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
    made = BytesIO()
    figure.savefig(made, format=form)
    return made.getvalue()
