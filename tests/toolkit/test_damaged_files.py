"""Randomly damaged files: every one is read, or refused with exit 5; none ends in an internal error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.cli.main import main
from toolkit.rng import generator

FAST, MANY = 24, 200


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    found = {}
    for form, suffix in (("onnx", ".onnx"), ("torchscript", ".pt"), ("pt2", ".pt2")):
        path = folder / f"digits{suffix}"
        assert main(["export", "--to", form, "-o", str(path), "-q"]) == 0
        found[suffix] = path.read_bytes()
    return found


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        start = int(rng.integers(len(data)))
        del data[start : start + int(rng.integers(1, 200))]
        return bytes(data)
    places = {2: (1, len(data)), 3: (20, len(data)), 4: (5, min(600, len(data)))}
    count, reach = places[int(kind)]
    for place in rng.integers(reach, size=count):
        data[place] = rng.integers(256)
    return bytes(data)


@pytest.mark.parametrize("count", [pytest.param(FAST, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)])
def test_a_damaged_file_is_read_or_refused(
    count: int, originals: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = generator(count, "damage")
    codes = []
    for i in range(count):
        suffix = [".onnx", ".onnx", ".pt", ".pt2"][i % 4]
        path = tmp_path / f"m{suffix}"
        path.write_bytes(damaged(originals[suffix], rng))
        codes.append(main(["inspect", str(path), "-q", "--input", "1x1x8x8"]))
        error = capsys.readouterr().err
        assert codes[-1] in (0, 3, 5), f"file {i}: {error}"
        assert "Traceback" not in error
    assert codes.count(5) > count / 4, "most damage is found"
