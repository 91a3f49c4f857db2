"""Print SI numbers with a unit. Only what faces the user formats; everything else computes in seconds and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

__all__ = ["bytes_", "count", "decibels", "interval", "joules", "quantity", "seconds"]

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def _si(value: float, unit: str) -> str:
    if value == 0:
        return f"0 {unit}"
    scale, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s * 0.9995), _PREFIXES[-1])
    scaled = value / scale
    digits = max(0, 2 - (len(str(int(abs(scaled)))) - 1)) if abs(scaled) < 1000 else 0
    return f"{scaled:.{digits}f} {prefix}{unit}"


def seconds(value: float) -> str:
    """1.23 ms"""
    return _si(value, "s") if value < 1000 else f"{value:.0f} s"


def joules(value: float) -> str:
    """1.23 mJ"""
    return _si(value, "J")


def bytes_(value: float) -> str:
    """1.23 MB, of 10^6 bytes"""
    return _si(value, "B") if value >= 1 or value == 0 else f"{value:.1f} B"


def count(value: float, unit: str) -> str:
    """1.23 MMAC"""
    return _si(value, unit)


def decibels(value: float) -> str:
    """35.1 dB, or `identical`"""
    return "identical" if isinf(value) and value > 0 else f"{value:.1f} dB"


_FORMATS = {"latency_s": seconds, "memory_bytes": bytes_, "energy_j": joules}


def quantity(name: str, value: float) -> str:
    """A value of a field such as `latency_s`, in its unit."""
    return _FORMATS[name](value)


def interval(name: str, pair: Sequence[float]) -> str:
    """[1.10 ms, 1.30 ms]"""
    return f"[{quantity(name, pair[0])}, {quantity(name, pair[1])}]"
