"""Ours beside another converter: what it makes is judged, and what it cannot make is told."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from passes.context import Context
from passes.dataset import Dataset
from passes.recipe import RECIPES
from passes.running import run
from targets.target import load_stack
from toolkit.backends.litert.tflite import tflite_bytes
from toolkit.bench import litert
from toolkit.bench.litert import PRECISIONS, compare_network
from toolkit.bench.trained import Task
from toolkit.models import digits
from toolkit.sources import load_source


@pytest.fixture(scope="module")
def task() -> Task:
    """The example, asked about few images."""
    data = digits.validation()
    assert data.labels is not None
    images = np.concatenate([sample["image"] for sample, _ in zip(data, range(60), strict=False)])
    asked = Dataset.of_arrays("some digits", {"image": images}, data.labels[:60])
    return Task("digits", load_source("digits").program, digits.calibration(), asked)


def interpreter(folder: Path, line: str) -> Path:
    """What stands for the interpreter that has litert-torch: it is called with the setting and three files."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)
    return file


@pytest.mark.slow
def test_a_file_that_is_ours_is_as_good_as_ours(task: Task, tmp_path: Path) -> None:
    stack = load_stack(PRECISIONS["float32"][0])
    made = run(
        RECIPES["float32"](stack, task.program.level), task.program, Context(stack=stack, data=task.calibration)
    ).program
    twin = tmp_path / "twin.tflite"
    twin.write_bytes(tflite_bytes(made, stack))
    compared = compare_network(task, "float32", interpreter(tmp_path, f'for last; do :; done; cp {twin} "$last"'))
    ours, theirs = compared.rows
    assert (ours.way, theirs.way, ours.note, theirs.note) == ("ours", "litert-torch, float32", "", "")
    assert (ours.right, ours.size_bytes) == (theirs.right, theirs.size_bytes)
    assert ours.right > 0.9
    assert compared.labelled
    by_respect = {verdict.respect: verdict for verdict in compared.verdicts}
    assert not by_respect["right answers"].worse
    assert not by_respect["bytes"].worse
    assert 0.5 < by_respect["latency"].difference < 2


@pytest.mark.slow
def test_what_it_says_when_it_fails_is_in_the_row(task: Task, tmp_path: Path) -> None:
    failing = interpreter(tmp_path, "echo 'ImportError: no such thing' >&2; exit 1")
    compared = compare_network(task, "float32", failing)
    assert [row.note for row in compared.rows] == ["", "litert-torch failed: ImportError: no such thing"]
    assert compared.verdicts == ()


def test_unknown_networks_and_interpreters_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (("lenet", "unknown: lenet"), ("--peer-python /no/python digits", "no such interpreter")):
        monkeypatch.setattr("sys.argv", ["litert", *shlex.split(words)])
        with pytest.raises(SystemExit):
            litert.main()
        assert said in capsys.readouterr().err
