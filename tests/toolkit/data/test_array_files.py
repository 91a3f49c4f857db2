"""Rows streamed from .npy and .npz are those that numpy loads whole; damage and misfits are told with their place."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from passes.dataset import UNASKED, Dataset
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput
from toolkit.data import files as data_files
from toolkit.data import first_sample, load_data
from toolkit.data.rows import read_header, read_rows


def model(*shape: int | str, dtype: str = "float32", name: str = "x") -> Signature:
    return Signature((TensorSpec(name, dtype, shape),), ())


VECTORS = model("b", 3)
ROWS = np.arange(15, dtype=np.float32).reshape(5, 3)


def values(data: Dataset, name: str = "x") -> np.ndarray:
    return np.concatenate([sample[name] for sample in data])


# ---- the rows that numpy sees

arrays = hnp.arrays(
    st.one_of(
        hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.unsigned_integer_dtypes(), hnp.complex_number_dtypes(),
        st.just(np.dtype(bool)),
    ),
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
)  # fmt: skip


@settings(deadline=None)
@given(arrays, st.sampled_from("CF"), st.sampled_from(["npy", "stored", "deflated"]))
def test_rows_are_those_of_numpy(array: np.ndarray, order: Any, kind: str) -> None:
    array = np.array(array, order=order)
    with tempfile.NamedTemporaryFile() as file, ExitStack() as stack:
        if kind == "npy":
            np.save(file, array)
        else:
            (np.savez if kind == "stored" else np.savez_compressed)(file, a=array)
        file.flush()
        stream: Any = stack.enter_context(open(file.name, "rb"))
        if kind != "npy":
            stream = stack.enter_context(zipfile.ZipFile(stream)).open("a.npy")
        header = read_header(stream, 2**20)
        rows = list(read_rows(stream, header))
    assert (header.shape, header.dtype) == (array.shape, array.dtype)
    assert len(rows) == len(array)
    for have, want in zip(rows, array, strict=True):
        np.testing.assert_array_equal(have, want)
        assert have.flags.writeable
        base = have.base
        assert base is None or memoryview(base).nbytes == have.nbytes, "a row holds no more than itself"


def test_a_large_fortran_array_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.asfortranarray(np.random.default_rng(0).standard_normal((23, 3, 5)).astype(np.float32))
    np.savez_compressed(tmp_path / "a.npz", x=array)
    monkeypatch.setattr("toolkit.data.rows._BLOCK_BYTES", 4 * 3 * 5 * 7)
    np.testing.assert_array_equal(values(load_data(tmp_path / "a.npz", model("b", 3, 5))), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_with_labels(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "a.npz", anything=ROWS, labels=np.arange(5, dtype=np.uint8))
    data = load_data(tmp_path / "a.npz", VECTORS)
    np.testing.assert_array_equal(values(data), np.load(tmp_path / "a.npz")["anything"])
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3, 4]
    assert data.digest == Dataset.of_arrays("any", {"x": ROWS}, np.arange(5)).digest
    assert data.take(2).digest == Dataset.of_arrays("any", {"x": ROWS[:2]}, np.arange(2)).digest


def test_several_inputs_each_with_or_without_a_batch_axis(tmp_path: Path) -> None:
    signature = Signature(
        (
            TensorSpec("audio", "float32", ("b", 4)),
            TensorSpec("state", "float32", (2, 1, 3)),
            TensorSpec("rate", "int64", ()),
            TensorSpec("mask", "bool", (1, 4)),
        ),
        (),
    )
    rng = np.random.default_rng(0)
    stored = {
        "state": rng.standard_normal((5, 2, 1, 3)).astype(np.float32),
        "audio": rng.standard_normal((5, 4)).astype(np.float32),
        "rate": np.full(5, 16000),
        "mask": rng.integers(0, 2, (5, 1, 4)).astype(bool),
    }
    np.savez(tmp_path / "a.npz", **stored)
    for index, sample in enumerate(load_data(tmp_path / "a.npz", signature)):
        signature.check_inputs(sample)
        for name, array in sample.items():
            np.testing.assert_array_equal(array.reshape(stored[name][index].shape), stored[name][index])


def test_an_input_may_be_called_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=ROWS)
    data = load_data(tmp_path / "a.npz", model("b", 3, name="labels"))
    np.testing.assert_array_equal(values(data, "labels"), ROWS)
    assert data.labels is None


def test_foreign_byte_order_becomes_ours(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS.astype(">f4"))
    data = load_data(tmp_path / "a.npy", VECTORS)
    np.testing.assert_array_equal(values(data), ROWS)
    assert all(sample["x"].dtype.isnative for sample in data)


# ---- how often a file is read


def test_a_file_is_opened_once_a_walk_and_only_as_far_as_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((200, 1000)).astype(np.float32)
    np.savez_compressed(tmp_path / "a.npz", x=images, labels=np.arange(200))
    opened: list[int] = []
    read = [0]

    class Counting(zipfile.ZipFile):
        def __init__(self, file: Any) -> None:
            opened.append(1)
            super().__init__(file)

        def open(self, name: Any, *rest: Any, **more: Any) -> Any:
            stream = super().open(name, *rest, **more)
            whole = stream.read

            def counted(size: int = -1) -> bytes:
                content = whole(size)
                read[0] += len(content)
                return content

            stream.read = counted
            return stream

    monkeypatch.setattr(data_files.zipfile, "ZipFile", Counting)
    row = images[0].nbytes
    assert first_sample(str(tmp_path / "a.npz"))["x"].shape == (1, 1000)
    assert (len(opened), read[0] < 3 * row) == (1, True)
    data = load_data(tmp_path / "a.npz", model("b", 1000))
    assert read[0] < 6 * row
    opened.clear()
    assert sum(1 for _ in data) == 200
    assert len(opened) == 1
    read[0] = 0
    assert len(list(data.take(10))) == 10
    assert read[0] < 12 * row


def test_the_first_sample_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    np.testing.assert_array_equal(first_sample(tmp_path / "a.npy"), ROWS[:1])
    np.savez(tmp_path / "a.npz", x=ROWS, labels=np.arange(5))
    sample = first_sample(tmp_path / "a.npz")
    assert sample.keys() == {"x"}
    np.testing.assert_array_equal(sample["x"], ROWS[:1])
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04")
    np.save(tmp_path / "c.npy", np.float32(3))
    for nothing in ("b.npz", "c.npy", "gone.npz"):
        assert first_sample(tmp_path / nothing) is None
    assert first_sample("module:factory") is None


# ---- what does not fit is told with its place


def npz(path: Path, **stored: np.ndarray) -> Path:
    np.savez(path / "a.npz", **stored)
    return path / "a.npz"


def test_a_bad_value_in_the_middle_is_told_with_its_index(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf):
        rows = ROWS.copy()
        rows[3, 1] = bad
        data = load_data(npz(tmp_path, x=rows), VECTORS)
        assert len(list(data.take(3))) == 3
        with pytest.raises(InvalidInput, match=r"sample 3: x holds NaN or infinity"):
            list(data)
        with pytest.raises(InvalidInput, match="sample 3"):
            _ = data.digest


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (ROWS.astype(np.float64), "float32"),
        (ROWS[:, :2], "shape"),
        (ROWS[:, 0], "shape"),
        (np.full((2, 3), np.nan, np.float32), "sample 0"),
        (np.zeros((0, 3), np.float32), "no samples"),
        (np.float32(3), "single number"),
        (np.array(["a", "b"]), "not numbers"),
        (np.zeros(3, [("a", "f4")]), "not numbers"),
        (np.zeros(3, "M8[s]"), "not numbers"),
        (np.array([{"a": 1}], object), "never unpickled"),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_that_do_not_fit(tmp_path: Path, array: np.ndarray, says: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    np.savez(path, x=array) if suffix == "npz" else np.save(path, array)
    with pytest.raises(InvalidInput, match=says):
        load_data(path, VECTORS)


def test_no_object_of_a_file_is_ever_made(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "sprung"), "w"))

    np.savez(tmp_path / "a.npz", x=np.array([Trap()], object), labels=np.array([Trap()], object))
    with pytest.raises(InvalidInput):
        load_data(tmp_path / "a.npz", VECTORS)
    assert first_sample(tmp_path / "a.npz") is None
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "labels",
    [np.arange(4), np.full(5, 1.7), np.arange(5) - 1, np.eye(5, dtype=int), np.int64(3), np.array(["a"] * 5)],
)
def test_labels_that_are_no_classes(tmp_path: Path, labels: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match=r"labels|different length|not numbers"):
        load_data(npz(tmp_path, x=ROWS, labels=labels), VECTORS)


@pytest.mark.parametrize("order", ["C", "F"])
def test_labels_of_positions(tmp_path: Path, order: str) -> None:
    tagger = Signature((TensorSpec("x", "float32", ("b", 3)),), (TensorSpec("y", "float32", ("b", 2, "n", 7)),))
    labels = np.asarray(np.arange(30).reshape(5, 2, 3) % 7, order=order)
    data = load_data(npz(tmp_path, x=ROWS, labels=labels), tagger)
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(load_data((ROWS, labels), tagger).labels, labels)
    labels[1:, 0] = UNASKED
    np.testing.assert_array_equal(load_data((ROWS, labels), tagger).labels, labels)
    labels[2] = UNASKED
    with pytest.raises(InvalidInput, match="no position of sample 2 has a label"):
        load_data((ROWS, labels), tagger)
    labels[2] = 0
    with pytest.raises(InvalidInput, match=r"labels of \[3, 2\] positions, and an output of \[2, 'n', 7\]"):
        load_data(npz(tmp_path, x=ROWS, labels=labels.transpose(0, 2, 1)), tagger)


def test_arrays_of_other_names_and_lengths(tmp_path: Path) -> None:
    two = Signature((TensorSpec("x", "float32", ("b", 3)), TensorSpec("y", "float32", ("b", 3))), ())
    with pytest.raises(InvalidInput, match="takes x, y"):
        load_data(npz(tmp_path, x=ROWS, z=ROWS), two)
    with pytest.raises(InvalidInput, match="takes x; got x, z"):
        load_data(npz(tmp_path, x=ROWS, z=ROWS), VECTORS)
    with pytest.raises(InvalidInput, match="different length"):
        load_data(npz(tmp_path, x=ROWS, y=ROWS[:4]), two)
    with pytest.raises(InvalidInput, match="holds no samples"):
        load_data(npz(tmp_path, labels=np.arange(5)), VECTORS)


def test_a_fixed_batch_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="fixed batch of 4"):
        load_data(npz(tmp_path, x=ROWS), model(4, 3))
    whole = np.zeros((2, 4, 3), np.float32)
    assert [s["x"].shape for s in load_data(npz(tmp_path, x=whole), model(4, 3))] == [(4, 3)] * 2


# ---- damage


@pytest.mark.parametrize("keep", [0, 1, 10, 60, 100, 130, 200, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_truncated_files(tmp_path: Path, keep: float, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    rows = np.random.default_rng(0).standard_normal((300, 3)).astype(np.float32)
    np.savez_compressed(path, x=rows) if suffix == "npz" else np.save(path, rows)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(InvalidInput, match=f"a.{suffix}"):
        list(load_data(path, VECTORS))


def test_a_changed_byte_is_found_where_the_archive_has_a_checksum(tmp_path: Path) -> None:
    path = npz(tmp_path, x=ROWS)
    content = bytearray(path.read_bytes())
    place = content.index(np.float32(7).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="CRC"):
        list(load_data(path, VECTORS))


def test_a_header_that_promises_too_much_costs_no_memory(tmp_path: Path) -> None:
    for shape in ((2, 10**13), (10**15, 3), (-1, 3)):
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
        (tmp_path / "a.npy").write_bytes(head.getvalue() + bytes(1000))
        with pytest.raises(InvalidInput, match=r"a\.npy"):
            list(load_data(tmp_path / "a.npy", model("b", "n")))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", head.getvalue() + bytes(1000))
        with pytest.raises(InvalidInput, match=r"a\.npz"):
            list(load_data(tmp_path / "a.npz", model("b", "n")))


def test_what_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    (tmp_path / "b.npy").write_bytes(b"\x80\x04N.")
    (tmp_path / "c.csv").write_text("1,2,3\n")
    for name in ("a.npz", "b.npy", "c.csv", "gone.npz"):
        with pytest.raises(InvalidInput, match=name.replace(".", r"\.")) as caught:
            load_data(tmp_path / name, VECTORS)
        assert "module:factory" in caught.value.hint


@settings(deadline=None)
@given(st.data(), st.sampled_from(["npy", "npz", "deflated"]))
def test_random_damage_is_an_invalid_input_or_nothing(data: st.DataObject, kind: str) -> None:
    file = io.BytesIO()
    if kind == "npy":
        np.save(file, ROWS)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(file, x=ROWS, labels=np.arange(5))
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.npy" if kind == "npy" else "a.npz")
        path.write_bytes(content)
        first_sample(path)
        try:
            samples = list(load_data(path, model("b", "n")))
        except InvalidInput:
            return
        assert all(np.isfinite(sample["x"]).all() for sample in samples)


def test_a_file_that_shrinks_between_two_walks(tmp_path: Path) -> None:
    data = load_data(npz(tmp_path, x=ROWS), VECTORS)
    npz(tmp_path, x=ROWS[:3])
    with pytest.raises(InvalidInput, match="said 5 samples and gave 3"):
        list(data)
