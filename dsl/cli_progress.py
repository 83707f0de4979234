"""What long commands tell while they run: a bar on a terminal, plain lines elsewhere.

In: what is being done, how much of how much. Out: text on stderr. Invariant: where stderr is no
terminal a command that takes seconds says nothing, one that takes longer says a line at most every
`EVERY` seconds; stdout is left alone.

    with progress("compiling", 24) as tell:
        tell("unet", 0, 3)                      0:02:10  unet, 0 of 3 done
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import click

EVERY = 30.0
"""Seconds from one line to the next."""


@dataclass(slots=True)
class Lines:
    """Says what is being done where no bar can be drawn."""

    began: float = field(default_factory=lambda: time.monotonic())
    said: float = 0.0
    """Seconds after it began."""

    def line(self, what: str) -> None:
        """Says it, unless there was a line a moment ago."""
        passed = time.monotonic() - self.began
        if passed >= self.said + EVERY:
            self.said = passed
            click.echo(f"{clock(passed)}  {what}", err=True)

    def counted(self, what: str, done: int, total: int) -> None:
        self.line(f"{what}, {done} of {total} done")

    def estimated(self, what: str, done: int, total: int) -> None:
        """With how long the rest takes, if what is done is like it."""
        passed = time.monotonic() - self.began
        left = f", about {clock(passed / done * (total - done))} left" if done else ""
        self.line(f"{what}, {done} of {total} done{left}")


def clock(seconds: float) -> str:
    """`0:02:10`."""
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def progress(
    first: str, width: int, remaining: bool = False
) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with `width` letters for what is being done (at the beginning `first`); it is told
    that, how much is done, and of how much. `remaining`: it also says how long the rest will take,
    by the last ten minutes."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        lines = Lines()
        yield lines.estimated if remaining else lines.counted
        return
    columns: tuple[rich.ProgressColumn, ...] = (
        rich.TextColumn(f"{{task.description:{width}.{width}}}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
    )
    if remaining:
        columns += (rich.TextColumn("left"), rich.TimeRemainingColumn())
    settings: dict[str, Any] = {"console": console, "transient": True}
    with rich.Progress(*columns, **settings, speed_estimate_period=600) as bars:
        task = bars.add_task(first, total=None)

        def tell(name: str, number: int, total: int) -> None:
            bars.update(task, description=name, completed=number, total=total)

        yield tell


@contextmanager
def status(first: str) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """A line of what is being done, and who says lines on stdout meanwhile."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines().line, click.echo
        return
    with console.status(first) as shown:

        def say(line: str) -> None:
            shown.stop()  # it would have the line on stderr
            click.echo(line)
            shown.start()

        yield shown.update, say
