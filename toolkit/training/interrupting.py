"""An interrupt that waits for the end of a step: what a checkpoint then holds is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts", "interrupts"]


class Interrupts:
    """Whether the user asked to stop; who asks twice does not want to wait."""

    asked = False

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """A block in which SIGINT is noted instead of raised; outside of the main thread nothing is changed.

    A handler that somebody else set stays in force: only Python's own is taken over.
    """
    seen = Interrupts()
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield seen
        return
    signal.signal(signal.SIGINT, seen._ask)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
