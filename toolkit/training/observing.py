"""A training that is counted and traced: a watcher that fills a collector and a tracer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from toolkit.observability import MetricsCollector, NullTracer, Tracer
from toolkit.training.watching import Epoch, Watcher

__all__ = ["Observer", "Watchers"]


class Watchers:
    """Several watchers as one, told in their order."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    @contextmanager
    def step(self, epoch: int, position: int, samples: int) -> Iterator[None]:
        """See `Watcher`."""
        with ExitStack() as stack:
            for watcher in self._watchers:
                stack.enter_context(watcher.step(epoch, position, samples))
            yield

    def epoch(self, epoch: Epoch, model: nn.Module) -> None:
        """See `Watcher`."""
        for watcher in self._watchers:
            watcher.epoch(epoch, model)

    def finished(self, history: Sequence[Epoch]) -> None:
        """See `Watcher`."""
        for watcher in self._watchers:
            watcher.finished(history)


class Observer:
    """Counts steps and samples, keeps how long steps take, and has the figures of the last epoch as gauges.

    Metrics: `training_steps`, `training_samples`, `training_step_s`, and by epoch `training_loss`,
    `training_judged_loss`, `training_metric`, `training_rate`. A span "step" stands around each step.

    Args:
        metrics: Where to count; `step` is called on it after each step, so that deferred values are read in time.
        tracer: Where spans go; nowhere if None.
        clock: Seconds.
    """

    def __init__(
        self, metrics: MetricsCollector, tracer: Tracer | None = None, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.metrics, self._clock = metrics, clock
        self._tracer: Tracer | NullTracer = tracer or NullTracer()
        self._steps = metrics.counter("training_steps")
        self._samples = metrics.counter("training_samples")
        self._step_s = metrics.histogram("training_step_s", "s")
        self._gauges = {
            "loss": metrics.gauge("training_loss", "1"), "judged_loss": metrics.gauge("training_judged_loss", "1"),
            "metric": metrics.gauge("training_metric", "1"), "rate": metrics.gauge("training_rate", "1"),
        }  # fmt: skip

    @contextmanager
    def step(self, epoch: int, position: int, samples: int) -> Iterator[None]:
        """See `Watcher`."""
        start = self._clock()
        with self._tracer.span("step", epoch=epoch, position=position, samples=samples):
            yield
        self._step_s.observe(self._clock() - start)
        self._steps.inc()
        self._samples.inc(samples)
        self.metrics.step()

    def epoch(self, epoch: Epoch, model: nn.Module) -> None:
        """See `Watcher`."""
        for name, gauge in self._gauges.items():
            value = getattr(epoch, name)
            if value is not None:
                gauge.set(value)

    def finished(self, history: Sequence[Epoch]) -> None:
        """What is still deferred is read."""
        self.metrics.flush()
