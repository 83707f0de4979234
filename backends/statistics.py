"""A table of what compilers for GPUs that are not there say of a program's kernels.

In: texts of kernels by language, a target, the folder of the offline compilers. Out: `Statistics`,
one for each kernel, GPU and language. Invariant: drivers' own names for numbers end here; a number
that a driver does not tell is None.

    statistics(texts, "…", folder())[0].spills
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sdlc.backends.listing import Loop, main_loop, phases
from sdlc.backends.offline import (
    Gpu,
    Numbers,
    Outcome,
    compile_offline,
    gpus,
    is_installed,
    setup_script,
    targets,
)
from sdlc.language.diagnostics import Diagnostic, failure
from sdlc.program.device import KernelText

NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "instructions": ("Instruction Count", "instr", "inst"),
        "registers": ("Registers used", "full", "regs"),
        "spill_stores": ("STP Count", "spills"),
        "spill_loads": ("LDP Count", "fills"),
        "loops": ("loops",),
        "short_stalls": ("Estimated cycles stalled on SS", "sstall"),
        "long_stalls": ("Estimated cycles stalled on SY", "systall"),
    }
)
"""Our names for numbers, and the drivers' names for the same thing."""

WIDE_GROUP = 64
"""A driver that prefers multiples above this runs waves of twice the width."""

WAVES = 16
"""The most waves of a core, where a driver tells registers only."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one compiler says of one kernel.

    `registers` are in the driver's unit (docs/targets.md), `occupancy` is the share of a core's
    work-items that can be resident, `spills` counts stores to and loads from private memory that
    the compiler added, `stalls` are cycles that it expects to wait for memory in one pass.
    """

    kernel: str
    gpu: str
    language: str
    instructions: int | None = None
    registers: int | None = None
    occupancy: float | None = None
    spills: int | None = None
    loops: int | None = None
    stalls: int | None = None
    main_loop: Loop | None = None
    phases: tuple[Loop, ...] = ()
    error: str = ""


def lacking(target: str, where: Path) -> Diagnostic | None:
    """A warning (D035) that says how to install the offline compilers for the target where none is
    installed. Raises SdlError (D034) where there is none for it."""
    found = gpus(target)
    if not found:
        raise failure(
            "D034",
            f"no offline compiler stands for the target `{target}`",
            f"there are some for {', '.join(targets())}",
        )
    if any(is_installed(gpu, language, where) for gpu in found for language in gpu.languages):
        return None
    message = f"no statistics: the compilers for `{target}` are not installed in `{where}`"
    help = f"on Debian 12, `bash {setup_script()}` builds them in about five minutes"
    return Diagnostic("D035", message, help=help, severity="warning")


def statistics(
    texts: Mapping[str, Sequence[KernelText]], target: str, where: Path
) -> tuple[Statistics, ...]:
    """Every text, by language, through every installed compiler of the target."""
    return tuple(
        read(text, gpu, language, outcome)
        for gpu in gpus(target)
        for language in gpu.languages
        if language in texts and is_installed(gpu, language, where)
        for text, outcome in zip(
            texts[language], compile_offline(texts[language], gpu, language, where), strict=True
        )
    )


def read(text: KernelText, gpu: Gpu, language: str, outcome: Outcome) -> Statistics:
    """A driver's numbers and listing as ours."""
    if outcome.error:
        return Statistics(text.name, gpu.name, language, error=outcome.error)
    numbers = outcome.numbers | _spills(outcome.listing, gpu)

    def number(name: str) -> int | None:
        found = next((numbers[n] for n in NAMES[name] if n in numbers), None)
        return None if found is None else int(found)

    def total(*names: str) -> int | None:
        found = [n for n in map(number, names) if n is not None]
        return sum(found) if found else None

    return Statistics(
        text.name,
        gpu.name,
        language,
        number("instructions"),
        number("registers"),
        occupancy(numbers, gpu),
        total("spill_stores", "spill_loads"),
        number("loops"),
        total("short_stalls", "long_stalls"),
        main_loop(outcome.listing, gpu.listing),
        phases(outcome.listing, gpu.listing),
    )


def _spills(listing: str, gpu: Gpu) -> Numbers:
    """Stores to and loads from private memory, where the driver prints them only as code."""
    if gpu.listing != "ir3":
        return {}
    lines = listing.splitlines()
    return {
        f"{name.upper()} Count": float(sum(f"{name}." in line for line in lines))
        for name in ("stp", "ldp")
    }


def occupancy(numbers: Numbers, gpu: Gpu) -> float | None:
    """Resident work-items as a share of the most that a core holds."""
    if "threads" in numbers:
        return numbers["threads"] / gpu.threads
    multiple = numbers.get("preferred_work_group_size_multiple")
    waves = numbers.get("Max Waves Per Core")
    if waves is None and "full" in numbers and multiple is not None:
        doubled = 2 if multiple > WIDE_GROUP else 1
        waves = min(WAVES, gpu.core_registers // max(1, int(numbers["full"]) * doubled) * 2)
    width = numbers.get("subgroup_size", multiple)
    return None if waves is None or width is None else waves * width / gpu.threads
