"""Data from the user's own code is walked lazily, again and again, and its errors are told as the user's."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from passes.dataset import Dataset
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput, UsageError
from toolkit.data import check_preprocess_used, first_sample, load_data, streams

SIGNATURE = Signature((TensorSpec("x", "float32", ("b", 3)),), ())
TWO = Signature((TensorSpec("x", "float32", ("b", 3)), TensorSpec("rate", "int64", ())), ())
ROWS = np.arange(15, dtype=np.float32).reshape(5, 3)


def values(data: Dataset) -> np.ndarray:
    return np.concatenate([sample["x"] for sample in data])


def check_twice(data: Dataset, labels: list[int] | None = None) -> None:
    for _ in range(2):
        np.testing.assert_array_equal(values(data), ROWS)
    assert len(data) == 5
    assert (None if data.labels is None else data.labels.tolist()) == labels
    plain = Dataset.of_arrays("plain", {"x": ROWS}, data.labels)
    assert data.digest == plain.digest
    assert data.take(2).digest == plain.take(2).digest


def rows() -> Iterator[np.ndarray]:
    yield from ROWS


class Rows:
    """A map-style data set as torch has them: no __iter__, and an index beyond the end is no IndexError."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(ROWS)[index % 5], index % 5


# ---- in memory


@pytest.mark.parametrize(
    "spec",
    [
        ROWS,
        torch.from_numpy(ROWS),
        torch.from_numpy(ROWS).requires_grad_(),
        {"x": ROWS},
        {"another name": torch.from_numpy(ROWS)},
        list(ROWS),
        [row[None] for row in ROWS],
        [{"x": row} for row in ROWS],
        rows,
        lambda: [{"x": row} for row in ROWS],
        lambda: ({"x": torch.from_numpy(row)} for row in ROWS),
        lambda: ROWS,
        torch.utils.data.DataLoader(list(torch.from_numpy(ROWS))),  # type: ignore[arg-type]
        Dataset("d", lambda: ({"x": row[None]} for row in ROWS), 5),
        ROWS.astype(">f4"),
    ],
)
def test_everything_that_holds_samples(spec: Any) -> None:
    check_twice(load_data(spec, SIGNATURE))


@pytest.mark.parametrize(
    "spec",
    [
        (ROWS, range(5)),
        (rows, np.arange(5, dtype=np.uint8)),
        (list(ROWS), torch.arange(5)),
        {"x": ROWS, "labels": [0, 1, 2, 3, 4]},
        Rows(),
        [{"x": row, "labels": i} for i, row in enumerate(ROWS)],
        lambda: zip(ROWS, range(5), strict=True),
        torch.utils.data.DataLoader(Rows()),  # type: ignore[arg-type]
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(ROWS), torch.arange(5))),
    ],
)
def test_everything_that_brings_classes(spec: Any) -> None:
    check_twice(load_data(spec, SIGNATURE), [0, 1, 2, 3, 4])


def test_several_inputs_of_a_stream() -> None:
    data = load_data([{"x": row, "rate": 16000} for row in ROWS], TWO)
    assert [(s["x"].shape, s["rate"].shape, int(s["rate"])) for s in data] == [((1, 3), (), 16000)] * 5


def test_the_first_sample_gives_shapes_without_a_signature() -> None:
    for spec in (ROWS, torch.from_numpy(ROWS).requires_grad_(), (ROWS, np.arange(5))):
        assert np.asarray(first_sample(spec)).shape == (1, 3)
    assert first_sample({"x": ROWS, "labels": np.arange(5)})["x"].shape == (1, 3)
    assert [first_sample(spec) for spec in (None, rows, list(ROWS), {"x": [[1], [1, 2]]})] == [None] * 4


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (rows(), "read once"),
        (3, "a int"),
        (lambda: 3, "a int"),
        ([], "no samples"),
        (lambda: iter([]), "no samples"),
        ([ROWS[0], ROWS[1].astype(np.float64)], "sample 1: x wants float32"),
        ([ROWS[0], ROWS[1], ROWS[2, :2]], "sample 2: x wants shape"),
        ([ROWS[0], {"x": ROWS[1], "y": ROWS[1]}], "sample 1: the model takes x"),
        ([ROWS[0], "a word"], "sample 1: a str"),
        ([ROWS[0], [[1, 2], [3]]], "sample 1: a list"),
        ([ROWS[0], np.full(3, np.inf, np.float32)], "sample 1: x holds NaN or infinity"),
        ([(row, -1) for row in ROWS], "labels"),
        ([(ROWS[0], 1), ROWS[1]], "labels"),
        ((ROWS, np.arange(4)), "5 samples and 4 labels"),
        ({"x": np.array([{}], object)}, "no array of numbers"),
        ({"x": np.float32(1)}, "single number"),
        ({"x": [[1.0], [1.0, 2.0]]}, "x: a list is no array"),
        ((ROWS, [[1], [1, 2]]), "labels: a list is no array"),
        ({"x": ROWS, "labels": "words"}, "no array of numbers"),
        ({}, "no samples"),
        (Dataset("d", lambda: [{"x": ROWS[:1]}], 3), "said 3 samples and gave 1"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(spec: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        list(load_data(spec, SIGNATURE))


def test_an_endless_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_MOST_SAMPLES", 100)

    def endless() -> Iterator[np.ndarray]:
        while True:
            yield ROWS[0]

    with pytest.raises(InvalidInput, match="100 samples and more"):
        load_data(endless, SIGNATURE)


class Memory(bytearray):
    """What the values of a sample lie in; weak references tell how many are alive."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def test_a_stream_is_never_collected() -> None:
    """Of a thousand samples at most three are alive at any moment, whatever walks over them."""
    alive: weakref.WeakSet[Memory] = weakref.WeakSet()
    most = 0

    def counted() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal most
        for _ in range(1000):
            memory = Memory(12)
            alive.add(memory)
            most = max(most, len(alive))
            yield np.frombuffer(memory, np.float32), 1

    data = load_data(counted, SIGNATURE)
    assert len(data.digest) == 64
    assert sum(1 for _ in data) == len(data) == 1000
    assert most <= 3
    held = list(data.take(500))
    assert len(held) == 500 <= most, "the count does count"


# ---- module:factory


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "data_of_a_user"
    (tmp_path / f"{name}.py").write_text(
        "import numpy as np\n"
        "rows = np.arange(15, dtype=np.float32).reshape(5, 3)\n"
        "calls = []\n"
        "def arrays(): calls.append(1); return rows\n"
        "def mapping(): return {'x': rows, 'labels': np.arange(5)}\n"
        "def pair(): return rows, np.arange(5)\n"
        "def named_pair(): return {'x': rows}, np.arange(5)\n"
        "def generator():\n    for row in rows: yield {'x': row}\n"
        "def one_shot(): return iter(list(rows))\n"
        "def function(): return generator\n"
        "class Samples:\n    def __iter__(self): return iter(rows)\n"
        "def path(): np.save('saved.npy', rows); return 'saved.npy'\n"
        "def gone(): return 'gone.npy'\n"
        "def late():\n    yield rows[0]\n    raise KeyError('lost')\n"
        "def broken(): return 1 / 0\n"
        "def dataset():\n"
        "    from passes.dataset import Dataset\n"
        "    return Dataset('mine', lambda: [{'x': row[None]} for row in rows], 5)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "function", ["arrays", "generator", "one_shot", "function", "Samples", "path", "rows", "dataset"]
)
def test_whatever_a_factory_returns(user_module: str, function: str) -> None:
    check_twice(load_data(f"{user_module}:{function}", SIGNATURE))


@pytest.mark.parametrize("function", ["mapping", "pair", "named_pair"])
def test_a_factory_with_classes(user_module: str, function: str) -> None:
    check_twice(load_data(f"{user_module}:{function}", SIGNATURE), [0, 1, 2, 3, 4])


def test_a_factory_of_arrays_is_called_once(user_module: str) -> None:
    data = load_data(f"{user_module}:arrays", SIGNATURE)
    check_twice(data)
    assert sys.modules[user_module].calls == [1]
    assert data.name == f"{user_module}:arrays"


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("late", r"KeyError: 'lost' \(data_of_a_user\.py:\d+\)"),
        ("broken", "ZeroDivisionError"),
        ("gone", "no file"),
        ("nothing", "has no 'nothing'"),
    ],
)
def test_errors_of_the_users_code(user_module: str, function: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        list(load_data(f"{user_module}:{function}", SIGNATURE))


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(InvalidInput, match="no module 'no_such_module'"):
        load_data("no_such_module:f", SIGNATURE)
    with pytest.raises(InvalidInput, match=r"cannot read data gone\.npz: No such file"):
        load_data("gone.npz", SIGNATURE)


# ---- a preprocessing that nothing uses


def test_a_preprocessing_of_arrays_is_refused(tmp_path: Path) -> None:
    arrays = load_data(ROWS, SIGNATURE, preprocess="imagenet")
    np.testing.assert_array_equal(values(arrays), ROWS)
    with pytest.raises(UsageError, match="as it is"):
        check_preprocess_used("imagenet", arrays, None)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    images = load_data(tmp_path, Signature((TensorSpec("x", "float32", (1, 3, 4, 4)),), ()), preprocess="unit")
    for stated, *data in (("unit", images, arrays), ("unit", None, None), (None, arrays, None), ("", arrays, None)):
        check_preprocess_used(stated, *data)
