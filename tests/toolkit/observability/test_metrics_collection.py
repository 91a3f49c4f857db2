"""Counting: what is kept, how it merges, how far a quantile is off, and how often a device is read."""

from __future__ import annotations

import ast
import json
import threading
from math import inf, nan, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit import observability
from toolkit.errors import InvalidInput, UsageError
from toolkit.observability import HistogramState, MetricsCollector, MetricsSnapshot, NullCollector
from toolkit.observability.snapshot import Buckets

values = st.floats(1e-5, 1e3)


def collected(events: list[tuple[str, str, float]]) -> MetricsSnapshot:
    made = MetricsCollector()
    for kind, label, value in events:
        if kind == "counter":
            made.counter("done").inc(round(value * 1024) / 1024, worker=label)  # sums of such numbers are exact
        elif kind == "gauge":
            made.gauge("depth", "1").set(value, worker=label)
        else:
            made.histogram("wait", "s").observe(round(value * 1024) / 1024, worker=label)
    return made.snapshot()


snapshots = st.lists(
    st.tuples(st.sampled_from(["counter", "gauge", "histogram"]), st.sampled_from("ab"), values), max_size=8
).map(collected)


@given(snapshots, snapshots, snapshots)
def test_merging_has_no_order(a: MetricsSnapshot, b: MetricsSnapshot, c: MetricsSnapshot) -> None:
    assert a.merged(b) == b.merged(a)
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    assert a.merged(MetricsSnapshot()) == a


@given(snapshots)
def test_a_snapshot_travels_as_json(one: MetricsSnapshot) -> None:
    assert MetricsSnapshot.from_json(one.to_json()) == one
    json.loads(one.to_json(), parse_constant=pytest.fail)


@given(st.lists(values, min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_are_off_by_half_a_bucket_at_most(seen: list[float], share: float) -> None:
    made = MetricsCollector().histogram("wait", "s")
    for value in seen:
        made.observe(value)
    (tally,) = made.values.values()
    truth = float(np.quantile(seen, share, method="inverted_cdf"))
    assert tally.state(made.buckets).quantile(share) == pytest.approx(truth, rel=sqrt(1.1) - 1 + 1e-9)


def test_the_outer_buckets_and_what_is_no_number() -> None:
    made = MetricsCollector()
    wait = made.histogram("wait", "s", lo=1.0, hi=10.0, growth=2.0)
    for value in (-3.0, 0.0, 1.0, 1.5, 10.0, 99.0, nan, inf):
        wait.observe(value)
    (state,) = made.snapshot().histograms["wait"].values()
    assert (state.count, state.invalid, state.low, state.high) == (6, 2, -3.0, 99.0)
    assert sorted(state.counts.items()) == [(-1, 3), (0, 1), (3, 1), (4, 1)]
    assert np.isnan(HistogramState().quantile(0.5))


def test_a_value_on_a_bound_is_up_to_it() -> None:
    assert [Buckets(2.0, 1.0, 8.0).index(value) for value in (1.0, 1.1, 2.0, 2.1, 4.0, 8.0, 8.1)] == [
        -1, 0, 0, 1, 1, 2, 3,
    ]  # fmt: skip


def test_what_is_no_number_merges_in_any_order_and_travels() -> None:
    def made(value: float) -> MetricsSnapshot:
        one = MetricsCollector()
        one.gauge("loss", "nat").set(value)
        for _ in range(2):
            one.counter("done").inc(1e308)
            one.histogram("wait", "s").observe(1e308)
        return one.snapshot()

    for merged in (made(nan).merged(made(1.0)), made(1.0).merged(made(nan))):
        read = MetricsSnapshot.from_json(merged.to_json())
        assert np.isnan(read.gauges["loss"][()])
        assert read.counters["done"][()] == read.histograms["wait"][()].total == inf


def test_one_name_is_one_metric() -> None:
    made = MetricsCollector()
    assert made.counter("steps") is made.counter("steps")
    for clash in (
        lambda: made.counter("steps", "s"), lambda: made.gauge("steps", "1"),
        lambda: made.histogram("steps", "1"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="steps is a counter in '1', not a"):
            clash()
    made.histogram("wait", "s")
    with pytest.raises(UsageError, match="other buckets"):
        made.histogram("wait", "s", growth=2.0)
    for name in ("", "Loss", "1st", "a-b", "a b"):
        with pytest.raises(UsageError, match="is no name for a metric"):
            made.counter(name)
    for wrong in (-1, nan, inf):
        with pytest.raises(UsageError, match="cannot grow by"):
            made.counter("steps").inc(wrong)
    with pytest.raises(UsageError, match="a flush every 0 steps"):
        MetricsCollector(0)
    with pytest.raises(InvalidInput, match="no buckets from"):
        Buckets(growth=1.0)


def test_snapshots_that_do_not_go_together() -> None:
    one, other = MetricsCollector(), MetricsCollector()
    one.counter("steps", "1").inc()
    other.counter("steps", "s").inc()
    with pytest.raises(InvalidInput, match="steps is a counter in '1' and a counter in 's'"):
        one.snapshot().merged(other.snapshot())
    for text in ("", "[]", "{}", '{"schema": "toolkit.metrics/1"}', '{"schema": "other"}', "null"):
        with pytest.raises(InvalidInput):
            MetricsSnapshot.from_json(text)


def test_a_snapshot_does_not_change_later() -> None:
    made = MetricsCollector()
    made.counter("steps").inc(2, phase="warm-up")
    before = made.snapshot()
    made.counter("steps").inc(5, phase="warm-up")
    assert before.counters["steps"][(("phase", "warm-up"),)] == 2
    with pytest.raises(TypeError):
        before.counters["steps"][()] = 3.0  # type: ignore[index]


def test_threads_lose_no_count() -> None:
    made = MetricsCollector()

    def work() -> None:
        for _ in range(2000):
            made.counter("steps").inc()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.snapshot().counters["steps"][()] == 8000


class _Reads(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts copies from the device: what `item`, `tolist` and `cpu` end in."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is torch.ops.aten._local_scalar_dense.default:
            self.scalars += 1
        return func(*args, **(kwargs or {}))


def test_deferred_values_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MetricsCollector(flush_every=50)
    loss, norm = made.gauge("loss", "nat"), made.histogram("gradient_norm", "1")
    reads: list[tuple[int, ...]] = []
    whole = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (reads.append(tuple(self.shape)), whole(self))[1])
    with _Reads() as counted:
        for step in range(100):
            made.defer(loss, torch.tensor(float(step), requires_grad=True))
            made.defer(norm, torch.tensor([[float(step)]]))
            made.step()
    assert reads == [(100,), (100,)]
    assert counted.scalars == 0
    assert made.snapshot().gauges["loss"][()] == 99.0
    assert made.snapshot().histograms["gradient_norm"][()].count == 100


def test_deferred_values_keep_no_graph() -> None:
    made = MetricsCollector()
    weight = torch.ones(3, requires_grad=True)
    made.defer(made.gauge("loss", "nat"), (weight * 2).sum())
    ((_, kept, _),) = made._deferred
    assert kept.grad_fn is None
    made.flush()
    assert made.snapshot().gauges["loss"][()] == 6.0
    made.flush()


def test_what_was_not_asked_for_counts_nothing() -> None:
    null = NullCollector()
    null.counter("steps").inc()
    null.gauge("depth", "1").set(1.0)
    null.histogram("wait", "s").observe(1.0)
    null.defer(null.gauge("depth", "1"), torch.ones(()))
    null.step()
    null.flush()
    assert null.snapshot() == MetricsSnapshot()


def test_two_collectors_share_nothing_and_no_module_holds_one() -> None:
    one, other = MetricsCollector(), MetricsCollector()
    one.counter("steps").inc()
    assert other.snapshot() == MetricsSnapshot()
    makers = {"MetricsCollector", "Tracer", "NullCollector", "NullTracer"}
    for file in sorted(Path(observability.__file__).parents[1].rglob("*.py")):
        source = file.read_text("utf-8")
        for statement in ast.parse(source).body if any(maker in source for maker in makers) else ():
            if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Call):
                called = statement.value.func
                name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                assert name not in makers, f"{file} holds a {name} for everybody"
