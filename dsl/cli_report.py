"""`sdlc devices`, `targets`, `doctor` and `version`: what there is to run on and to compile for.

In: nothing. Out: tables or JSON. Example:

    sdlc doctor --json
"""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from sdlc import __version__
from sdlc.cli_common import json_option, print_json, print_table, size_text

if TYPE_CHECKING:
    from sdlc.program.device import DeviceInfo
    from sdlc.target import Capabilities, Target

PACKAGES = ("numpy", "pyopencl", "wgpu", "intel-opencl-rt", "safetensors", "tokenizers")
DEVICE_COLUMNS = ("device", "name", "languages", "memory", "f16")


@click.command("devices")
@json_option
def devices_command(as_json: bool) -> None:
    """Lists the devices of this machine, the best first.

    \b
    Examples:
      sdlc devices
      sdlc devices --json
    """
    from sdlc.backends.devices import find_devices

    found = find_devices()
    if as_json:
        print_json([device_record(d) for d in found.devices])
    elif found.devices:
        print_table(DEVICE_COLUMNS, _device_rows(found.devices))
    else:
        click.echo("no device was found: `sdlc doctor` says what to install", err=True)


def device_record(device: DeviceInfo) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(device)


def _device_rows(devices: tuple[DeviceInfo, ...]) -> list[tuple[str, ...]]:
    return [
        (
            d.id,
            d.name,
            ", ".join(d.caps.languages),
            size_text(d.memory_bytes),
            _f16(d.caps),
        )
        for d in devices
    ]


def _f16(caps: Capabilities) -> str:
    return "arithmetic" if caps.f16_arithmetic else "storage" if caps.f16_storage else "none"


@click.command("targets")
@json_option
def targets_command(as_json: bool) -> None:
    """Lists what programs can be compiled for.

    \b
    Examples:
      sdlc targets
      sdlc targets --json
    """
    from sdlc.api import targets

    found = targets()
    if as_json:
        print_json([_target_record(t) for t in found])
        return
    rows = [
        (
            t.name,
            t.title,
            ", ".join(t.caps.languages),
            size_text(t.caps.local_bytes),
            str(t.caps.max_work_items),
            _f16(t.caps),
        )
        for t in found
    ]
    print_table(("target", "hardware", "languages", "local", "work-items", "f16"), rows)


def _target_record(target: Target) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(target)


@click.command("doctor", short_help="Says what was found, what not, and what to install.")
@json_option
def doctor_command(as_json: bool) -> int:
    """Says which devices were found, which were not, and what to install. Exit 1 if there is none.

    \b
    Examples:
      sdlc doctor
      sdlc doctor --json
    """
    from sdlc.backends.devices import find_devices

    found = find_devices()
    versions = {name: _version(name) for name in PACKAGES}
    if as_json:
        print_json(
            {
                "sdlc": __version__,
                "python": platform.python_version(),
                "system": platform.platform(),
                "packages": versions,
                "devices": [device_record(d) for d in found.devices],
                "missing": [
                    {"kind": m.kind, "reason": m.reason, "help": m.help} for m in found.missing
                ],
            }
        )
        return 0 if found.devices else 1
    click.echo(f"sdlc {__version__}, Python {platform.python_version()}, {platform.platform()}")
    click.echo(
        "packages: " + ", ".join(f"{n} {v or '(not installed)'}" for n, v in versions.items())
    )
    if found.devices:
        click.echo("\nfound:")
        print_table(DEVICE_COLUMNS, _device_rows(found.devices))
    for missing in found.missing:
        click.echo(f"\nnot found: {missing.kind}: {missing.reason}\n  help: {missing.help}")
    if not found.devices:
        click.echo("\nno device: programs can be compiled, but not run", err=True)
    return 0 if found.devices else 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


@click.command("version")
@json_option
def version_command(as_json: bool) -> None:
    """Prints the version. Example: sdlc version --json"""
    if as_json:
        print_json({"sdlc": __version__, "python": platform.python_version()})
    else:
        click.echo(f"sdlc {__version__} (Python {sys.version.split()[0]})")
