"""Independent pieces of work, shared out over processes of this machine.

In: a function of a number, how many numbers, and in how many processes at most. Out: what it gives
for each, in order. Invariant: the results are those of one process: a piece is whole wherever it is
made, and whatever a helper has not given (it failed, or was killed) is made here, so an exception
is raised by this process, for the first piece that has one.

    each(lambda n: verified(kernels[n]), len(kernels), processes=8)

Helpers are forks, which see all that there is and send back what they made. A fork beside running
threads may wait for ever for what one of them holds, so there is none unless `can_fork`: on Linux,
where no thread of Python runs, and no more of the system than the pool of NumPy's BLAS has, which
lets itself be forked. A driver's threads, or PyTorch's, are more.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

T = TypeVar("T")
FEWEST = 4
"""Pieces that are worth a process."""
TICKET = 4
"""Bytes that say which piece is next."""


def each(work: Callable[[int], T], count: int, processes: int = 1) -> list[T]:
    """`work(0)` … `work(count - 1)`, in this process and up to `processes - 1` others. What `work`
    gives must be such that `pickle` can take it."""
    made: dict[int, T] = {}
    helpers = min(processes, count // FEWEST) - 1
    if helpers > 0 and can_fork():
        with _tickets(count) as tickets, _forked(work, tickets, helpers) as running:
            _work_through(work, tickets, made)
            for helper in running:
                made |= helper.given()
    return [made[n] if n in made else work(n) for n in range(count)]


def can_fork() -> bool:
    """Whether helpers may be forked here and now."""
    if sys.platform != "linux" or threading.active_count() > 1 or current_process().daemon:
        return False
    try:
        return len(os.listdir("/proc/self/task")) <= cores()
    except OSError:
        return False


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


@dataclass(frozen=True, slots=True)
class _Helper:
    process: ForkProcess
    results: Connection

    def given(self) -> dict[int, Any]:
        """What it made; nothing where it came to an end before it could say."""
        try:
            made: dict[int, Any] = pickle.loads(self.results.recv_bytes())
        except (EOFError, OSError):
            return {}
        return made


@contextmanager
def _tickets(count: int) -> Iterator[int]:
    """A pipe of numbers, each of which one reader gets. Those that do not fit are nobody's."""
    tickets, write = os.pipe()
    os.set_blocking(write, False)
    with suppress(BlockingIOError):
        os.write(write, b"".join(n.to_bytes(TICKET, "little") for n in range(count)))
    os.close(write)
    try:
        yield tickets
    finally:
        os.close(tickets)


@contextmanager
def _forked(work: Callable[[int], T], tickets: int, count: int) -> Iterator[list[_Helper]]:
    """Helpers at work; none is left at the end, however it comes."""
    context = get_context("fork")
    running: list[_Helper] = []
    try:
        with suppress(OSError):  # a system that lends no more processes has lent enough
            for _ in range(count):
                results, give = context.Pipe(duplex=False)
                process = context.Process(target=_help, args=(work, tickets, give), daemon=True)
                process.start()
                give.close()
                running.append(_Helper(process, results))
        yield running
    finally:
        for helper in running:
            helper.process.kill()
            helper.process.join()
            helper.results.close()


def _help(work: Callable[[int], T], tickets: int, give: Connection) -> None:
    """What a helper does. It ends soon, so it looks for no garbage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asked, and ends helpers too
    gc.disable()
    made: dict[int, T] = {}
    _work_through(work, tickets, made)
    give.send_bytes(pickle.dumps(made, pickle.HIGHEST_PROTOCOL))


def _work_through(work: Callable[[int], T], tickets: int, made: dict[int, T]) -> None:
    """Makes what no other process makes, until a piece fails: then nobody begins another one."""
    while ticket := os.read(tickets, TICKET):
        number = int.from_bytes(ticket, "little")
        try:
            made[number] = work(number)
        except Exception:  # the first piece that fails is made again, and raises, in `each`
            while os.read(tickets, TICKET):
                pass
