"""`sdlc cache`: what is kept between calls, and how to be rid of it.

In: nothing, or what to remove. Out: a table of programs, with sizes and ages. Example:

    sdlc cache --clear --unused-days 30
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import json_option, print_json, print_table, size_text

if TYPE_CHECKING:
    from sdlc.program.store import Entry

DAY = 86400.0
UNITS = ((DAY, "days"), (3600.0, "hours"), (60.0, "minutes"))


@click.command("cache")
@click.option("--clear", is_flag=True, help="Remove programs, and drivers' builds of kernels.")
@click.option(
    "--unused-days",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Remove only what nobody has used for so long (with --clear).",
)
@json_option
def cache_command(clear: bool, unused_days: float | None, as_json: bool) -> None:
    """Lists the programs that were kept, the one used last first, or removes them.

    \b
    Examples:
      sdlc cache
      sdlc cache --clear --unused-days 30
    """
    from sdlc.backends.build_cache import BuildCache
    from sdlc.models.cache import program_store

    if unused_days is not None and not clear:
        raise click.UsageError("--unused-days says what --clear removes: give both")
    store, builds = program_store(), BuildCache.default()
    removed = {"programs": 0, "builds": 0}
    if clear:
        seconds = (unused_days or 0.0) * DAY
        removed["programs"] = 0 if store is None else store.clear(seconds)
        removed["builds"] = builds.clear(seconds)
    entries = [] if store is None else store.entries()
    sizes = builds.sizes()
    if as_json:
        folder = None if store is None else str(store.folder.parent)
        kernels = {"count": len(sizes), "bytes": sum(sizes)}
        programs = [_record(e) for e in entries]
        print_json({"folder": folder, "programs": programs, "builds": kernels, "removed": removed})
        return
    if clear:
        click.echo(f"removed {removed['programs']} programs and {removed['builds']} builds")
    if entries:
        rows = [(e.key[:8], *_said(e), size_text(e.nbytes), age(e.used)) for e in entries]
        print_table(("key", "kept by", "program", "size", "last used"), rows)
    _totals(store.folder.parent if store else None, entries, sizes)


def _totals(folder: Path | None, entries: list[Entry], sizes: list[int]) -> None:
    programs = size_text(sum(e.nbytes for e in entries))
    click.echo(f"{len(entries)} programs, {programs}; {len(sizes)} builds of kernels by drivers,")
    click.echo(f"{size_text(sum(sizes))}; in {folder}")


def _record(entry: Entry) -> dict[str, Any]:
    command, what = _said(entry)
    said = {"command": command, "what": what}
    return {"key": entry.key, **said, "bytes": entry.nbytes, "used": entry.used}


def _said(entry: Entry) -> tuple[str, str]:
    """The command that kept an entry, and what it is."""
    command, what = (str(entry.about.get(name, "unknown")) for name in ("command", "what"))
    return command, what


def age(when: float) -> str:
    """A time in the past as people say it: `3 hours ago`."""
    seconds = max(0.0, time.time() - when)
    for length, unit in UNITS:
        if seconds >= 2 * length:
            return f"{int(seconds / length)} {unit} ago"
    return "just now" if seconds < 60 else "a minute ago"
