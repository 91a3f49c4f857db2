"""search.yaml: what beats what, every mistake with its line, and that the command does what the file says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from targets.errors import InvalidInput, UsageError
from tests.toolkit.search.small_network import write
from toolkit.cli.main import main
from toolkit.search.deployment.search_file import SearchConfig, load_search

WHOLE = """\
model: digits
target: [raspberry_pi_4, coral_tpu]
data: samples.npz
validation: labelled.npz
evaluations: 40
seconds: 1e2
limits: {latency_s: 0.02, peak_memory_bytes: 100000000}
executor:
  kind: ray
  workers: 4
  address: 10.0.0.7:6379
  trial_s: 600
fine_tune: 2
baselines: false
seed: 3
output: atlas/mine
"""


def written(tmp_path, text, name="search.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_every_field_is_read(tmp_path):
    found = load_search(written(tmp_path, WHOLE))
    assert found.target == ["raspberry_pi_4", "coral_tpu"]
    assert (found.evaluations, found.seconds, found.seed, found.baselines) == (40, 100.0, 3, False)
    assert found.limits.stated() == {"latency_s": 0.02, "peak_memory_bytes": 1e8}
    assert (found.executor.name, found.executor.workers, found.executor.trial_s) == ("ray", 4, 600.0)
    left_out = {"stack", "preprocess", "input", "fix"}
    assert set(found.to_data()) == set(SearchConfig.model_fields) - left_out | {"input", "fix"}


def test_one_target_is_a_name_and_workers_mean_processes(tmp_path):
    found = load_search(written(tmp_path, "target: jetson_nano\nexecutor: {workers: 2}\n"))
    assert (found.target, found.executor.name) == (["jetson_nano"], "processes")
    assert load_search(written(tmp_path, "executor: {trial_s: 9}")).executor.name == "processes"
    assert load_search(written(tmp_path, "# nothing")).executor.name == "here"


def test_the_environment_beats_the_file_and_set_beats_both(tmp_path):
    environ = {"TOOLKIT__EVALUATIONS": "50", "TOOLKIT__EXECUTOR__WORKERS": "5", "TOOLKIT_CACHE": "/elsewhere"}
    found = load_search(written(tmp_path, WHOLE), environ, ["executor.workers=6", "target=jetson_nano"])
    assert (found.evaluations, found.executor.workers, found.target) == (50, 6, ["jetson_nano"])
    assert found.executor.address == "10.0.0.7:6379"


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("seed: 1\nevalutions: 5", "search.yaml:2: there is no field evalutions", "did you mean 'evaluations'?"),
        ("evaluations: 0", "search.yaml:1: evaluations = 0 is not allowed", ""),
        ("evaluations: true", "search.yaml:1: evaluations = True is not allowed", ""),
        ("seconds: .nan", "search.yaml:1: seconds = nan is not allowed", ""),
        ("seed: '3'", "search.yaml:1: seed = '3' is not allowed", "without quotes"),
        ("limits:\n  latency_s: 20ms", "search.yaml:2: limits.latency_s = '20ms' is not allowed", "without a unit"),
        ("limits: {latency: 1}", "search.yaml:1: there is no field limits.latency", "latency_s"),
        ("executor: threads", "search.yaml:1: executor = 'threads' is not allowed", ""),
        ("executor:\n  workers: 0", "search.yaml:2: executor.workers = 0 is not allowed", ""),
        ("executor: {kind: dask}", "search.yaml:1: executor.kind = 'dask' is not allowed", ""),
        ("\ntarget:\n- raspberry_pi_4\n- corral_tpu", "search.yaml:4: unknown target 'corral_tpu'", "coral_tpu"),
        ("target: 4", "search.yaml:1: target = 4 is not allowed", ""),
        ("trust: true", "search.yaml:1: there is no field trust", ""),
        ("recipe: int8\nevaluations: 4", "search.yaml:1: there is no field recipe", ""),
        ("seed: 1\nseed: 2", "search.yaml:2: seed was given before", ""),
        ("- a", "search.yaml is not a mapping of fields", "model"),
        ("a: !!python/name:os.system", "search.yaml is not YAML", ""),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path, monkeypatch, text, said, hint):
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, text).relative_to(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        load_search(path)
    assert said in caught.value.problem
    assert hint in caught.value.hint


def test_all_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(InvalidInput, match="has 2 mistakes") as caught:
        load_search(written(tmp_path, "sed: 1\nevaluations: -1\n"))
    assert "search.yaml:1: " in caught.value.problem
    assert "search.yaml:2: " in caught.value.problem


def test_mistakes_above_the_file_say_where_they_stand(tmp_path):
    with pytest.raises(InvalidInput, match=r"--set executor\.workers: executor\.workers = 'many'"):
        load_search(written(tmp_path, WHOLE), {}, ["executor.workers=many"])
    with pytest.raises(InvalidInput, match="TOOLKIT__SEED: seed = -1"):
        load_search(None, {"TOOLKIT__SEED": "-1"})
    with pytest.raises(UsageError, match="sets nothing"):
        load_search(None, {}, ["seed"])


def test_of_a_project_the_fields_of_a_search_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project = "model: digits\ntarget: jetson_nano\nrecipe: float16\noutput: build/mine\nseed: 5\n"
    for path in (None, written(tmp_path, project, "toolkit.yaml"), written(tmp_path, project, "recipe.yaml")):
        found = load_search(path)
        assert (found.model, found.target, found.seed, found.output) == ("digits", ["jetson_nano"], 5, None)
    assert load_search(None).seed == 5
    with pytest.raises(InvalidInput, match=r"toolkit\.yaml:1: there is no field taget"):
        load_search(written(tmp_path, "taget: jetson_nano", "toolkit.yaml"))


# ---- the command


def shown(capsys, *words):
    assert main(["search", *words, "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["search"]


def test_flags_beat_everything(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOOLKIT__SEED", "8")
    file = str(written(tmp_path, WHOLE))
    found = shown(capsys, "-c", file, "--set", "seed=9")
    assert (found["seed"], found["target"]) == (9, ["raspberry_pi_4", "coral_tpu"])
    found = shown(capsys, "-c", file, "--set", "seed=9", "--seed", "10", "-t", "jetson_nano", "--max-latency", "5ms",
                  "--executor", "threads", "--workers", "2", "--baselines", "--data", "other.npz")  # fmt: skip
    assert (found["seed"], found["target"], found["baselines"]) == (10, ["jetson_nano"], True)
    assert found["limits"] == {"latency_s": 0.005, "peak_memory_bytes": 1e8}
    assert found["executor"] == {"kind": "threads", "workers": 2, "address": "10.0.0.7:6379", "trial_s": 600.0}
    assert (found["data"], found["validation"]) == ("other.npz", "labelled.npz")
    assert shown(capsys, "-t", "jetson_nano")["evaluations"] == 500
    assert "evaluations" not in shown(capsys, "-t", "jetson_nano", "--seconds", "60")
    assert shown(capsys, "-c", file, "--stack", "raspberry_pi_4/tflite-int8")["target"] == ["raspberry_pi_4"]


def test_a_bad_file_exits_with_5_and_the_line(tmp_path, capsys):
    assert main(["search", "-c", str(written(tmp_path, "evaluations: 0"))]) == 5
    assert "search.yaml:1: evaluations = 0" in capsys.readouterr().err
    assert main(["search", "-c", str(tmp_path / "none.yaml")]) == 5
    assert "cannot read" in capsys.readouterr().err


def test_reading_a_file_loads_no_framework(tmp_path):
    code = f"import sys\nfrom toolkit.cli.main import main\nmain(['search', '-c', {str(written(tmp_path, WHOLE))!r}, "
    code += "'--dry-run'])\nheavy = ('torch', 'onnx', 'sklearn', 'scipy', 'ray', 'toolkit.observability')\n"
    code += "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"
    assert "evaluations: 40" in found.stdout


@pytest.mark.slow
def test_a_file_is_searched_and_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, data, validation = write(tmp_path / "small")
    text = f"model: {model}\ntarget: raspberry_pi_4\ndata: {data}\nvalidation: {validation}\nevaluations: 8\n"
    file = written(tmp_path, text + "baselines: false\noutput: found\n")
    assert main(["search", "-c", str(file), "-q", "--metrics", "counted.json"]) == 0
    assert "8 deployments of" in capsys.readouterr().out
    atlas = json.loads((tmp_path / "found" / "atlas.json").read_text())
    assert atlas["targets"]["raspberry_pi_4"]["finished"] == 8
    from toolkit.observability import MetricsSnapshot

    counted = MetricsSnapshot.from_json((tmp_path / "counted.json").read_text())
    assert sum(counted.counters["search_candidates"].values()) == 8


def test_metrics_that_cannot_be_written_stop_the_search_before_it_begins(tmp_path, capsys):
    words = ["search", "-t", "raspberry_pi_4", "--evaluations", "4", "-o", str(tmp_path / "a")]
    assert main([*words, "--metrics", str(tmp_path / "none" / "m.json")]) == 5
    assert "cannot write" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
