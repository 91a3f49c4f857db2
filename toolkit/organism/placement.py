"""Which device a component lives on: rendezvous hashing, so that a lost device moves its own components alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from toolkit.organism.errors import LifecycleError
from toolkit.rng import derive_seed, uniform

__all__ = ["place"]


def place(
    keys: Collection[str | int], devices: Sequence[str], weights: Mapping[str, float] | None = None, *, root: int = 0,
    bound: float | None = 1.25,
) -> dict[str | int, str]:  # fmt: skip
    """The device of each key: a function of the sets of keys and devices, not of their order or of the process.

    Each key goes to the device with the highest draw for the two, those that are full left out.

    Args:
        keys: Ids of components, or cells of their behaviour; floats are no keys.
        devices: Names, as "cuda:0".
        weights: Capacity of each device beside the others; equal where None.
        root: Another root draws anew.
        bound: A device takes at most ceil(bound x its fair share); None sets no limit, and then a lost device moves
            no other's keys.

    Raises:
        LifecycleError: there are no devices, or two of a name; a weight is not positive; `bound` is below 1.

    Source: Thaler, Ravishankar 1996 (highest random weight); Mirrokni, Thorup, Zadimoghaddam 2016, arXiv:1608.01350
    (bounded loads).
    """
    share = {name: 1.0 if weights is None else float(weights[name]) for name in devices}
    if not devices or len(share) < len(devices) or not all(0 < w < math.inf for w in share.values()):
        raise LifecycleError(
            f"no placement on {list(devices)} with weights {sorted(share.values())}",
            hint="name each device once, with a positive weight",
        )
    if bound is not None and bound < 1:
        raise LifecycleError(f"a bound of {bound} leaves keys without a device", hint="1 or more")
    unique = sorted(set(keys), key=lambda key: (derive_seed(root, key), str(key)))
    total = sum(share.values())
    room = {n: math.inf if bound is None else math.ceil(bound * len(unique) * w / total) for n, w in share.items()}
    placed: dict[str | int, str] = {}
    for key in unique:
        chosen = max((n for n in sorted(share) if room[n] > 0), key=lambda n: _draw(root, key, n, share[n]))
        placed[key] = chosen
        room[chosen] -= 1
    return placed


def _draw(root: int, key: str | int, device: str, weight: float) -> float:
    """Weighted: the device wins with the probability of its share."""
    return -weight / math.log(max(uniform(root, key, device), 2.0**-54))
