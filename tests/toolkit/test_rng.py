"""Seeds are derived alike in every process, and nothing global is touched."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import kstest

from toolkit.digests import canonical_digest
from toolkit.rng import derive_seed, numpy_generator, torch_generator, uniform

GOLDEN = {
    (0, "birth", 7): 10879189860333211754,
    (0, "birth:7"): 8096721350724753392,
    (1, "2:3"): 18097634445637417037,
    (42, "cull", "pod-3", 1000): 1816405150489557389,
}


def test_golden_values():
    assert {path: derive_seed(*path) for path in GOLDEN} == GOLDEN
    assert uniform(0, "birth", 7) == 0.589762064072777
    assert uniform(42, "cull", "pod-3", 1000) == 0.09846752051373187


@pytest.mark.parametrize("salt", ["0", "1"])
def test_the_salt_of_python_does_not_matter(salt):
    code = "from toolkit.rng import derive_seed; print(derive_seed(0, 'birth', 7))"
    environment = os.environ | {"PYTHONHASHSEED": salt}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(printed.stdout) == GOLDEN[0, "birth", 7]


def test_uniform_numbers_are_uniform_and_below_one():
    drawn = np.array([uniform(3, "test", k) for k in range(20_000)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert kstest(drawn, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("item", [True, 0.1, None, (1, 2)])
def test_other_kinds_of_keys_are_refused(item):
    with pytest.raises(TypeError, match="a seed is derived from int, str and bytes"):
        derive_seed(0, item)


def test_generators_touch_nothing_global():
    import torch

    random.seed(0)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = numpy_generator(1, "a").random(), torch.rand(3, generator=torch_generator(1, "a")).tolist()
    assert first == (numpy_generator(1, "a").random(), torch.rand(3, generator=torch_generator(1, "a")).tolist())
    assert first[0] != numpy_generator(1, "b").random()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_digests_see_values_and_not_how_they_lie():
    big = np.arange(6, dtype=">i4").reshape(2, 3)
    assert canonical_digest({"b": -0.0, "a": [1, big]}) == canonical_digest({"a": [1, big.astype("<i4")], "b": 0.0})
    assert canonical_digest(np.asfortranarray(big)) == canonical_digest(big)
    different = [1, 1.5, "1", [1], {"1": 1}, np.array(1), np.array([1]), np.array([1.0]), None, True, ["\x00", "<i8"]]
    assert len({canonical_digest(value) for value in different}) == len(different)


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}])
def test_what_is_not_finite_has_no_digest(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_digest(value)


@pytest.mark.parametrize("value", [{1: 2}, object(), b"x"])
def test_what_is_no_data_has_no_digest(value):
    with pytest.raises(TypeError, match="no digest of"):
        canonical_digest(value)
