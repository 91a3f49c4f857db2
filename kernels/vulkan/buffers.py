"""Buffers that outlive their arrays: asking a driver for memory takes as long as a product of 1,024."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from threading import Lock
from typing import Any

__all__ = ["Buffers", "Lent"]

_IDLE_BYTES = 2**28


class Lent:
    """A buffer that goes back when nobody holds this any more."""

    __slots__ = ("_home", "handle", "nbytes")

    def __init__(self, home: Buffers, handle: Any, nbytes: int) -> None:
        self._home, self.handle, self.nbytes = home, handle, nbytes

    def __del__(self) -> None:
        self._home.keep(self.handle, self.nbytes)


class Buffers:
    """What `make` gives for a number of bytes, made anew only where none of that size lies idle.

    A device works in the order in which it is given work, so what still reads a buffer is done before the next array
    writes it.

    Args:
        idle_bytes: What may lie idle; of more, the size that came back longest ago is let go first.
    """

    def __init__(self, make: Callable[[int], Any], idle_bytes: int = _IDLE_BYTES) -> None:
        self._make, self._most_bytes = make, idle_bytes
        self._idle: OrderedDict[int, list[Any]] = OrderedDict()
        self._back: deque[tuple[int, Any]] = deque()
        self._lock = Lock()
        self.idle_bytes = self.made = 0

    def lend(self, nbytes: int) -> Lent:
        """A buffer of that size, with anything in it.

        Raises:
            MemoryError: there is too little, even when nothing lies idle.
        """
        with self._lock:
            self._put_away()
            if idle := self._idle.get(nbytes):
                self.idle_bytes -= nbytes
                return Lent(self, idle.pop(), nbytes)
        try:
            made = self._make(nbytes)
        except MemoryError:
            self.let_go()
            made = self._make(nbytes)
        self.made += 1
        return Lent(self, made, nbytes)

    def keep(self, handle: Any, nbytes: int) -> None:
        """A buffer that nobody holds any more. Python may find that out anywhere, within these methods too: whoever
        has the lock by then, or comes next, puts it away."""
        self._back.append((nbytes, handle))
        while self._back and self._lock.acquire(blocking=False):
            try:
                self._put_away()
            finally:
                self._lock.release()

    def let_go(self) -> None:
        """Give what lies idle back to the driver."""
        with self._lock:
            self._put_away()
            self._let_go(0)

    def _put_away(self) -> None:
        while self._back:
            nbytes, handle = self._back.popleft()
            self._idle.setdefault(nbytes, []).append(handle)
            self._idle.move_to_end(nbytes)
            self.idle_bytes += nbytes
        self._let_go(self._most_bytes)

    def _let_go(self, most_bytes: int) -> None:
        while self.idle_bytes > most_bytes:
            size, idle = next(iter(self._idle.items()))
            if idle:
                idle.pop()
                self.idle_bytes -= size
            else:
                del self._idle[size]
