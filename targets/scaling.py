"""A stack at another clock, in another power mode, with another number of threads, or hot.

Every cost of the latency model (targets.latency) follows what bounds its cause:

- arithmetic the clock of what computes, and threads in the share that the profile states;
- traffic through caches and memory half that clock and half the memory's (a cache runs at the one, memory at the
  other), and threads up to what the memory can deliver;
- dispatch the clock of the processor that does it.

What a power mode draws is its profile's; where none was found, what is drawn above idle falls with the cube of the
clock (voltage falls with it) and with the number of threads. Published rows at several clocks and thread counts are
held against this in `python -m toolkit.bench.scaling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import hypot, log
from typing import Literal

from targets.errors import UnknownName, UsageError
from targets.latency import LatencyFit
from targets.modes import Mode, Setting, Threading
from targets.stack import Power, Stack
from targets.target import Target, load_stack, load_target

__all__ = ["KIND_OF_CAUSE", "beside", "clock_factors", "scaled", "thread_factors"]

Kind = Literal["core", "bytes", "host"]

KIND_OF_CAUSE: Mapping[str, Kind] = {
    "fixed": "host", "launch": "host",
    "convolution": "core", "winograd": "core", "matmul": "core", "depthwise": "core", "recurrent": "core",
    "windows": "bytes", "sums": "bytes", "patches": "bytes", "transforms": "bytes", "activations": "bytes",
    "weights": "bytes", "packing": "bytes",
}  # fmt: skip
"""What bounds each cause. Sums, patches and transforms move elements: with threads they behave as traffic does."""

_BYTES_FOLLOW_CORE = 0.5  # assumed: half of the traffic is served by caches, which run at the core's clock
_CLOCK_SCATTER = 0.6  # deviation of a latency's logarithm for each factor of e in the clock: toolkit.bench.scaling
_POWER_EXPONENT = 3.0  # power modes of AGX Xavier's processor: the cube is within 5 % of the logged watts
_POWER_SCATTER = 0.5  # assumed: relative, for each factor of e in what is drawn above idle


def scaled(stack: Stack, *, mode: str = "", threads: int | None = None, sustained: bool = False) -> Stack:
    """`stack` in the power mode `mode`, with `threads` threads, at the clock that heat leaves under lasting load.

    Its interval is wider, its provenance says from what it was scaled, and it stands for no published rows. What is
    left out stays; a stack that would not change is returned as it is.

    Raises:
        UnknownName: the device has no such mode.
        UsageError: the profile does not say what this needs, or the device has fewer cores.
    """
    setting = Setting(mode, threads, sustained)
    if setting == Setting():
        return stack
    target = load_target(stack.target)
    before = _base_mode(target, stack)
    name, after = _wanted_mode(target, stack, before, mode)
    if sustained:
        after = _hot(target, after)
    count, wanted = _thread_counts(target, stack, threads, after)
    if after == before and count == wanted:
        return stack
    clocks = clock_factors(before, after)
    parallel = thread_factors(target.settings.threading, count, wanted)
    extra = hypot(_clock_scatter(before, after), _thread_scatter(target.settings.threading, count, wanted))
    most_w = max(target.power_budget_w, stack.power.active_w)
    power = _power(stack.power, before, after, wanted / count if count and wanted else 1.0, most_w)
    story = _story(stack, name, sustained and after != target.settings.modes.get(name), clocks, count, wanted)
    return replace(
        stack,
        latency=_scaled_fit(stack.latency, clocks, parallel, extra, story),
        power=power,
        power_mode=name or stack.power_mode,
        threads=wanted if wanted != count else stack.threads or threads,
        setting=Setting(name if mode else "", threads, sustained),
        measured_as={},
    )


_scaled: dict[tuple[int, Setting], tuple[Stack, Stack]] = {}
"""Stacks at settings, by the stack's identity, which is its own for as long as it is kept here beside them."""


def beside(stack: Stack, name: str) -> Stack:
    """The stack called `name` that takes over a part of the work of `stack`, at the same setting if on its device."""
    other = load_stack(name)
    return _set(other, stack.setting) if other.target == stack.target else other


def _set(stack: Stack, setting: Setting) -> Stack:
    """`stack` at `setting`: the same object each time, since an interval tells fits apart by identity.

    A calibration makes another object of a stack, and then another one of this.
    """
    if (id(stack), setting) not in _scaled:
        found = scaled(stack, mode=setting.mode, threads=setting.threads, sustained=setting.sustained)
        _scaled[id(stack), setting] = stack, found
    return _scaled[id(stack), setting][1]


# ---- clocks


def clock_factors(before: Mode, after: Mode) -> dict[Kind, float]:
    """How much longer each kind of cause takes in `after` than in `before`."""
    core = _ratio(before.core_hz, after.core_hz)
    memory = _ratio(before.memory_hz, after.memory_hz)
    host = _ratio(before.host_hz, after.host_hz) if before.host_hz and after.host_hz else core
    slower = after.slower / before.slower
    traffic = _BYTES_FOLLOW_CORE * core + (1 - _BYTES_FOLLOW_CORE) * memory
    return {"core": slower * core, "bytes": slower * traffic, "host": slower * host}


def _ratio(before_hz: float, after_hz: float) -> float:
    return before_hz / after_hz if before_hz and after_hz else 1.0


def _clock_scatter(before: Mode, after: Mode) -> float:
    return hypot(_CLOCK_SCATTER * abs(log(_ratio(before.core_hz, after.core_hz))), before.scatter, after.scatter)


def _base_mode(target: Target, stack: Stack) -> Mode:
    """The mode that the stack's profile is in; one without facts where the device has only one."""
    return target.settings.modes.get(stack.power_mode, Mode(source="the profile"))


def _wanted_mode(target: Target, stack: Stack, before: Mode, wanted: str) -> tuple[str, Mode]:
    if not wanted:
        return stack.power_mode, before
    modes = target.settings.modes
    if not modes:
        raise UsageError(
            f"{target.name} has no power modes in its profile, so there is no {wanted!r}",
            hint="leave the mode out; `toolkit targets` lists the modes of each device",
        )
    spelled = {_plain(name): name for name in modes}
    name = spelled.get(_plain(wanted))
    if name is None:
        raise UnknownName(f"power mode of {target.name}", wanted, modes)
    return name, modes[name]


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")


def _hot(target: Target, mode: Mode) -> Mode:
    """`mode` as far as heat lets it run."""
    lasting = target.settings.sustained
    if lasting is None:
        raise UsageError(
            f"what {target.name} keeps up when it is hot is in no source of its profile",
            hint="leave --sustained out, or name a slower --mode if `toolkit targets` lists one",
        )
    clock = min(filter(None, (mode.core_hz, lasting.core_hz)), default=0.0)
    return replace(
        mode, core_hz=clock, slower=mode.slower * lasting.slower, scatter=hypot(mode.scatter, lasting.scatter),
        power=mode.power if clock == mode.core_hz else None,
    )  # fmt: skip


# ---- threads


def thread_factors(threading: Threading | None, before: int, after: int) -> dict[Kind, float]:
    """How much longer each kind of cause takes with `after` threads than with `before`: Amdahl's law by kind."""
    if threading is None or before == after:
        return {"core": 1.0, "bytes": 1.0, "host": 1.0}
    shares: dict[Kind, float] = {"core": threading.core, "bytes": threading.bytes, "host": threading.host}
    return {kind: (1 - share + share / after) / (1 - share + share / before) for kind, share in shares.items()}


def _thread_scatter(threading: Threading | None, before: int, after: int) -> float:
    return threading.scatter * abs(log(after / before)) if threading and before != after else 0.0


def _thread_counts(target: Target, stack: Stack, wanted: int | None, mode: Mode) -> tuple[int, int]:
    """Threads now and then; 0 and 0 where neither is known nor asked for."""
    threading = target.settings.threading
    now = (stack.threads or threading.unstated) if threading else 0
    if wanted is None:
        then = min(now, mode.cores) if mode.cores else now
        return (now, then) if threading else (0, 0)
    if wanted < 1:
        raise UsageError(f"{wanted} threads cannot run anything", hint="give a number from 1 up")
    if stack.machine and wanted > 1:
        raise UsageError(f"programs such as {stack.id} run on one thread", hint="leave --threads out")
    if threading is None or stack.rules:
        raise UsageError(
            f"how {stack.id} changes with threads is not known: its time goes into an accelerator",
            hint="leave --threads out",
        )
    if not now:
        raise UsageError(
            f"the rows of {stack.id} do not say with how many threads they were measured",
            hint="leave --threads out, or choose another --stack; `toolkit targets` lists them",
        )
    most = min(threading.cores, mode.cores or threading.cores)
    if wanted > most:
        raise UsageError(
            f"{wanted} threads on {target.name}, which has {most} core{'s' if most != 1 else ''} in this mode",
            hint=f"give at most {most}: more threads than cores are not faster",
        )
    return now, wanted


# ---- what comes of it


def _scaled_fit(
    fit: LatencyFit, clocks: Mapping[Kind, float], threads: Mapping[Kind, float], extra: float, story: str
) -> LatencyFit:
    costs = {
        cause: cost * clocks[KIND_OF_CAUSE[cause]] * threads[KIND_OF_CAUSE[cause]] for cause, cost in fit.costs.items()
    }
    return replace(
        fit, costs=costs, scatter=hypot(fit.scatter, extra), provenance=f"scaled from {story}; {fit.provenance}"
    )


def _power(power: Power, before: Mode, after: Mode, threads: float, most_w: float) -> Power:
    """Watts in the mode that was asked for: its profile's, else the cube of the clock above idle, up to `most_w`."""
    stated = power
    if after.power and after.power != before.power:
        own = after.power
        stated = Power(active_w=own.active_w, idle_w=own.idle_w, uncertainty=own.uncertainty, source=own.source)
        dynamic = threads
    else:
        dynamic = threads * _ratio(after.core_hz, before.core_hz) ** _POWER_EXPONENT
    if dynamic == 1:
        return stated
    active = round(min(stated.idle_w + dynamic * (stated.active_w - stated.idle_w), most_w), 2)
    share = (active - stated.idle_w) / active
    widened = hypot(stated.uncertainty, _POWER_SCATTER * abs(log(dynamic)) * share)
    note = f"what is above idle x{dynamic:.2f}, by the cube of the clock and the number of threads"
    return Power(
        active_w=active, idle_w=stated.idle_w, uncertainty=min(widened, 0.9),
        source=f"{stated.source}; {note}",
    )  # fmt: skip


def _story(stack: Stack, name: str, hot: bool, clocks: Mapping[Kind, float], before: int, after: int) -> str:
    """`MAXN to 5W (arithmetic x1.44, memory traffic x1.22, dispatch x1.61)`"""
    parts = []
    if any(factor != 1 for factor in clocks.values()):
        named: tuple[tuple[Kind, str], ...] = (
            ("core", "arithmetic"),
            ("bytes", "memory traffic"),
            ("host", "dispatch"),
        )
        to = name if name != stack.power_mode else ""
        where = f"{stack.power_mode} to {to}" if to else stack.power_mode
        lasting = "lasting load" if hot else ""
        label = " under ".join(filter(None, (where, lasting))) or "the profile's clock"
        factors = ", ".join(f"{what} x{clocks[kind]:.2f}" for kind, what in named)
        parts.append(f"{label} ({factors})")
    elif name != stack.power_mode:
        parts.append(f"{stack.power_mode} to {name} (the same clocks)")
    if before != after:
        parts.append(f"{before} to {after} thread{'s' if after != 1 else ''}")
    return " and from ".join(parts) or "the same clocks under lasting load"
