"""Which core of QEMU's stands for a target's, and what Linux says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from targets.errors import MissingDependency
from targets.target import Target
from toolkit.backends.ahead_of_time.machines import MACHINES, Machine

__all__ = ["CORES", "Core", "core_of"]


@dataclass(frozen=True, kw_only=True)
class Core:
    """A core as profiles call it.

    Args:
        name: In `parameters` of a profile: `core`, `cpu`, or the beginning of `isa`.
        machine: The same for QEMU and for compilers.
        part: Of the main identification register; of Arm's cores alone.
        features: As Linux lists them; of Arm's cores alone.
        lacks: What the target has and the emulated core has not.
    """

    name: str
    machine: Machine
    part: int = 0
    features: str = ""
    lacks: str = ""


_ARMV8 = "fp asimd evtstrm crc32 cpuid"
_ARMV8_2 = f"{_ARMV8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"


def _arm(number: int, part: int, features: str) -> Core:
    machine = MACHINES[f"aarch64-cortex-a{number}"]
    return Core(name=f"Cortex-A{number}", machine=machine, part=part, features=features)


CORES = (
    _arm(53, 0xD03, _ARMV8),
    _arm(57, 0xD07, _ARMV8),
    _arm(72, 0xD08, _ARMV8),
    _arm(76, 0xD0B, _ARMV8_2),
    Core(name="x86-64-v3", machine=MACHINES["x86_64"], lacks="VNNI"),
)
"""Part numbers: Arm's technical reference manuals, MIDR_EL1. Features: hwcaps of Linux, without the optional AES."""


def core_of(target: Target) -> Core:
    """The core that computes on `target`, or beside its accelerator.

    Raises:
        MissingDependency: the profile names none, or one that QEMU does not know.
    """
    named = [str(target.parameters[key]) for key in ("core", "cpu", "isa") if key in target.parameters]
    for core in CORES:
        if any(re.search(rf"\b{re.escape(core.name)}\b", text) for text in named):
            return core
    what = f"QEMU has no {named[0]}" if named else "its profile names no processor that could be"
    raise MissingDependency(
        f"{target.name} cannot be emulated: {what}",
        hint="`toolkit verify` without --emulate runs the bundle's answers on this machine's processor",
    )
