"""Work shared out over processes: the results and the errors are those of one process.

What forks runs in a process of its own (`alone`): drivers that other tests have opened have
threads, beside which nothing is forked.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest

from sdlc.api import make_request
from sdlc.graph.types import DType
from sdlc.kernel import ir as k
from sdlc.kernel.verify import KernelError
from sdlc.program import pipeline, workers
from sdlc.program.workers import each

BLOCK = Path(__file__).parent / "programs" / "sd_block.sdl"
SIZES = {"b": 1, "c": 32, "h": 4, "w": 4, "e": 16, "t": 5, "d": 8}
COUNT = 40
linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


def alone(work: Callable[[], None]) -> None:
    """Runs a function of this file in a new process."""
    code = f"import test_workers; test_workers.{work.__name__}()"
    folder = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr


def in_two(work: Callable[[int], object]) -> list[object]:
    assert workers.can_fork() or workers.cores() < 2
    return each(work, COUNT, processes=2)


def shared_out() -> None:
    made = in_two(lambda n: (n, os.getpid()))
    assert [n for n, _ in made] == list(range(COUNT))  # type: ignore[misc]
    assert not active_children()


def helpers_that_die() -> None:
    asked = os.getpid()

    def work(number: int) -> int:
        if os.getpid() != asked:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    assert in_two(work) == list(range(COUNT))


def the_first_error() -> None:
    class NotToBeSent(Exception):
        pass

    def work(number: int) -> int:
        if number >= 17:
            raise NotToBeSent(number)
        return number

    with pytest.raises(NotToBeSent, match=r"^17$"):
        in_two(work)
    assert not active_children()


def interrupted() -> None:
    asked = os.getpid()

    def work(number: int) -> int:
        if os.getpid() == asked:
            raise KeyboardInterrupt
        signal.pause()
        return number

    with pytest.raises(KeyboardInterrupt):
        in_two(work)
    assert not active_children()


def small_work() -> None:
    for work in (shared_out, helpers_that_die, the_first_error, interrupted):
        work()


def programs() -> None:
    """What two processes make is what one makes; what a verifier finds in a helper is said by who
    asked, of the first kernel."""
    request = make_request(BLOCK, "nvidia", None, SIZES, (None, "f16"))
    both = replace(request, processes=2)
    one, two = request.build(), both.build()
    names = list(one.program.kernels)
    assert len(names) >= 2 * workers.FEWEST
    assert one.program == two.program
    assert [k.nest for k in one.program.all_kernels] == [k.nest for k in two.program.all_kernels]
    texts = one.texts(), two.texts()
    assert texts[0] == texts[1]
    assert [t.statements for t in texts[0]] == [t.statements for t in texts[1]]

    def verify(kernel: k.Kernel, caps: object = None) -> None:
        if kernel.name in names[3:5]:
            raise KernelError(kernel, ("not today",))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KernelError, match=names[3]) as found:
        patch.setattr(pipeline, "verify", verify)
        both.build()
    assert found.value.kernel.name == names[3]


@linux
@pytest.mark.parametrize("work", [small_work, programs])
def test_forked(work: Callable[[], None]) -> None:
    alone(work)


@linux
def test_nothing_is_forked_beside_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 1_000)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert set(each(lambda _: os.getpid(), COUNT, processes=4)) == {os.getpid()}
    finally:
        done.set()
        thread.join()
    monkeypatch.setattr(workers, "cores", lambda: 0)  # so that every process has too many threads
    assert set(each(lambda _: os.getpid(), COUNT, processes=4)) == {os.getpid()}


def test_kernels_can_be_sent_however_deep_their_expressions_are() -> None:
    x = k.Buffer("x", DType.F32, 8)
    out = k.Buffer("out", DType.F32, 8, access=k.Access.WRITE)
    at = k.WorkId("lane", 0)
    value: k.Expr = k.Load(x, at)
    for _ in range(3_000):
        value = k.call("add", value, k.f32(0.5))
    body = (k.For(k.Var("i", k.I32), 2, (k.Store(out, at, value, k.call("lt", at, k.i32(5))),)),)
    kernel = k.Kernel("deep", (x, out), (), body, (1, 1, 1), (8, 1, 1), "a nest")
    assert pickle.loads(pickle.dumps(kernel)) == kernel
