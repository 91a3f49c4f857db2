"""A device as the compiler sees it: a data file in `profiles/`, read into a frozen dataclass."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from targets.coefficients import check, fit_of
from targets.errors import InvalidInput, UnknownName
from targets.latency import LatencyFit
from targets.modes import Settings, parse_settings
from targets.overlay import is_current, own_fits
from targets.prior import lowering_of, prior_fit
from targets.stack import Power, QuantFormat, Stack
from targets.workload import ITEM_BYTES

__all__ = [
    "Target", "digest_of", "load_stack", "load_target", "prior_of", "shipped_stack", "shipped_target", "target_names",
    "vector_width",
]  # fmt: skip

_NOT_NUMBERS = {"name", "title", "device_type", "default_stack", "stacks", "source", "notes", "settings"}
_TABLES = ("defaults", "stacks", "modes", "sustained", "threading")  # read into other things than fields


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device and the stacks it runs. Units are SI: seconds, bytes, watts, operations a second.

    Every number has a line in `source`; a profile without one does not load. `settings` are the modes, clocks and
    thread counts that it can be run at, each with a source of its own.
    `usable_memory_bytes` is what is left for a model beside the system; `peak_flop_s` maps a precision to the
    arithmetic peak (a multiply-add counts as two).
    """

    name: str
    title: str
    device_type: Literal["cpu", "gpu", "tpu"]
    memory_bytes: int
    usable_memory_bytes: int
    peak_flop_s: Mapping[str, float]
    dram_bytes_s: float
    power_budget_w: float
    latency_target_s: float
    parameters: Mapping[str, Any]
    default_stack: str
    stacks: Mapping[str, Stack]
    source: Mapping[str, str]
    settings: Settings
    notes: str = ""

    def __post_init__(self) -> None:
        numbers = {f.name for f in fields(self)} - _NOT_NUMBERS
        if unsourced := sorted(numbers - set(self.source)):
            raise InvalidInput(
                f"target {self.name!r}: no source for {', '.join(unsourced)}",
                hint="add a line to [source] that says where each number comes from",
            )

    def stack(self, name: str | None = None) -> Stack:
        """The stack called `name`, or the default one.

        Raises:
            UnknownName: this target has no such stack.
        """
        wanted = (name or self.default_stack).removeprefix(f"{self.name}/")
        if wanted not in self.stacks:
            raise UnknownName(f"stack of {self.name}", wanted, self.stacks)
        return self.stacks[wanted]


def target_names() -> list[str]:
    """Every target that has a profile, sorted."""
    entries = files("targets").joinpath("profiles").iterdir()
    return sorted(p.name.removesuffix(".toml") for p in entries if p.name.endswith(".toml"))


@cache
def load_target(name: str) -> Target:
    """Read a profile and the fits that belong to it: the user's own where there are any, else those that are shipped.

    Raises:
        UnknownName: there is no such profile.
        InvalidInput: the profile lacks a field or a source, or the user's calibrations are damaged.
    """
    _check_name(name)
    return parse_target(_profile(name), _fits(name), own_fits(name))


def shipped_target(name: str) -> Target:
    """The target as if the user had calibrated nothing; raises what `load_target` raises."""
    _check_name(name)
    return parse_target(_profile(name), _fits(name))


def _check_name(name: str) -> None:
    known = target_names()
    if name not in known:
        raise UnknownName("target", name, known)


def prior_of(target: Target, stack: str) -> LatencyFit:
    """What the stack's latency model starts from: data-sheet peaks, whether or not it has been fitted since."""
    profile = _profile(target.name)
    table = {**profile.get("defaults", {}), **profile["stacks"][stack]}
    return prior_fit(target.peak_flop_s, target.dram_bytes_s, target.device_type, table)


def load_stack(name: str) -> Stack:
    """The stack called `target/stack`, or the one stack of that name in any target.

    Raises:
        UnknownName: no stack, or more than one, answers to `name`.
    """
    return _find_stack(name, load_target)


def shipped_stack(name: str) -> Stack:
    """What `load_stack` gives where the user has calibrated nothing."""
    return _find_stack(name, shipped_target)


def vector_width(stack: Stack) -> int:
    """Elements that the processor of `stack` takes at once, in the precision of the stack.

    Registers are as wide as the profile's `vector_bits`; where it states none, 128 bits: of NEON, and what tensor cores
    take at once in each precision.
    """
    bits: int = load_target(stack.target).parameters.get("vector_bits", 128)
    return bits // 8 // ITEM_BYTES[stack.dtype]


def digest_of(stack: Stack) -> str:
    """The stack's digest and those of its host and its float32 twin, which price a part of the operators.

    A user may calibrate each of them by itself.
    """
    others = [digest_of(load_stack(name)) for name in (stack.host, stack.float_stack) if name]
    return " ".join((stack.digest(), *others))


def _find_stack(name: str, load: Callable[[str], Target]) -> Stack:
    target, _, stack = name.rpartition("/")
    if target:
        return load(target).stack(stack)
    every = [s for t in target_names() for s in load(t).stacks.values()]
    matches = [s for s in every if s.name == name]
    if len(matches) != 1:
        raise UnknownName("stack", name, [s.id for s in matches or every])
    return matches[0]


def parse_target(data: Mapping[str, Any], fits: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> Target:
    """Build a Target from a profile's tables, the coefficients fitted for its stacks and the user's calibrations.

    Raises:
        InvalidInput: a field is missing, unknown or without a source; a calibration is damaged.
    """
    own = own or {}
    name = data.get("name", "?")
    plain = {k: v for k, v in data.items() if k not in _TABLES}
    try:
        plain["settings"] = parse_settings(data, name)
        bare = Target(**plain, stacks={})
        stacks = {
            key: _with_own(_parse_stack(bare, key, {**data.get("defaults", {}), **table}, fits.get(key)), own.get(key))
            for key, table in data["stacks"].items()
        }
        if bare.default_stack not in stacks:
            raise InvalidInput(
                f"profile {name!r}: its default stack {bare.default_stack!r} is not among {', '.join(stacks)}",
                hint="name one of its stacks",
            )
        _check_modes(bare, stacks)
        return Target(**plain, stacks=stacks)
    except (TypeError, KeyError) as error:
        raise InvalidInput(f"profile {name!r}: {error}", hint="compare it with targets/profiles/*.toml") from error


def _check_modes(target: Target, stacks: Mapping[str, Stack]) -> None:
    """Scaling starts from the mode that a stack is in, so the profile must hold it."""
    modes = target.settings.modes
    for stack in stacks.values():
        if modes and stack.power_mode not in modes:
            raise InvalidInput(
                f"stack {stack.id}: its power mode {stack.power_mode!r} is not among {', '.join(modes)}",
                hint="name one of [modes], or describe the mode there",
            )


_STACK_NUMBERS = ("runtime_bytes", "parameter_cache_bytes", "link_bytes_s", "prior")


def _parse_stack(target: Target, name: str, table: Mapping[str, Any], fit: Mapping[str, Any] | None) -> Stack:
    if unsourced := [k for k in _STACK_NUMBERS if table.get(k) and k not in target.source]:
        raise InvalidInput(
            f"stack {target.name}/{name}: no source for {', '.join(unsourced)}",
            hint="add a line to [source] that says where each number comes from",
        )
    rest = {k: v for k, v in table.items() if k not in ("power", "quantization", "fuses", "prior")}
    latency = (
        fit_of(fit, lowering_of(table))
        if fit
        else prior_fit(target.peak_flop_s, target.dram_bytes_s, target.device_type, table)
    )
    quantization = table.get("quantization")
    return Stack(
        name=name,
        target=target.name,
        latency=latency,
        power=Power(**table["power"]),
        quantization=QuantFormat(**quantization) if quantization else None,
        fuses=frozenset(table.get("fuses", ())),
        **rest,
    )


def _with_own(stack: Stack, entry: Mapping[str, Any] | None) -> Stack:
    """The stack with what the user measured on it; one of another version is told, not used."""
    if entry is None:
        return stack
    if not is_current(entry):
        return replace(stack, own_calibration="outdated")
    try:
        latency = fit_of(entry["latency"], stack.latency.lowering)
        check(latency)
        return replace(stack, **entry["stack"], latency=latency, own_calibration="used")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"your calibration of {stack.id} is damaged: {error}",
            hint=f"make it again, or drop it: toolkit calibrate {stack.id} --forget",
        ) from error


def _profile(name: str) -> dict[str, Any]:
    return tomllib.loads(files("targets").joinpath("profiles", f"{name}.toml").read_text("utf-8"))


def _fits(name: str) -> Mapping[str, Any]:
    path = files("targets").joinpath("calibration", f"{name}.json")
    if not path.is_file():
        return {}
    fits: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    return fits
