"""Print and read SI numbers with a unit. Only what faces the user formats; everything else computes in SI."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite, isinf

from targets.errors import UsageError

__all__ = [
    "bytes_", "count", "decibels", "hours", "interval", "joules", "parse_quantity", "quantity", "seconds", "watts",
]  # fmt: skip

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


def watts(value: float) -> str:
    """1.23 W"""
    return _si(value, "W")


def hours(value: float) -> str:
    """18.5 h, or days above two of them"""
    if value >= 48:
        return f"{value / 24:.3g} days"
    return f"{value:.3g} h" if value >= 1 else f"{value * 60:.3g} min"


def decibels(value: float) -> str:
    """35.1 dB, or `identical`"""
    return "identical" if isinf(value) and value > 0 else f"{value:.1f} dB"


_FORMATS = {"latency_s": seconds, "memory_bytes": bytes_, "energy_j": joules, "size_bytes": bytes_}


def quantity(name: str, value: float) -> str:
    """A value of a field such as `latency_s`, in its unit."""
    return _FORMATS[name](value)


def interval(name: str, pair: Sequence[float]) -> str:
    """[1.10 ms, 1.30 ms]"""
    return f"[{quantity(name, pair[0])}, {quantity(name, pair[1])}]"


# ---- reading

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "min": 60.0}
_JOULES = {"J": 1.0, "kJ": 1e3, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "μJ": 1e-6, "nJ": 1e-9}
_BATTERY = {"Wh": 3600.0, "mWh": 3.6, "kWh": 3.6e6, "J": 1.0, "kJ": 1e3, "MJ": 1e6}
_BYTES = {"b": 1.0, **{f"{p}b": 1e3**i for i, p in enumerate("kmgt", 1)},
          **{f"{p}ib": 1024.0**i for i, p in enumerate("kmgt", 1)}}  # fmt: skip
_UNITS: Mapping[str, tuple[str, Mapping[str, float], str]] = {
    "latency_s": ("a time", _SECONDS, "20ms, 0.02 s or 500us"),
    "energy_j": ("an energy", _JOULES, "5mJ or 0.2 J"),
    "battery_j": ("an energy", _BATTERY, "37Wh (milliampere-hours times volts / 1000) or 20kJ"),
    "memory_bytes": ("a size", _BYTES, "100MB or 64MiB"),
    "size_bytes": ("a size", _BYTES, "4MB or 512KiB"),
}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\W\d]*)\s*")


def parse_quantity(name: str, text: str, *, what: str = "") -> float:
    """The value of `20ms`, `64 MiB` or `5 mJ` in the unit of the field `name`, such as `latency_s`.

    Bytes may be written in either case, MB being 10^6 and MiB 2^20; seconds and joules keep theirs, since m is not M.

    Args:
        what: The flag or field it was given for, named in errors.

    Raises:
        UsageError: it is not a number with a unit of that kind, or not more than zero.
    """
    kind, units, example = _UNITS[name]
    said = f"{what} {text!r}".strip()
    hint = f"write it like {example}"
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UsageError(f"{said} is not {kind}", hint=hint)
    number, unit = float(match[1]), match[2]
    if not unit:
        raise UsageError(f"{said} has no unit", hint=hint)
    key = unit.lower() if units is _BYTES else unit
    if key not in units:
        raise UsageError(f"{said} is not {kind}: {unit!r} is no unit of it", hint=hint)
    value = number * units[key]
    if not isfinite(value) or value <= 0:
        raise UsageError(f"{said} is not more than zero" if value <= 0 else f"{said} is too large", hint=hint)
    return value
