"""A network in one static file with the runner's command line: on an emulated Pi 4, on a 32-bit core, and here."""

from __future__ import annotations

import csv
import json
import platform
from pathlib import Path

import numpy as np
import pytest

import toolkit
from targets.target import load_stack, load_target
from tests.toolkit.standalone.c_programs import Ended, ran
from toolkit.backends.ahead_of_time.executing import command
from toolkit.backends.ahead_of_time.machines import MACHINES
from toolkit.bundle.golden import read_golden
from toolkit.calibration.rows import read_rows

pytestmark = pytest.mark.slow

STACKS = ("program-int8", "program-armv7-int8")


@pytest.fixture(scope="module", params=STACKS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "digits"
    return toolkit.compile(target="raspberry_pi_4", stack=request.param, output=output, standalone=True).path


def _ran(bundle: Path, *words: str | Path) -> Ended:
    """What the bundle's runner says on the core that it was made for."""
    stack = json.loads((bundle / "manifest.json").read_text())["stack"]
    machine = MACHINES[load_stack(stack).machine]
    return ran(bundle / "run/runner", *words, before=command(machine, emulate=platform.machine() != "aarch64"))


def test_answers_are_those_recorded(bundle: Path) -> None:
    done = _ran(bundle, "--self-test")
    assert (done.code, done.err) == (0, "")
    assert "4 golden samples: identical against the answers recorded" in done.out
    assert "onnxruntime" not in done.out


def test_answers_to_a_file_are_those_of_the_program(bundle: Path, tmp_path: Path) -> None:
    golden = read_golden(bundle / "golden.npz")
    (name,) = golden[0].inputs
    np.save(tmp_path / "in.npy", np.concatenate([sample.inputs[name] for sample in golden]))
    document = json.loads(_ran(bundle, "--json", tmp_path / "in.npy").out)
    (output,) = golden[0].outputs
    expected = np.concatenate([sample.outputs[output] for sample in golden])
    assert np.float32(document["outputs"][output]).tobytes() == expected.tobytes()


def test_a_row_says_what_ran_and_calibrate_reads_it(bundle: Path) -> None:
    table = bundle.parent / "rows.csv"
    table.write_text(_ran(bundle, "--bench", "5").out)
    (row,) = csv.DictReader(table.open())
    assert (row["runtime"], row["precision"], row["threads"]) == ("ahead-of-time", "int8", "1")
    assert row["path"] == f"{bundle.name}/model.onnx"
    stack = json.loads((bundle / "manifest.json").read_text())["stack"]
    rows = read_rows(table, load_target("raspberry_pi_4"), load_stack(stack))
    assert not rows.set_aside
    assert [row.latency_s > 0 for row in rows.rows] == [True]


def test_help_is_that_of_every_runner(bundle: Path) -> None:
    options = ("--self-test", "--bench N", "--preprocess TEXT", "--threads N", "--bundle DIR", "--json")
    assert all(option in _ran(bundle, "--help").out for option in options)


def test_more_threads_than_one_and_other_networks_are_refused(bundle: Path, tmp_path: Path) -> None:
    threads = _ran(bundle, "--threads", "2", "--self-test")
    assert (threads.code, "one thread, not on 2" in threads.err) == (2, True)
    other = toolkit.compile(target="desktop_cpu", stack="onnxruntime-fp32", output=tmp_path / "other").path
    refused = _ran(bundle, "--bundle", other, "--self-test")
    assert refused.code == 5
    assert "this runner holds another network than" in refused.err


def test_a_changed_golden_file_is_named(bundle: Path) -> None:
    golden = bundle / "golden.npz"
    before = golden.read_bytes()
    golden.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        refused = _ran(bundle, "--self-test")
    finally:
        golden.write_bytes(before)
    assert refused.code == 5
    assert "golden.npz is not the file that was written" in refused.err


def test_nothing_but_the_terms_and_the_facts_lie_beside_it(bundle: Path) -> None:
    assert {path.name for path in (bundle / "run").iterdir()} == {"runner", "runner.json", "LICENSES.txt"}
    bill = json.loads((bundle / "sbom.cdx.json").read_text())
    assert "onnxruntime" not in {part["name"] for part in bill["components"]}
