"""Looking at every value that a network stores while it draws: `--check-finite`.

In: a network on a device, what it was compiled from. Out: nothing, or an SdlError (F001) with
the first operator that made what is no number. Invariant: the pictures are those that are drawn
unchecked. Example: `FiniteCheck(network, folder, place, DType.F16, tell).step(executable, ())`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sdlc.graph.types import DType
from sdlc.models.folder import Model
from sdlc.models.networks import Network, choices_for, planned_network
from sdlc.models.settings import Progress, Report
from sdlc.program.device import DeviceInfo
from sdlc.program.execute import Executable
from sdlc.program.finite import Notes, Place, not_finite
from sdlc.program.watch import NotFiniteError, Watch
from sdlc.target import Target


@dataclass(frozen=True, slots=True)
class FiniteCheck:
    """A network, and what it was compiled from: its plan is made again to say who made a value."""

    network: Network
    folder: Model
    place: tuple[Target, DeviceInfo]
    precision: DType
    tell: Report

    def opened(self, executable: Executable) -> None:
        """Looks at what was computed of the weights. Raises SdlError (F001)."""
        try:
            Watch(executable).loaded()
        except NotFiniteError as found:
            raise self._error(found, ()) from None

    def step(self, executable: Executable, notes: Notes) -> None:
        """One step, dispatch by dispatch. Raises SdlError (F001)."""
        last = time.perf_counter()

        def tell(done: int, total: int) -> None:
            nonlocal last
            now = time.perf_counter()
            spent, last = now - last, now
            self.tell(Progress("check", done, total, spent, self.network.part))

        try:
            Watch(executable, tell=tell).step()
        except NotFiniteError as found:
            raise self._error(found, notes) from None

    def _error(self, found: NotFiniteError, notes: Notes) -> Exception:
        target, info = self.place
        choices = choices_for(self.folder, target, info)
        made = planned_network(self.network, self.folder, target, self.precision, choices)
        return not_finite(found, Place(self.network.part, notes), (made.parts, made.plan))
