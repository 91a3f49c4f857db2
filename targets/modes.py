"""What a profile says of a device's clocks, power modes and threads: the facts that `targets.scaling` works with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from targets.errors import InvalidInput

__all__ = ["Mode", "PowerOfMode", "Setting", "Settings", "Threading", "parse_settings"]

_HINT = "compare it with targets/profiles/*.toml"


@dataclass(frozen=True)
class Setting:
    """How a stack is run otherwise than its profile says; as it stands where nothing is named."""

    mode: str = ""
    threads: int | None = None
    sustained: bool = False


@dataclass(frozen=True, kw_only=True)
class PowerOfMode:
    """Watts at the supply in a power mode; `uncertainty` is the relative half-width of `active_w`."""

    active_w: float
    idle_w: float
    uncertainty: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A power mode, or a clock that a board is run at; 0 where a clock is not known or does not change.

    `core_hz` is the clock of what computes, `host_hz` that of the processor that dispatches to it (where it is another
    one), `memory_hz` that of the memory; `cores` are those of the processor that are on. `slower` multiplies every
    latency: a ratio that was measured where clocks are not published; `scatter` is then the deviation of its logarithm.
    """

    source: str
    core_hz: float = 0.0
    memory_hz: float = 0.0
    host_hz: float = 0.0
    cores: int = 0
    slower: float = 1.0
    scatter: float = 0.0
    power: PowerOfMode | None = None


@dataclass(frozen=True, kw_only=True)
class Threading:
    """How latencies change with the number of threads on a processor of `cores` cores.

    `core`, `bytes` and `host` are the shares of a cause's time that n threads divide by n, by the kind of cause; the
    rest stays. `unstated` is the number of threads of stacks whose rows do not say it, 0 where nothing tells.
    `scatter` is the deviation of a latency's logarithm for each factor of e in the number of threads.
    """

    cores: int
    core: float
    bytes: float
    host: float
    scatter: float
    source: str
    unstated: int = 0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that a device can be run at. `sustained` is what heat leaves of its clock under lasting load."""

    modes: Mapping[str, Mode]
    sustained: Mode | None = None
    threading: Threading | None = None


def parse_settings(data: Mapping[str, Any], device: str) -> Settings:
    """Read the tables `modes`, `sustained` and `threading` of a profile.

    Raises:
        TypeError: a field is missing or unknown.
        InvalidInput: a number is out of range or without a source.
    """
    modes = {name: _mode(table) for name, table in data.get("modes", {}).items()}
    sustained = _mode(data["sustained"]) if "sustained" in data else None
    threading = Threading(**data["threading"]) if "threading" in data else None
    found = Settings(modes=modes, sustained=sustained, threading=threading)
    for where, problem in _problems(found):
        raise InvalidInput(f"profile {device!r}, [{where}]: {problem}", hint=_HINT)
    return found


def _mode(table: Mapping[str, Any]) -> Mode:
    rest = {key: value for key, value in table.items() if key != "power"}
    return Mode(**rest, power=PowerOfMode(**table["power"]) if "power" in table else None)


def _problems(found: Settings) -> Iterator[tuple[str, str]]:
    every = {f"modes.{name}": mode for name, mode in found.modes.items()}
    if found.sustained:
        every["sustained"] = found.sustained
    for where, mode in every.items():
        if not mode.source.strip():
            yield where, "no source says where its numbers come from"
        clocks = (mode.core_hz, mode.memory_hz, mode.host_hz, mode.cores, mode.scatter)
        if not all(isfinite(number) and number >= 0 for number in clocks):
            yield where, "a clock is below zero"
        if not (isfinite(mode.slower) and mode.slower > 0):
            yield where, "`slower` is not more than zero"
        if not mode.core_hz and mode.slower == 1 and not mode.scatter:
            yield where, "it states neither `core_hz` nor a measured `slower`"
        if mode.power and not 0 < mode.power.idle_w <= mode.power.active_w:
            yield where, "idle power is not between zero and active power"
    if found.threading:
        yield from (("threading", problem) for problem in _threading_problems(found.threading))


def _threading_problems(threads: Threading) -> Iterator[str]:
    if not threads.source.strip():
        yield "no source says where its numbers come from"
    if threads.cores < 1 or not 0 <= threads.unstated <= threads.cores:
        yield "`cores` is below one, or `unstated` is not among them"
    if not all(0 <= share <= 1 for share in (threads.core, threads.bytes, threads.host)):
        yield "a share is not between zero and one"
    if not threads.scatter >= 0:
        yield "`scatter` is below zero"
