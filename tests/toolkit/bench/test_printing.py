"""What a benchmark prints for people."""

from __future__ import annotations

import pytest

from toolkit.bench.printing import show


def test_columns_that_say_nothing_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"way": "tiled", "new_bytes": 1234567, "seconds": 0.123456, "interval": (1.0, 2.5), "met": True, "note": ""},
        {"way": "dense", "new_bytes": None, "seconds": 2.0, "interval": None, "met": False, "note": None},
    ]
    show("time", rows)
    said = capsys.readouterr().out
    assert said.startswith("time")
    assert "note" not in said
    for text in ("new bytes", "1,234,567", "0.1235", "1 to 2.5", "True", "False"):
        assert text in said
