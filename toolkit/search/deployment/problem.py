"""What is searched for: a model and its data, divided so that what is published was never searched on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

from passes.dataset import Dataset, Sample
from passes.program import Program
from toolkit.data import check_preprocess_used, first_sample, load_data
from toolkit.digests import canonical_digest
from toolkit.errors import UsageError
from toolkit.sources import Source, load_source
from toolkit.varying_sizes import check_sizes

__all__ = ["Opened", "Parts", "Problem", "opened"]

CALIBRATION = 128
"""Samples that quantizers read at most."""
_LEAST = 16


@dataclass(frozen=True)
class Problem:
    """A model and its data as the user named them; see `toolkit.driver.Options` for each.

    One whose fields are texts can be sent to another process, which opens it there.
    """

    model: Any = None
    data: Any = None
    validation: Any = None
    preprocess: str | None = None
    inputs: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    seed: int = 0
    trust: bool = False

    @property
    def is_portable(self) -> bool:
        """Whether another process can open it by its names."""
        return all(part is None or isinstance(part, str) for part in (self.model, self.data, self.validation))


@dataclass(frozen=True)
class Parts:
    """The data of a search.

    Args:
        calibration: What quantizers read, as a compile of the recipe will.
        searched: What quality is measured on while searching.
        held_out: What it is published on.
        calibration_is_apart: Whether no sample of the other two is read by quantizers.
    """

    calibration: Dataset
    searched: Dataset
    held_out: Dataset
    calibration_is_apart: bool

    @cached_property
    def digest(self) -> str:
        """Of all of them."""
        return canonical_digest([self.calibration.digest, self.searched.digest, self.held_out.digest])


class Opened:
    """A problem that was loaded."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.source: Source = load_source(problem.model, inputs=problem.inputs, fixed=problem.fixed,
                                          sample=first_sample(problem.data), trust=problem.trust)  # fmt: skip
        check_sizes(self.source.program)
        self.parts = _parts(problem, self.source)

    @property
    def program(self) -> Program:
        """As it came."""
        return self.source.program


@lru_cache(maxsize=2)
def opened(problem: Problem) -> Opened:
    """`problem`, loaded once in a process."""
    return Opened(problem)


def _parts(problem: Problem, source: Source) -> Parts:
    """Every second sample of the validation data is kept out of the search; of the data, where there are no others.

    Raises:
        UsageError: there are no data, or too few to keep any out.
    """
    signature = source.program.signature
    given, validation = (
        load_data(spec, signature, preprocess=problem.preprocess) if spec is not None else None
        for spec in (problem.data, problem.validation)
    )
    check_preprocess_used(problem.preprocess, given, validation)
    data = given or source.data
    if data is None:
        raise UsageError(
            "a search needs data: quality is measured on samples, and random ones say nothing",
            hint="give samples with --data, labelled ones where there are any",
        )
    if validation is None and given is None:
        validation = source.validation
    judged, is_apart = validation or data, validation is not None
    if validation is None and len(data) >= 2 * CALIBRATION:
        judged, is_apart = _from(data, CALIBRATION), True
    if len(judged) < 2 * _LEAST:
        raise UsageError(
            f"{len(judged)} samples are too few to search on one half and publish on the other",
            hint=f"give {2 * _LEAST} or more: --validation, or more of --data",
        )
    return Parts(data, _every_second(judged, 0), _every_second(judged, 1), is_apart)


def _every_second(data: Dataset, first: int) -> Dataset:
    def read() -> Iterator[Sample]:
        return islice(data.read(), first, data.size, 2)

    return _some(data, read, range(first, data.size, 2), f"every second from {first}")


def _from(data: Dataset, first: int) -> Dataset:
    return _some(data, lambda: islice(data.read(), first, data.size), range(first, data.size), f"from {first}")


def _some(data: Dataset, read: Any, rows: range, said: str) -> Dataset:
    whole = data.identity
    identity = None if whole is None else lambda n: f"{said}, {n} of {whole(data.size)}"
    labels = None if data.labels is None else data.labels[rows.start :: rows.step]
    return replace(data, read=read, size=len(rows), labels=labels, identity=identity)
