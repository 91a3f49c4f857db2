"""TVM ahead-of-time: a program without dependencies for one processor, or its C source, with every byte planned."""

from __future__ import annotations

from toolkit.backends.ahead_of_time.backend import AheadOfTime
from toolkit.backends.ahead_of_time.compiling import Built, compile_executable, compile_source
from toolkit.backends.ahead_of_time.counting import Instructions, count_instructions
from toolkit.backends.ahead_of_time.executing import execute
from toolkit.backends.ahead_of_time.machines import MACHINES, Machine

__all__ = [
    "MACHINES",
    "AheadOfTime",
    "Built",
    "Instructions",
    "Machine",
    "compile_executable",
    "compile_source",
    "count_instructions",
    "execute",
]
