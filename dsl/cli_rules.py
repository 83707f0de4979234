"""`sdlc rules`: what rewrites programs, what each does to arithmetic, and whether it holds.

In: names of rules, or a file of them. Out: a table, a rule's equation, the outcome of a check.
Example:

    sdlc rules flash_attention
    sdlc rules --check my_rules.sdl
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdlc.cli_common import json_option, print_json, print_table

if TYPE_CHECKING:
    from sdlc.graph.rules import Rule

COLUMNS = ("rule", "kind", "numerics", "default", "does")


@click.command("rules", short_help="Lists rules, shows their equations, checks a file's.")
@click.argument("names", nargs=-1)
@click.option(
    "--check",
    "file",
    type=click.Path(path_type=Path),
    help="Check the rules of a file: that each matches, and that its sides are equal.",
)
@json_option
def rules_command(names: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    """Lists the rules that rewrite programs; shows the equations of NAMES.

    \b
    Examples:
      sdlc rules
      sdlc rules flash_attention
      sdlc rules --check my_rules.sdl
    """
    from sdlc.graph.rules import select
    from sdlc.language.elaborate_rule import load_rules
    from sdlc.language.library import load

    if file is not None:
        _check(file, names, as_json)
        return
    known = load_rules(load(None, ""))
    chosen = select(known, only=names) if names else known
    if as_json:
        print_json([_record(rule) for rule in chosen])
    elif names:
        click.echo("\n\n".join(_shown(rule) for rule in chosen))
    else:
        print_table(COLUMNS, (_row(rule) for rule in chosen))


def _check(file: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Every rule of a file, or those named. Raises SdlError for the first that does not hold."""
    from sdlc.graph.rules import select
    from sdlc.language.elaborate_rule import own_rules
    from sdlc.language.library import load
    from sdlc.proof.equations import check_equation

    library = load(file)
    rules = own_rules(library)
    chosen = select(rules, only=names) if names else rules
    held = {rule.name: check_equation(rule, library.sources) for rule in chosen}
    if as_json:
        print_json({"file": str(file), "rules": held})
        return
    for name, count in held.items():
        click.echo(f"{name}: its sides are equal in {count} instances")
    if not held:
        click.echo(f"{file} has no rules")


def _row(rule: Rule) -> tuple[str, ...]:
    from sdlc.graph.mechanisms import DEFAULT

    on = "on" if rule.name in DEFAULT else ""
    return rule.name, rule.kind, rule.numerics.value, on, rule.doc


def _record(rule: Rule) -> dict[str, Any]:
    from sdlc.graph.mechanisms import DEFAULT

    return {
        "name": rule.name,
        "kind": rule.kind,
        "numerics": rule.numerics.value,
        "default": rule.name in DEFAULT,
        "doc": rule.doc,
        "equation": rule.equation,
        "examples": [dict(example) for example in rule.examples],
    }


def _shown(rule: Rule) -> str:
    """A rule in full: its text, where it is an equation."""
    lines = [rule.name, f"  {rule.doc}"]
    if rule.equation:
        lines.append(f"  {rule.equation}")
    lines.append(f"  {rule.kind}, {rule.numerics.value}{f'; {rule.span}' if rule.span else ''}")
    for example in rule.examples:
        lines.append("  example " + ", ".join(f"{n} = {s}" for n, s in example.items()))
    return "\n".join(lines)
