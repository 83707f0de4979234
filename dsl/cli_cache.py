"""`sdlc cache`: what is kept between calls, and how to be rid of it.

In: nothing, or what to remove. Out: a table of programs and packed weights, with sizes and ages.
Example:

    sdlc cache --clear --unused-days 30
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import json_option, print_json, print_table, size_text

if TYPE_CHECKING:
    from sdlc.program.store import Entry

DAY = 86400.0
UNITS = ((DAY, "days"), (3600.0, "hours"), (60.0, "minutes"))


@click.command("cache", short_help="Lists what is kept between calls, or removes it.")
@click.option("--clear", is_flag=True, help="Remove programs, weights, and builds of kernels.")
@click.option(
    "--unused-days",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Remove only what nobody has used for so long (with --clear).",
)
@json_option
def cache_command(clear: bool, unused_days: float | None, as_json: bool) -> None:
    """Lists the programs and packed weights that were kept, the one used last first, or removes
    them, and drivers' builds of kernels. With --clear, drivers are asked anew for their devices.

    \b
    Examples:
      sdlc cache
      sdlc cache --clear --unused-days 30
    """
    from sdlc.backends.build_cache import BuildCache
    from sdlc.backends.opencl_drivers import forget
    from sdlc.models.cache import program_store
    from sdlc.models.packed import weight_store

    if unused_days is not None and not clear:
        raise click.UsageError("--unused-days says what --clear removes: give both")
    stores, builds = {"programs": program_store(), "weights": weight_store()}, BuildCache.default()
    removed = dict.fromkeys((*stores, "builds"), 0)
    if clear:
        seconds = (unused_days or 0.0) * DAY
        removed = {kind: s.clear(seconds) if s else 0 for kind, s in stores.items()}
        removed["builds"] = builds.clear(seconds)
        forget()
    kept = {kind: s.entries() if s else [] for kind, s in stores.items()}
    folder = next((str(s.folder.parent) for s in stores.values() if s), None)
    sizes = builds.sizes()
    if as_json:
        records = {kind: [_record(e) for e in entries] for kind, entries in kept.items()}
        kernels = {"count": len(sizes), "bytes": sum(sizes)}
        print_json({"folder": folder, **records, "builds": kernels, "removed": removed})
        return
    if clear:
        gone = [f"{count} {kind}" for kind, count in removed.items()]
        click.echo(f"removed {', '.join(gone[:-1])} and {gone[-1]}")
    _print(kept)
    _totals(folder, kept, sizes)


def _print(kept: Mapping[str, list[Entry]]) -> None:
    rows = [
        (e.key[:8], kind, *_said(e), size_text(e.nbytes), age(e.used))
        for kind, entries in kept.items()
        for e in entries
    ]
    if rows:
        print_table(("key", "kind", "kept by", "of what", "size", "last used"), rows)


def _totals(folder: str | None, kept: Mapping[str, list[Entry]], sizes: list[int]) -> None:
    for kind, entries in kept.items():
        size = size_text(sum(e.nbytes for e in entries))
        click.echo(f"{len(entries)} {kind}, {size}")
    click.echo(f"{len(sizes)} builds of kernels by drivers, {size_text(sum(sizes))}; in {folder}")


def _record(entry: Entry) -> dict[str, Any]:
    command, what = _said(entry)
    said = {"command": command, "what": what}
    return {"key": entry.key, **said, "bytes": entry.nbytes, "used": entry.used}


def _said(entry: Entry) -> tuple[str, str]:
    """The command that kept an entry, and what it is."""
    return str(entry.about.get("command", "")), str(entry.about.get("what", "unknown"))


def age(when: float) -> str:
    """A time in the past as people say it: `3 hours ago`."""
    seconds = max(0.0, time.time() - when)
    for length, unit in UNITS:
        if seconds >= 2 * length:
            return f"{int(seconds / length)} {unit} ago"
    return "just now" if seconds < 60 else "a minute ago"
