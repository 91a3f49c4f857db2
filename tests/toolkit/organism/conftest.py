"""Every test draws the same numbers at each run, and leaves torch's generator as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from toolkit.models.seeded import seeded


@pytest.fixture(autouse=True)
def _same_numbers() -> Iterator[None]:
    with seeded(0):
        yield
