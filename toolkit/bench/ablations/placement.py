"""A4: where components live on several devices, as predicted traffic from what one training logged.

Nothing is moved here. A step sends the input of a layer to each device beside the first that holds components of it,
and an answer back. A component whose key changes is sent as a whole, with what an optimizer keeps for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import dynamic
from toolkit.bench.ablations.comparing import Compared
from toolkit.bench.ablations.learning import ARCHIVES, Learnt, learn
from toolkit.bench.ablations.presets import Preset
from toolkit.organism.placement import place
from toolkit.rng import derive_seed
from toolkit.search.component_archive import ComponentArchive, component_archive
from toolkit.training.organism.archiving import Offer

__all__ = ["ABLATION", "ARMS", "homes_of"]

_DEVICES = tuple(f"device {k}" for k in range(4))
ARMS = ("by id", "by cell", "round robin", "random")
_FLOAT_BYTES, _ADAM = 4, 3
"""A parameter, and the two moments that AdamW keeps for it."""

Turn = Mapping[str, tuple[int, int]]
"""Of each component by id at one measurement: its cell and its parameters."""


class _Logged(ComponentArchive):
    """Notes the cell of every component at every offer."""

    def __init__(self, archive: ComponentArchive, seed: int, layer: str) -> None:
        super().__init__(archive.archive, seed, layer)
        self.turns: list[Turn] = []

    def offer(self, offers: Sequence[Offer], *, step: int) -> int:
        """See `Elites`."""
        if offers:
            cells = self.archive.cell_of(np.array([self._place(offer.behavior) for offer in offers]))
            sizes = [sum(array.size for array in offer.record.tensors.values()) for offer in offers]
            names = [str(offer.record.header["component_id"]) for offer in offers]
            self.turns.append({n: (int(cell), size) for n, cell, size in zip(names, cells, sizes, strict=True)})
        return super().offer(offers, step=step)


ARCHIVES["logged"] = lambda seed, layer: _Logged(component_archive(seed, layer), seed, layer)


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    found = learn(dynamic(preset, archive="logged"), preset, seed)
    return {arm: _traffic(arm, found, preset, seed) for arm in ARMS}


def _traffic(arm: str, found: Learnt, preset: Preset, seed: int) -> Measures:
    sent = preset.batch * preset.context * preset.width * _FLOAT_BYTES
    steps, moves, load, turns = 0.0, 0.0, 0.0, 0
    for layer in found.elites.values():
        assert isinstance(layer, _Logged)
        before: Mapping[str, str] = {}
        for number, turn in enumerate(layer.turns):
            homes = homes_of(arm, turn, seed, number, _DEVICES)
            away = len(set(homes.values()) - {_DEVICES[0]})
            steps += 4 * sent * away  # there and back, and as much for the gradients
            moves += sum(_ADAM * _FLOAT_BYTES * turn[name][1] for name in turn
                         if name in before and before[name] != homes[name])  # fmt: skip
            load += max(list(homes.values()).count(device) for device in _DEVICES) / (len(turn) / len(_DEVICES))
            before, turns = homes, turns + 1
    per_turn = max(1, turns // max(1, len(found.elites)))
    step_bytes, moved = steps / per_turn, moves / per_turn / preset.medium
    return {"step_bytes": step_bytes, "moved_bytes_per_step": moved, "bytes_per_step": step_bytes + moved,
            "largest_load": load / max(1, turns)}  # fmt: skip


def homes_of(arm: str, turn: Turn, seed: int, number: int, devices: Sequence[str]) -> dict[str, str]:
    """The device of each component at the `number`-th measurement."""
    names = sorted(turn)
    if arm == "by id":
        placed = place(names, devices, root=seed)
        return {name: placed[name] for name in names}
    if arm == "by cell":
        by_cell = place(sorted({cell for cell, _ in turn.values()}), devices, root=seed)
        return {name: by_cell[turn[name][0]] for name in names}
    if arm == "round robin":
        return {name: devices[k % len(devices)] for k, name in enumerate(names)}
    return {name: devices[derive_seed(seed, "ablation", "home", number, name) % len(devices)] for name in names}


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    cells, ids = (means[arm]["bytes_per_step"] for arm in ("by cell", "by id"))
    fewer, even = (found[f"{name}: by cell - by id"].verdict for name in ("bytes_per_step", "largest_load"))
    load = {arm: means[arm]["largest_load"] for arm in ("by cell", "by id")}
    return (
        f"Predicted bytes between four devices: by cell {cells:.3g} a step, by id {ids:.3g}: {fewer}. The largest "
        f"load, over an even one: by cell {load['by cell']:.2f}, by id {load['by id']:.2f}: {even}. Components that "
        "share a cell share a device, which saves traffic as any uneven load does. No time was measured here: that "
        "takes two GPUs (A4-measured)."
    )


ABLATION = Ablation(
    name="A4",
    question="Does it save traffic to place components by behaviour?",
    arms=ARMS,
    rule="by id stays the default unless cells send fewer bytes and take less time",
    run=_run,
    contrasts=(
        Contrast(arm="by cell", against="by id", measure="bytes_per_step", margin=0.0),
        Contrast(arm="by id", against="random", measure="moved_bytes_per_step", margin=0.0),
        Contrast(arm="by cell", against="by id", measure="largest_load", margin=0.0),
    ),
    conclude=_conclude,
    simulated=True,
    note="A simulation from logged cells and sizes of tensors. The largest load is over the even one.",
)
