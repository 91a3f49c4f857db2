"""Who lives where: the same in every process, and few move when a device is lost."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit.organism.errors import LifecycleError
from toolkit.organism.freezing import freeze
from toolkit.organism.grouping import settled_groups
from toolkit.organism.organism import Organism
from toolkit.organism.placement import place
from toolkit.organism.species import Species

FOUR = [f"cuda:{k}" for k in range(4)]
GOLDEN = {"pod-000001": "cuda:0", 17: "cuda:3", "pod-000002": "cuda:3", "pod-000003": "cuda:1"}
KEYS = [f"pod-{k:06d}" for k in range(400)]


def test_without_a_bound_the_lost_device_alone_moves() -> None:
    before, after = place(KEYS, FOUR, bound=None), place(KEYS, FOUR[:3], bound=None)
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved == {key for key in KEYS if before[key] == FOUR[3]}
    assert 60 < len(moved) < 140


def test_with_a_bound_few_others_move() -> None:
    before, after = place(KEYS, FOUR), place(KEYS, FOUR[:3])
    lost = sum(before[key] == FOUR[3] for key in KEYS)
    assert sum(before[key] != after[key] for key in KEYS) <= lost + len(KEYS) // 10


@given(st.sets(st.integers(0, 10**6), max_size=60), st.integers(1, 8), st.integers(0, 9))
def test_nobody_is_overloaded_and_all_are_placed(keys: set[int], devices: int, root: int) -> None:
    names = [f"cuda:{k}" for k in range(devices)]
    placed = place(keys, names, root=root)
    assert set(placed) == keys
    limit = math.ceil(1.25 * len(keys) / devices)
    assert all(count <= limit for count in Counter(placed.values()).values())


@given(st.permutations(range(20)), st.permutations(FOUR))
def test_order_does_not_matter(keys: list[int], devices: list[str]) -> None:
    assert place(keys, devices) == place(range(20), FOUR)


def test_shares_follow_the_weights() -> None:
    placed = Counter(place(range(4000), ["a", "b"], {"a": 3.0, "b": 1.0}, bound=None).values())
    assert 0.72 < placed["a"] / 4000 < 0.78


@pytest.mark.parametrize("seed", ["0", "1"])
def test_every_process_says_the_same(seed: str) -> None:
    code = "import json;from toolkit.organism.placement import place;" \
           f"print(json.dumps(place([f'pod-{{k:06d}}' for k in range(50)], {FOUR!r}, root=7)))"  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == place(KEYS[:50], FOUR, root=7)


def test_golden_places() -> None:
    """Stored placements stay valid: another version may not move anybody."""
    assert place(["pod-000001", "pod-000002", "pod-000003", 17], FOUR) == GOLDEN


@pytest.mark.parametrize(("devices", "options"), [([], {}), (["a", "a"], {}), (["a"], {"weights": {"a": 0.0}}),
                                                  (["a"], {"bound": 0.5})])  # fmt: skip
def test_what_places_nobody_is_refused(devices: list[str], options: dict[str, object]) -> None:
    with pytest.raises(LifecycleError):
        place(["x"], devices, **options)  # type: ignore[arg-type]


def test_floats_are_no_keys() -> None:
    with pytest.raises(TypeError):
        place([0.5], ["a"])  # type: ignore[list-item]


def test_components_of_two_devices_are_not_laid_side_by_side() -> None:
    organism = Organism.of_founders(32, Species(8), 6, budget_bytes=10**8)
    placed = organism.distribute(["cpu", "meta"])
    groups = settled_groups(list(organism.pool))
    found = {str(group[0].gate.device): {pod.component_id for pod in group} for group in groups}
    assert found == {d: {name for name in placed if placed[name] == d} for d in ("cpu", "meta")}


def test_what_lives_on_several_devices_is_not_frozen() -> None:
    organism = Organism.of_founders(32, Species(8), 6, budget_bytes=10**8)
    organism.distribute(["cpu", "meta"])
    with pytest.raises(LifecycleError, match="several devices"):
        freeze(organism)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are needed to compute on both")
def test_two_devices_answer_as_one_does() -> None:
    organism = Organism.of_founders(32, Species(16), 6, budget_bytes=10**8).cuda(0)
    x = torch.randn(2, 5, 32, device="cuda:0")
    before = organism(x)[0]
    organism.distribute(["cuda:0", "cuda:1"])
    after = organism(x)[0]
    assert {pod.gate.device.index for pod in organism.pool} == {0, 1}
    assert (after - before).abs().max() < 1e-5
    after.square().sum().backward()
    assert all(p.grad is not None and p.grad.device == p.device for p in organism.parameters())
