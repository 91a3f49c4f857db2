"""A device as the compiler sees it: a data file in `profiles/`, read into a frozen dataclass."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from targets.errors import InvalidInput, UnknownName
from targets.latency import LatencyFit
from targets.prior import prior_fit
from targets.stack import Power, QuantFormat, Stack

__all__ = ["Target", "load_stack", "load_target", "prior_of", "target_names"]

_NOT_NUMBERS = {"name", "title", "device_type", "default_stack", "stacks", "source", "notes"}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A device and the stacks it runs. Units are SI: seconds, bytes, watts, operations a second.

    Every number has a line in `source`; a profile without one does not load.
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
    """Read a profile and the fits that belong to it.

    Raises:
        UnknownName: there is no such profile.
        InvalidInput: the profile lacks a field or a source.
    """
    known = target_names()
    if name not in known:
        raise UnknownName("target", name, known)
    return parse_target(_profile(name), _fits(name))


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
    target, _, stack = name.rpartition("/")
    if target:
        return load_target(target).stack(stack)
    every = [s for t in target_names() for s in load_target(t).stacks.values()]
    matches = [s for s in every if s.name == name]
    if len(matches) != 1:
        raise UnknownName("stack", name, [s.id for s in matches or every])
    return matches[0]


def parse_target(data: Mapping[str, Any], fits: Mapping[str, Any]) -> Target:
    """Build a Target from a profile's tables and the coefficients fitted for its stacks.

    Raises:
        InvalidInput: a field is missing, unknown or without a source.
    """
    name = data.get("name", "?")
    plain = {k: v for k, v in data.items() if k not in ("defaults", "stacks")}
    try:
        bare = Target(**plain, stacks={})
        stacks = {
            key: _parse_stack(bare, key, {**data.get("defaults", {}), **table}, fits.get(key))
            for key, table in data["stacks"].items()
        }
        if bare.default_stack not in stacks:
            raise InvalidInput(
                f"profile {name!r}: its default stack {bare.default_stack!r} is not among {', '.join(stacks)}",
                hint="name one of its stacks",
            )
        return Target(**plain, stacks=stacks)
    except (TypeError, KeyError) as error:
        raise InvalidInput(f"profile {name!r}: {error}", hint="compare it with targets/profiles/*.toml") from error


_STACK_NUMBERS = ("runtime_bytes", "parameter_cache_bytes", "link_bytes_s", "prior")


def _parse_stack(target: Target, name: str, table: Mapping[str, Any], fit: Mapping[str, Any] | None) -> Stack:
    if unsourced := [k for k in _STACK_NUMBERS if table.get(k) and k not in target.source]:
        raise InvalidInput(
            f"stack {target.name}/{name}: no source for {', '.join(unsourced)}",
            hint="add a line to [source] that says where each number comes from",
        )
    rest = {k: v for k, v in table.items() if k not in ("power", "quantization", "fuses", "prior")}
    latency = _parse_fit(fit) if fit else prior_fit(target.peak_flop_s, target.dram_bytes_s, target.device_type, table)
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


def _parse_fit(fit: Mapping[str, Any]) -> LatencyFit:
    return LatencyFit(
        **{
            **fit,
            "seen_classes": frozenset(fit["seen_classes"]),
            "seen_macs": tuple(fit["seen_macs"]),
        }
    )


def _profile(name: str) -> dict[str, Any]:
    return tomllib.loads(files("targets").joinpath("profiles", f"{name}.toml").read_text("utf-8"))


def _fits(name: str) -> Mapping[str, Any]:
    path = files("targets").joinpath("calibration", f"{name}.json")
    if not path.is_file():
        return {}
    fits: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
    return fits
