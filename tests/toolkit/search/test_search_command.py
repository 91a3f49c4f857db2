"""`toolkit search`: what it prints, what it refuses, and that a kill loses nothing that was finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.toolkit.search.small_network import write
from toolkit.cli.main import main

PI = "raspberry_pi_4"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("small"))


def arguments(files, folder, *more):
    model, data, validation = files
    return ["search", model, "--target", PI, "--data", data, "--validation", validation, "-o", str(folder), *more]


@pytest.mark.slow
def test_one_command_finds_shows_and_keeps(files, tmp_path, capsys):
    assert main(arguments(files, tmp_path, "--evaluations", "4")) == 0
    out = capsys.readouterr().out
    assert "4 deployments of" in out
    assert "stratified random" in out
    assert "NSGA-II" in out
    atlas = json.loads((tmp_path / "atlas.json").read_text())
    best = next(point for point in atlas["points"] if point["is_on_front"])
    assert best["id"][:8] in out
    capsys.readouterr()
    assert main(arguments(files, tmp_path, "--evaluations", "4", "--json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "toolkit.search/1"
    assert shown["points"] == atlas["points"]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--evaluations", "0"], 2, "no search of 0 evaluations"),
        (["--seconds", "-1"], 2, "no search of"),
        (["--target", "raspbery_pi_4"], 2, "raspbery_pi_4"),
        (["--max-latency", "20"], 2, "--max-latency"),
        (["--executor", "ray", "--workers", "0"], 2, "worker"),
        (["--executor", "trheads"], 2, "threads"),
        (["--address", "auto"], 2, "address"),
        (["--data", "nowhere.npz"], 5, "nowhere.npz"),
        (["--stack", "tflight"], 2, "tflight"),
    ],
)
def test_what_cannot_be_searched_is_said_with_a_next_step(files, tmp_path, capsys, more, code, said):
    assert main(arguments(files, tmp_path, "--evaluations", "4", *more)) == code
    error = capsys.readouterr().err
    assert said in error
    assert "next:" in error
    assert not (tmp_path / "atlas.json").exists()


def test_no_data_is_an_error_and_not_noise(files, tmp_path, capsys):
    assert main(["search", files[0], "--target", PI, "-o", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.slow
def test_help_loads_no_framework():
    code = "import sys\nfrom toolkit.cli.main import main\nmain(['search', '--help'])\n"
    code += "print([m for m in ('torch', 'onnx', 'sklearn', 'onnxruntime') if m in sys.modules], file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"
    assert "--evaluations" in found.stdout


@pytest.mark.slow
def test_a_kill_loses_nothing_and_the_same_command_goes_on(files, tmp_path):
    def run(name, wait_for=None):
        environment = {**os.environ, "TOOLKIT_CACHE": str(tmp_path / f"cache-{name}")}
        command = [sys.executable, "-c", "import sys; from toolkit.cli.main import main; sys.exit(main(sys.argv[1:]))"]
        command += arguments(files, tmp_path / name, "--evaluations", "64", "--no-baselines", "--quiet", "--json")
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            if wait_for is None:
                return json.loads(process.communicate()[0])
            waiting = tmp_path / name / PI / wait_for
            while process.poll() is None and not (waiting.exists() and waiting.read_bytes().count(b"\n") >= 5):
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            return process.wait()

    assert run("killed", "waiting.jsonl") == -signal.SIGKILL
    resumed, whole = run("killed"), run("whole")
    assert resumed.pop("folder") != whole.pop("folder")
    assert resumed == whole
