"""The command line: `sdlc COMMAND …`.

In: arguments. Out: an exit status: 0 done, 1 a user's error (printed in full on stderr), 2 wrong
usage, 130 interrupted. Invariant: bad input never shows a traceback, and an interrupted or failing
command leaves no half-written file. Commands live in `cli_*.py` and import what they need when
they run, so that `sdlc --help` is quick.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from _thread import interrupt_main
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Timer
from types import TracebackType

import click

from sdlc import __version__
from sdlc.cli_bench import bench_command
from sdlc.cli_cache import cache_command
from sdlc.cli_check import check_command
from sdlc.cli_compile import compile_command
from sdlc.cli_explain import explain_command
from sdlc.cli_generate import generate_command
from sdlc.cli_info import info_command
from sdlc.cli_memory import memory_command
from sdlc.cli_precision import precision_command
from sdlc.cli_report import devices_command, doctor_command, targets_command, version_command
from sdlc.cli_rules import rules_command
from sdlc.cli_run import run_command
from sdlc.cli_source import fmt_command
from sdlc.cli_tune import tune_command

INTERRUPTED = 130
AGAIN_SECONDS = 0.02
MANY_OBJECTS = 50_000
"""Made before Python looks for circles among them: what the compiler makes refers to no circle, and
to look at it again and again takes a fifth of the time."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="sdlc", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of a defect in sdlc itself.")
def commands(debug: bool) -> None:
    """Compiles .sdl programs to OpenCL C and WGSL kernels and runs them.

    \b
    Start here:
      sdlc doctor                                   what can run programs on this machine
      sdlc generate "a slice of pizza" -o pizza.png
      sdlc compile model.sdl --target adreno --set b=1 -o bundle
      sdlc run bundle --input x=x.npy -o out.npz
    """


for _command in (
    compile_command,
    run_command,
    check_command,
    fmt_command,
    devices_command,
    targets_command,
    doctor_command,
    explain_command,
    rules_command,
    bench_command,
    tune_command,
    generate_command,
    info_command,
    memory_command,
    precision_command,
    cache_command,
    version_command,
):
    commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its status. `arguments` default to the process's."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    gc.set_threshold(MANY_OBJECTS)
    with _no_interruption_lost(), _warnings_as_lines():
        status = status_of(given)
    sys.exit(status)


@contextmanager
def _no_interruption_lost() -> Iterator[None]:
    """Ctrl-C during a finalizer or a weak reference's callback, where Python drops exceptions,
    comes again a moment later."""
    before = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            Timer(AGAIN_SECONDS, interrupt_main).start()
        else:
            before(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Warnings of the compiler to a user are one line each, on stderr."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        from sdlc.language.diagnostics import visible

        click.echo(f"warning: {visible(str(message))}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def status_of(arguments: list[str]) -> int:
    """The exit status of a command; errors are printed here, and nowhere else."""
    try:
        result = commands.main(arguments, prog_name="sdlc", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`sdlc explain … | head`): say nothing more to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "--debug" in arguments:
            raise
        click.echo(message_of(error), err=True)
        return 1


def message_of(error: Exception) -> str:
    """What a user reads of an error. Whatever is neither a user's nor the system's is our defect,
    and is said to be one."""
    from sdlc.language.diagnostics import SdlError, failure

    if isinstance(error, SdlError):
        return str(error)
    if isinstance(error, MemoryError):
        return str(failure("X002", "out of memory", "use smaller sizes or --precision f16"))
    if isinstance(error, OSError):
        about = f"`{error.filename}`: " if error.filename else ""
        help = "check that the path exists and that you may read or write it"
        return str(failure("X001", f"{about}{error.strerror or error}", help))
    message = f"defect in sdlc: {type(error).__name__}: {error}"
    notes = (("at", _place(error.__traceback__)),)
    help = "please report it; `sdlc --debug …` shows the traceback"
    return str(failure("X000", message, help, notes))


def _place(trace: TracebackType | None) -> str:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"


if __name__ == "__main__":
    main()
