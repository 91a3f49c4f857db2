"""Factors lose what the tail of the singular values holds, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.errors import ArchiveFormatError, DescriptorError
from toolkit.search.codec import Codec, decode, encode, initial


def decaying(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u, _ = np.linalg.qr(rng.standard_normal((rows, min(rows, columns))))
    v, _ = np.linalg.qr(rng.standard_normal((columns, min(rows, columns))))
    return (u * 0.8 ** np.arange(min(rows, columns)) @ v.T).astype(np.float32)


@pytest.mark.parametrize(("shape", "rank"), [((64, 64), 4), ((40, 90), 7), ((90, 40), 16), ((200, 200), 10)])
def test_the_error_is_the_tail_of_the_singular_values(shape, rank):
    matrix = decaying(*shape)
    encoded = encode({"w": matrix}, Codec(kind="lowrank", rank=rank))
    values = np.linalg.svd(matrix, compute_uv=False)
    tail = np.sqrt(np.square(values[rank:]).sum()) / np.sqrt(np.square(values).sum())
    assert encoded.rel_error["w"] == pytest.approx(tail, rel=1e-3, abs=1e-6)
    assert encoded.nbytes == rank * sum(shape) * 4
    again = decode(encoded)["w"]
    assert np.linalg.norm(again - matrix) / np.linalg.norm(matrix) == pytest.approx(tail, rel=1e-3, abs=1e-6)


def test_what_is_no_smaller_in_factors_stays_whole():
    weights = {"w": decaying(32, 32), "bias": np.arange(32.0), "steps": np.array([3], np.int64)}
    encoded = encode(weights, Codec(kind="lowrank", rank=16))
    assert sorted(encoded.payload) == ["bias", "steps", "w"]
    for name, array in decode(encoded).items():
        np.testing.assert_array_equal(array, weights[name])
    assert sorted(encode(weights, Codec()).payload) == ["bias", "steps", "w"]


def test_what_was_decoded_is_stored_again_without_loss():
    first = decode(encode({"w": decaying(64, 80)}, Codec(kind="lowrank", rank=6)))
    second = encode(first, Codec(kind="lowrank", rank=6))
    assert second.rel_error["w"] < 1e-6
    np.testing.assert_allclose(decode(second)["w"], first["w"], atol=1e-6)
    same = encode(first, Codec(kind="lowrank", rank=6))
    assert all((same.payload[name] == second.payload[name]).all() for name in same.payload)


def test_half_the_bytes_in_float16():
    weights = {"w": decaying(64, 64)}
    full, half = (encode(weights, Codec(kind="lowrank", rank=8, dtype=dtype)) for dtype in ("float32", "float16"))
    assert half.nbytes * 2 == full.nbytes
    assert full.rel_error["w"] < half.rel_error["w"] < full.rel_error["w"] + 2e-3


def test_differences_from_a_start_lose_less():
    start = initial({"w": (96, 96)}, 7, "block", 3)
    weights = {"w": start["w"] + 0.2 * decaying(96, 96)}
    plain = encode(weights, Codec(kind="lowrank", rank=12))
    delta = encode(weights, Codec(kind="seed_delta", rank=12), start=start)
    assert delta.rel_error["w"] < 0.1 * plain.rel_error["w"]
    np.testing.assert_allclose(
        decode(delta, start=initial({"w": (96, 96)}, 7, "block", 3))["w"], weights["w"], atol=2e-2
    )
    with pytest.raises(ArchiveFormatError, match="differences from another start"):
        decode(delta, start=initial({"w": (96, 96)}, 8))
    with pytest.raises(DescriptorError, match="no start of these shapes"):
        encode(weights, Codec(kind="seed_delta"), start={"w": np.zeros((2, 2))})


def test_a_start_is_the_same_everywhere():
    start = initial({"w": (2, 3), "b": (4,)}, 1, "a")
    assert start["w"].tolist() == initial({"w": (2, 3)}, 1, "a")["w"].tolist()
    assert np.abs(start["w"]).max() <= 1 / np.sqrt(3)
    many = initial({"w": (500, 100)}, 0)["w"]
    assert abs(many.mean()) < 1e-3
    assert many.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.01)


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(DescriptorError, match="w is not finite"):
        encode({"w": np.array([np.nan])}, Codec())
    with pytest.raises(DescriptorError, match="factors of rank 0"):
        Codec(kind="lowrank", rank=0)
