"""A folder of .npy files is one sample a file; several inputs are paired by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput
from toolkit.data import load_data

ONE = Signature((TensorSpec("x", "float32", ("b", 3)),), ())
TWO = Signature((TensorSpec("x", "float32", ("b", 3)), TensorSpec("y/ids", "int64", (1, "n"))), ())


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def row(level: float, *shape: int) -> np.ndarray:
    return np.full(shape or (3,), level, np.float32)


def test_files_in_order_of_their_names_with_labels(tmp_path: Path) -> None:
    write(tmp_path / "b.npy", row(2))
    write(tmp_path / "a.npy", row(1, 1, 3))  # with a batch axis
    write(tmp_path / "c.npy", np.asfortranarray(row(3)))
    (tmp_path / "notes.txt").write_text("not data")
    write(tmp_path / ".hidden.npy", row(9))
    write(tmp_path / "labels.npy", np.array([5, 6, 7]))
    data = load_data(tmp_path, ONE)
    assert [sample["x"].tolist() for sample in data] == [[[1.0] * 3], [[2.0] * 3], [[3.0] * 3]]
    assert data.labels is not None
    assert data.labels.tolist() == [5, 6, 7]


def test_several_inputs_are_paired_by_name(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / "x" / f"{i}.npy", row(i))
        write(tmp_path / "y" / "ids" / f"{i}.npy", np.arange(i + 1))
    write(tmp_path / "labels.npy", np.array([0, 1, 0]))
    data = load_data(str(tmp_path), TWO)
    assert [(s["x"][0, 0], s["y/ids"].tolist()) for s in data] == [(0, [[0]]), (1, [[0, 1]]), (2, [[0, 1, 2]])]
    assert data.labels is not None
    (tmp_path / "x" / "1.npy").unlink()
    with pytest.raises(InvalidInput, match=r"x has no file 1\.npy"):
        load_data(tmp_path, TWO)


def test_folders_that_lack_an_input(tmp_path: Path) -> None:
    write(tmp_path / "loose" / "a.npy", row(1))
    with pytest.raises(InvalidInput, match="takes x, y/ids") as caught:
        load_data(tmp_path / "loose", TWO)
    assert "subfolder" in caught.value.hint
    write(tmp_path / "half" / "x" / "a.npy", row(1))
    with pytest.raises(InvalidInput, match=r"no \.npy files for y/ids"):
        load_data(tmp_path / "half", TWO)
    write(tmp_path / "half" / "b.npy", row(1))
    with pytest.raises(InvalidInput, match="both loose and in x"):
        load_data(tmp_path / "half", ONE)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros(3), "float32"),
        (np.zeros(4, np.float32), "shape"),
        (np.zeros((2, 2, 3), np.float32), "shape"),
        (np.array([1, np.nan, 2], np.float32), "NaN"),
        (np.array([{}], object), "cannot read b.npy"),
    ],
)
def test_the_file_that_does_not_fit_is_named_when_it_is_reached(tmp_path: Path, bad: np.ndarray, says: str) -> None:
    write(tmp_path / "a.npy", row(1))
    write(tmp_path / "b.npy", bad)
    data = load_data(tmp_path, ONE)
    with pytest.raises(InvalidInput, match=says) as caught:
        list(data)
    assert "b.npy" in caught.value.problem


def test_truncated_and_misnamed_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", row(1))
    whole = (tmp_path / "a.npy").read_bytes()
    np.savez(tmp_path / "archive.npz", x=row(1))
    for content in (b"", whole[:-1], whole[:50], (tmp_path / "archive.npz").read_bytes(), b"\x80\x04N."):
        (tmp_path / "b.npy").write_bytes(content)
        with pytest.raises(InvalidInput, match=r"cannot read b\.npy"):
            list(load_data(tmp_path, ONE))


def test_a_link_out_of_the_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.npy", row(4))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.npy").symlink_to(tmp_path / "elsewhere" / "a.npy")
    assert [sample["x"][0, 0] for sample in load_data(tmp_path / "folder", ONE)] == [4]
