"""Data sets are known by their content; answers are compared so that no broken value looks like a good one."""

from collections.abc import Callable
from dataclasses import replace
from math import inf, isnan, log10

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from passes.compare import compare, compare_metric, errors, sqnr_db
from passes.context import Context, synthetic_data
from passes.dataset import Array, Dataset
from passes.metric import TOP1, paired_interval
from passes.program import Level, Program
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput


def dataset(**arrays: Array) -> Dataset:
    return Dataset.of_arrays("d", arrays)


BASE = np.arange(6, dtype=np.float32).reshape(3, 2)


def variants() -> dict[str, Dataset]:
    moved = BASE.copy()
    moved[1, 1] += 1e-6
    return {
        "base": dataset(x=BASE),
        "a value": dataset(x=moved),
        "the name": dataset(z=BASE),
        "the type": dataset(x=BASE.view(np.int32)),
        "the precision": dataset(x=BASE.astype(np.float64)),
        "the order": dataset(x=BASE[::-1]),
        "the number": dataset(x=BASE[:2]),
        "the shape": dataset(x=BASE.reshape(3, 2, 1)),
        "another input": dataset(x=BASE, w=BASE),
        "labels": Dataset.of_arrays("d", {"x": BASE}, np.array([0, 1, 2])),
        "other labels": Dataset.of_arrays("d", {"x": BASE}, np.array([0, 1, 1])),
        "minus zero": dataset(x=np.where(BASE == 0, np.float32(-0.0), BASE)),
        "big endian": dataset(x=BASE.astype(">f4")),
    }


def test_whatever_changes_changes_the_digest() -> None:
    digests = {name: data.digest for name, data in variants().items()}
    same = [(a, b) for a in digests for b in digests if a < b and digests[a] == digests[b]]
    assert not same


def test_the_digest_does_not_depend_on_name_or_layout() -> None:
    assert Dataset.of_arrays("another", {"x": BASE}).digest == dataset(x=BASE).digest
    assert dataset(x=np.asfortranarray(BASE)).digest == dataset(x=BASE).digest
    assert dataset(x=BASE, w=BASE).digest == dataset(w=BASE, x=BASE).digest


def test_a_scalar_is_not_a_vector_of_one() -> None:
    scalar, vector = ([{"x": np.float32(3).reshape(shape)}] for shape in ((), (1,)))
    assert Dataset("d", lambda: scalar, 1).digest != Dataset("d", lambda: vector, 1).digest


def test_where_one_sample_ends_counts() -> None:
    """Two samples of one input are not one sample of two."""
    one = [{"a": BASE, "b": BASE}]
    two = [{"a": BASE}, {"b": BASE}]
    assert Dataset("d", lambda: one, 1).digest != Dataset("d", lambda: two, 2).digest


def test_samples_keep_a_batch_dimension_and_can_be_read_again() -> None:
    data = dataset(x=BASE)
    for _ in range(2):
        assert [s["x"].shape for s in data] == [(1, 2)] * 3
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in data]), BASE)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_taking_a_part(count: int) -> None:
    whole = Dataset.of_arrays("d", {"x": BASE}, np.array([0, 1, 2]))
    part = whole.take(count)
    assert len(part) == len(list(part)) == len(list(part)) == count
    assert part.labels is not None
    assert part.labels.tolist() == [0, 1, 2][:count]
    assert part.digest == Dataset.of_arrays("d", {"x": BASE[:count]}, np.array([0, 1, 2])[:count]).digest


@pytest.mark.parametrize("count", [3, 4])
def test_taking_all(count: int) -> None:
    whole = dataset(x=BASE)
    assert whole.take(count) is whole


# ---- comparison

anything = hnp.arrays(np.float32, st.integers(1, 6), elements=st.floats(width=32))
ordinary = hnp.arrays(np.float32, st.integers(1, 6), elements=st.floats(-1e3, 1e3, width=32))


@given(anything)
def test_an_array_is_its_own_equal_whatever_it_holds(array: Array) -> None:
    _, noise, worst = errors(array, array.copy())
    assert (noise, worst) == (0.0, 0.0)


@given(anything, st.data())
def test_a_value_that_is_not_finite_in_one_alone_is_an_infinite_error(array: Array, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(array) - 1))
    bad = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    other = array.copy()
    other[at] = bad
    same = array[at] == other[at] or (np.isnan(array[at]) and np.isnan(other[at]))
    for want, have in ((array, other), (other, array)):
        signal, noise, worst = errors(want, have)
        assert not isnan(signal)
        assert (noise, worst) == ((0.0, 0.0) if same else (inf, inf))


@given(ordinary, st.floats(-10, 10, width=32))
def test_errors_are_the_definition(want: Array, shift: float) -> None:
    have = (want + np.float32(shift)).astype(np.float32)
    difference = have.astype(np.float64) - want.astype(np.float64)
    signal, noise, worst = errors(want, have)
    assert signal == pytest.approx(float((want.astype(np.float64) ** 2).sum()))
    assert noise == pytest.approx(float((difference**2).sum()))
    assert worst == pytest.approx(float(np.abs(difference).max()))


@pytest.mark.parametrize("shape", [(3,), (1, 6), (6, 1), (2, 3), (0,), ()])
def test_another_shape_is_an_infinite_error(shape: tuple[int, ...]) -> None:
    assert errors(np.ones(6, np.float32), np.ones(shape, np.float32))[1:] == (inf, inf)


def test_an_empty_output_equals_an_empty_output() -> None:
    assert errors(np.ones((0, 4), np.float32), np.ones((0, 4), np.float32)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_large_integers_that_differ_differ(dtype: type) -> None:
    """float64 does not tell 2^53 from 2^53 + 1; hashes and identifiers are of that size."""
    want, have = np.array([2**53], dtype), np.array([2**53 + 1], dtype)
    assert errors(want, want)[1:] == (0.0, 0.0)
    assert errors(want, have)[1] > 0


def test_booleans_are_compared() -> None:
    assert errors(np.array([True, False]), np.array([True, True]))[1:] == (1.0, 1.0)


@pytest.mark.parametrize(
    ("signal", "noise", "db"), [(1, 0, inf), (0, 0, inf), (0, 1, -inf), (1, 1, 0), (100, 1, 20), (1, 1000, -30)]
)
def test_decibels(signal: float, noise: float, db: float) -> None:
    assert sqnr_db(signal, noise) == pytest.approx(db)


class Fixed:
    """Stands in for a program: gives the answers it was made with."""

    def __init__(self, *answers: dict[str, Array]) -> None:
        self.rows = answers

    def answers(self, data: Dataset) -> list[dict[str, Array]]:
        return list(self.rows)


def row(*values: float) -> dict[str, Array]:
    return {"y": np.array(values, np.float32)}


def test_drift_is_over_all_samples_and_each_output() -> None:
    truth = Fixed({**row(3, 4), "z": np.ones(2)}, {**row(0, 5), "z": np.ones(2)})
    answer = Fixed({**row(3, 4), "z": np.ones(2)}, {**row(1, 5), "z": np.ones(2)})
    y, z = compare(truth, answer, dataset(x=BASE))  # type: ignore[arg-type]
    assert (y.output, y.max_abs_error) == ("y", 1.0)
    assert y.sqnr_db == pytest.approx(10 * log10(50 / 1))
    assert (z.output, z.sqnr_db, z.max_abs_error) == ("z", inf, 0.0)


@pytest.mark.parametrize("bad", [float("nan"), inf, -inf])
def test_one_broken_value_in_one_sample_ruins_the_output(bad: float) -> None:
    good = [row(3, 4)] * 50
    (drift,) = compare(Fixed(*good, row(1, 1)), Fixed(*good, row(1, bad)), dataset(x=BASE))  # type: ignore[arg-type]
    assert (drift.sqnr_db, drift.max_abs_error) == (-inf, inf)


def test_broken_values_in_the_reference_alone_ruin_the_output_too() -> None:
    nan = float("nan")
    (drift,) = compare(Fixed(row(1, nan)), Fixed(row(1, 1)), dataset(x=BASE))  # type: ignore[arg-type]
    assert drift.sqnr_db == -inf
    (drift,) = compare(Fixed(row(1, nan)), Fixed(row(1, nan)), dataset(x=BASE))  # type: ignore[arg-type]
    assert drift.sqnr_db == inf


def test_the_metric_is_paired() -> None:
    data = Dataset.of_arrays("d", {"x": BASE}, np.array([0, 1, 0]))
    before, after = Fixed(row(1, 0), row(0, 1), row(1, 0)), Fixed(row(1, 0), row(0, 1), row(0, 1))
    change = compare_metric(before, after, data, TOP1)  # type: ignore[arg-type]
    assert change is not None
    assert (change.before, change.after, change.samples) == (1.0, pytest.approx(2 / 3), 3)
    assert change.drop == pytest.approx(1 / 3)
    assert change.drop_interval == paired_interval([1, 1, 1], [1, 1, 0])
    assert change.drop_interval[0] < change.drop < change.drop_interval[1]


def test_without_labels_there_is_no_metric() -> None:
    assert compare_metric(Fixed(), Fixed(), dataset(x=BASE), TOP1) is None  # type: ignore[arg-type]


# ---- what proofs are taken on

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("ids", "int64", (2,)), TensorSpec("on", "bool", (1,))), ()
)


def test_synthetic_data_fits_the_signature_and_says_what_it_is() -> None:
    data = synthetic_data(SIGNATURE, seed=3)
    assert data.name == "synthetic"
    assert len(list(data)) == len(data) > 1
    for sample in data:
        SIGNATURE.check_inputs(sample)
    assert data.digest == synthetic_data(SIGNATURE, seed=3).digest
    assert data.digest != synthetic_data(SIGNATURE, seed=4).digest


def test_proofs_prefer_validation_then_calibration(context: Callable[..., Context]) -> None:
    calibration, validation = dataset(x=BASE), dataset(x=BASE * 2)
    example = {"x": np.zeros((5, 3), np.float32), "ids": np.zeros(2, np.int64), "on": np.zeros(1, bool)}
    program = Program(name="net", level=Level.TORCH, model=None, signature=SIGNATURE, example=example)
    assert context(data=calibration, validation=validation).proof_data(program) is validation
    assert context(data=calibration).proof_data(program) is calibration
    synthetic = context().proof_data(program)
    assert synthetic.name == "synthetic"
    assert {sample["x"].shape for sample in synthetic} == {(5, 3)}, "varying sizes are those of the example"


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({}, "x"),
        ({"x": np.ones((1, 3), np.float32)}, "ids"),
        ({"x": np.ones((1, 4), np.float32), "ids": np.ones(2, np.int64), "on": np.ones(1, bool)}, "shape"),
        ({"x": np.ones(3, np.float32), "ids": np.ones(2, np.int64), "on": np.ones(1, bool)}, "shape"),
        ({"x": np.ones((1, 3)), "ids": np.ones(2, np.int64), "on": np.ones(1, bool)}, "float64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: dict[str, Array], named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as refusal:
        SIGNATURE.check_inputs(inputs)
    assert refusal.value.hint


def test_a_signature_survives_its_document() -> None:
    assert Signature.from_json(SIGNATURE.to_json()) == SIGNATURE


def test_answers_are_computed_once_for_the_same_data(program: Callable[..., Program]) -> None:
    net = program("g (float[1,2] x) => (float[1,2] y) { y = Neg(x) }")
    reads = []

    def read() -> list[dict[str, Array]]:
        reads.append(1)
        return [{"x": BASE[:1]}, {"x": BASE[1:2]}]

    first = list(net.answers(Dataset("a", read, 2)))
    again = list(net.answers(Dataset("b", read, 2)))
    assert [r["y"].tolist() for r in first] == [r["y"].tolist() for r in again] == [[[-0.0, -1]], [[-2, -3]]]
    assert len(reads) == 3, "once to digest and once to run, then only to digest"
    other = replace(net, facts=frozenset())
    assert next(iter(other.answers(Dataset("a", read, 2))))["y"].tolist() == [[-0.0, -1]]
