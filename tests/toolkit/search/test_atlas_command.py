"""`toolkit compile --from` and `toolkit report`: from an atlas to a bundle that verifies, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

import toolkit
from passes.program import Level
from passes.recipe import RECIPES
from targets.target import load_target
from tests.toolkit.search.atlases import document, write
from toolkit.cli.main import main
from toolkit.driver import estimate_model, load_program


@cache
def estimated(stack_name):
    return estimate_model("digits", target="raspberry_pi_4", stack=stack_name)


def priced(stack_name, recipe, quality, **fields):
    """A point of the built-in example on the Pi, with the cost that the cost model gives."""
    stack = load_target("raspberry_pi_4").stack(stack_name)
    found = estimated(stack_name)
    passes = RECIPES[recipe](stack, Level.TORCH).to_data()
    size = 120e3 if recipe == "float32" else 36e3
    return {
        "target": "raspberry_pi_4", "stack": stack_name, "config": {"bits": 8}, "fidelity": 2, "n": 180, "cell": 1,
        "recipe": {"model": "digits", "target": "raspberry_pi_4", "stack": stack_name, "seed": 0, "recipe": recipe,
                   "passes": passes},
        "quality": quality, "quality_interval": [quality - 0.02, quality + 0.01],
        "measures": {"latency_s": found.latency_s, "peak_memory_bytes": float(found.peak_memory_bytes),
                     "energy_j": found.energy_j, "model_bytes": size, "sparsity": 0.0},
        "intervals": {"latency_s": list(found.latency_interval_s), "energy_j": list(found.energy_interval_j),
                      "peak_memory_bytes": [float(v) for v in found.memory_interval_bytes]},
        "provenance": found.provenance,
    } | fields  # fmt: skip


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    points = [
        priced("tflite-fp32", "float32", 0.985, id="float0000"),
        priced("tflite-int8", "int8", 0.980, id="int800000"),
        priced("tflite-int8", "int8", 0.700, id="poor00000"),
    ]
    content = document(0) | {"points": points}
    content["model"]["digest"] = load_program("digits").digest
    return content


@pytest.fixture
def folder(atlas, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return str(write(tmp_path / "atlas" / "digits", atlas).relative_to(tmp_path))


def latencies(atlas):
    return {p["id"]: p["measures"]["latency_s"] for p in atlas["points"]}


@pytest.mark.slow
def test_the_best_that_fits_becomes_a_bundle_that_verifies(folder, atlas, capsys):
    assert main(["compile", "--from", folder, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "point float0000 on raspberry_pi_4/tflite-fp32: the best that fits" in said
    assert "not significantly worse: 1, the next int800000" in said
    # a limit between the two: the integer network is within for certain, the float one is not
    slow, fast = (p["intervals"]["latency_s"][1] for p in atlas["points"][:2])
    limit = (slow * fast) ** 0.5
    words = ["--target", "raspberry_pi_4", "--max-latency", f"{limit}s", "--strict", "-o", "made", "-q"]
    assert main(["compile", "--from", folder, *words]) == 0
    said = capsys.readouterr().out
    assert "point int800000" in said
    assert "in the atlas" in said
    bundle = toolkit.load("made")
    assert bundle.manifest["stack"] == "raspberry_pi_4/tflite-int8"
    assert bundle.manifest["recipe"]["passes"] == atlas["points"][1]["recipe"]["passes"]
    assert bundle.report["after"]["latency_interval_s"][1] <= limit
    assert main(["verify", "made"]) == 0


def test_a_search_that_has_not_ended_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "atlas" / "raspberry_pi_4"
    there.mkdir(parents=True)
    for words in (["compile", "--from", "atlas"], ["report", "atlas"], ["archive", "atlas"]):
        assert main(words) == 5
        assert "has not ended" not in capsys.readouterr().err
    (there / "search.json").write_text("{}")
    for words in (["compile", "--from", "atlas"], ["report", "atlas"], ["archive", "atlas"], ["archive", str(there)]):
        assert main(words) == 5
        said = capsys.readouterr().err
        assert "has not ended, so there is no atlas yet" in said
        assert "run its `toolkit search` again" in said


def test_a_dry_run_shows_the_passes_of_a_recipe_that_a_search_named(atlas, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    point = atlas["points"][1]
    named = point | {"recipe": point["recipe"] | {"recipe": "deployment"}}
    write(tmp_path / "atlas", atlas | {"points": [named]})
    assert main(["compile", "--from", "atlas", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "recipe deployment for raspberry_pi_4/tflite-int8" in said
    assert all(f"  {entry['pass']}(" in said for entry in point["recipe"]["passes"])


@pytest.mark.slow
def test_a_named_point_is_taken_and_replays_from_its_own_recipe(folder, capsys):
    assert main(["compile", "digits", "--from", folder, "--point", "poor", "-o", "made", "-q"]) == 0
    assert "point poor00000 on raspberry_pi_4/tflite-int8, as named" in capsys.readouterr().out
    assert main(["compile", "-c", "made/recipe.yaml", "-o", "again", "-q"]) == 0
    assert toolkit.load("made").manifest["sha256"] == toolkit.load("again").manifest["sha256"]


def test_where_none_fits_the_nearest_miss_is_told_and_nothing_is_made(folder, atlas, tmp_path, capsys):
    best = min(latencies(atlas).values())
    limit = best / 4
    assert main(["compile", "--from", folder, "--max-latency", f"{limit}s"]) == 1
    said = capsys.readouterr().out
    assert "none of 3 points on raspberry_pi_4 is within the limits" in said
    assert "or 300.0% above the limit" in said
    assert main(["compile", "--from", folder, "--max-latency", f"{best / 400}s"]) == 1
    assert ", 400 times the limit of" in capsys.readouterr().out
    assert not (tmp_path / "build").exists()
    assert main(["compile", "--from", folder, "--min-accuracy", "99.9%", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "toolkit.choice/1"
    assert (told["fits"], told["point"]["id"]) == (False, "float0000")


def test_a_point_that_learnt_nothing_is_told_as_one(atlas, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "atlas", atlas | {"quality_floor": 0.7})
    words = ["compile", "--from", "atlas", "--dry-run", "--point"]
    assert main([*words, "poor"]) == 0
    assert "no better than one constant answer, which has 0.7000" in capsys.readouterr().out
    assert main([*words, "int8"]) == 0
    assert "constant answer" not in capsys.readouterr().out


def test_an_uncertain_point_is_taken_but_not_with_strict(folder, atlas, capsys):
    low, high = atlas["points"][1]["intervals"]["latency_s"]
    limit = (latencies(atlas)["int800000"] + high) / 2
    assert low < limit < high
    words = ["compile", "--from", folder, "--max-latency", f"{limit}s", "--dry-run"]
    assert main(words) == 0
    assert "the best by its estimate; uncertain, see below" in capsys.readouterr().out
    assert main([*words, "--strict"]) == 1
    assert "its interval reaches beyond the limit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["--max-latency", "20"], 2, "has no unit"),
        (["--min-accuracy", "high"], 2, "--min-accuracy 'high' is no number"),
        (["--target", "jetson_nano"], 2, "unknown target in this atlas 'jetson_nano'"),
        (["--stack", "armnn-fp32"], 2, "unknown stack in this atlas 'armnn-fp32'"),
        (["--target", "jetson_nano", "--stack", "raspberry_pi_4/tflite-int8"], 2, "name different devices"),
        (["--point", "int8", "--max-latency", "1ms"], 2, "--point and limits both choose"),
        (["--point", "nosuch"], 2, "the atlas has no point nosuch"),
        (["--recipe", "int8"], 2, "--from and --recipe each say how"),
        pytest.param(["keyword_spotting"], 5, "this atlas is of digits", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_slip_is_told(folder, words, code, problem, capsys):
    assert main(["compile", "--from", folder, "-q", *words]) == code
    assert problem in capsys.readouterr().err


def test_limits_without_an_atlas_are_told(capsys):
    assert main(["compile", "digits", "-t", "raspberry_pi_4", "--max-latency", "20ms"]) == 2
    assert "add --from ATLAS" in capsys.readouterr().err


def test_two_targets_ask_which_unless_the_project_says_it(atlas, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    other = atlas["points"][0] | {"target": "jetson_nano", "stack": "tensorrt-fp16"}
    folder = write(tmp_path / "two", atlas | {"points": [*atlas["points"], other]})
    assert main(["compile", "--from", str(folder)]) == 2
    assert "the atlas is for jetson_nano, raspberry_pi_4" in capsys.readouterr().err
    (tmp_path / "toolkit.yaml").write_text("target: jetson_nano\n")
    assert main(["compile", "--from", str(folder), "--dry-run"]) == 0
    assert "on jetson_nano/tensorrt-fp16" in capsys.readouterr().out


def test_an_atlas_of_other_weights_is_refused(atlas, tmp_path, capsys):
    folder = write(tmp_path / "other", atlas | {"model": atlas["model"] | {"digest": "f" * 64}})
    assert main(["compile", "--from", str(folder), "-q", "-o", str(tmp_path / "made")]) == 5
    assert "another model, or other weights" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', '{\n "checksum": "0123456789abcdef0123456789abcdef",\n}'])
def test_a_damaged_atlas_exits_with_5(tmp_path, text, capsys):
    (tmp_path / "atlas.json").write_text(text)
    for words in (["compile", "--from", str(tmp_path)], ["report", str(tmp_path)]):
        assert main(words) == 5
        assert "atlas.json is damaged" in capsys.readouterr().err


def test_the_model_is_loaded_once(atlas, tmp_path, monkeypatch):
    """To be held against the atlas and to be compiled: a model of some gigabytes is read once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counting_loads.py").write_text(
        "import torch\ndef make():\n    print('made', file=open('loads', 'a'))\n    torch.manual_seed(0)\n"
        "    return torch.nn.Linear(64, 10), (torch.zeros(1, 64),)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    content = atlas | {"model": atlas["model"] | {"digest": load_program("counting_loads:make").digest}}
    (tmp_path / "loads").unlink()
    words = ["counting_loads:make", "--from", str(write(tmp_path / "a", content)), "--point", "float", "-o", "made"]
    assert main(["compile", *words, "-q"]) == 0
    assert (tmp_path / "loads").read_text() == "made\n"


def test_an_empty_atlas_exits_with_5(tmp_path, capsys):
    assert main(["compile", "--from", str(write(tmp_path / "a", document(0)))]) == 5
    assert "holds no point" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["model", "data", "validation", "trainer"])
def test_an_atlas_runs_no_code_of_its_own(atlas, tmp_path, monkeypatch, capsys, field):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "touching.py").write_text("import pathlib; pathlib.Path('broken').touch()\ndef make(*a, **k): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = "touching:make"
    point = atlas["points"][1]
    changed = atlas | {"points": [point | {"recipe": point["recipe"] | {field: spec}}]}
    if field == "model":
        changed["model"] = atlas["model"] | {"source": spec}
    assert main(["compile", "--from", str(write(tmp_path / "a", changed)), "-q"]) == 2
    assert f"the atlas names code to run: {field} {spec}" in capsys.readouterr().err
    assert not (tmp_path / "broken").exists()


@pytest.mark.slow
def test_what_the_recipe_leaves_open_is_the_projects(folder, atlas, tmp_path, capsys):
    """Labelled samples of the project file serve a recipe that names none; the proof then counts theirs."""
    rng = np.random.default_rng(0)
    shape = load_program("digits").signature.inputs[0].shape[1:]
    np.savez("own.npz", input=rng.random((8, *shape), np.float32), labels=np.zeros(8, np.int64))
    (tmp_path / "toolkit.yaml").write_text("validation: own.npz\ntarget: jetson_nano\n")
    assert main(["compile", "--from", folder, "--point", "float", "-o", "made", "-q"]) == 0
    assert toolkit.load("made").report["model"]["validation"] == "own.npz"
    assert toolkit.load("made").manifest["target"] == "raspberry_pi_4"


# ---- the page


def test_report_writes_the_page_beside_the_atlas(folder, tmp_path, capsys):
    assert main(["report", folder]) == 0
    assert capsys.readouterr().out.strip() == "atlas/digits/atlas.html"
    text = (tmp_path / folder / "atlas.html").read_text()
    assert "toolkit compile digits --from atlas/digits" in text
    assert str(tmp_path) not in text
    assert main(["report", folder, "-o", "page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == "page.html"
    assert (tmp_path / "page.html").read_text() == text


@pytest.mark.slow
def test_report_of_a_bundle_leaves_the_bundle_alone(folder, tmp_path, capsys):
    assert main(["compile", "--from", folder, "--point", "float", "-o", "made", "-q"]) == 0
    capsys.readouterr()
    before = (tmp_path / "made" / "report.html").read_text()
    assert main(["report", "made"]) == 0
    assert capsys.readouterr().out.strip() == "made/report.html"
    assert main(["report", "made", "-o", "page.html"]) == 0
    assert (tmp_path / "page.html").read_text() == before
    assert main(["report", "made", "-o", "made/report.html"]) == 2
    assert "outside of it" in capsys.readouterr().err
    assert main(["verify", "made"]) == 0
    (tmp_path / "made" / "report.html").write_text("changed")
    assert main(["report", "made"]) == 5


def test_choosing_loads_neither_torch_nor_onnx(folder):
    code = (
        "import sys; from toolkit.cli.main import main\n"
        "main(['report', sys.argv[1]]); main(['compile', '--from', sys.argv[1], '--max-latency', '1ns'])\n"
        "print(*[m for m in ('torch', 'onnx', 'onnxruntime', 'sklearn') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
    assert "none of 3 points" in done.stdout
