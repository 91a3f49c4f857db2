"""The command line as a user meets it: light, forgiving, and honest in its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from targets.target import target_names
from toolkit.cli.app import app
from toolkit.cli.main import main
from toolkit.config import load_config
from toolkit.project_file import write_project

HEAVY = ("torch", "tvm", "onnx", "onnx_ir", "onnxruntime", "sklearn", "scipy", "pydantic", "jinja2", "numpy")


LIGHT = [
    ["--help"], ["models"], ["targets"], ["targets", "--json"], ["compile", "--help"], ["check", "--help"],
    ["cache", "--help"], ["init", "--help"], ["calibrate", "--help"], ["bench", "--help"], ["compare", "--help"],
    ["--version"],
]  # fmt: skip


def imported_by(commands: list[list[str]]) -> dict[str, set[str]]:
    """Heavy modules that are there at the end of each command; all run in one process, one behind the other."""
    code = (
        "import io, json, sys\nfrom contextlib import redirect_stdout\nfrom toolkit.cli.main import main\n"
        "found = {}\nfor command in json.loads(sys.argv[1]):\n    with redirect_stdout(io.StringIO()) as out:\n"
        "        assert main(command) == 0\n    assert out.getvalue()\n"
        f"    found[' '.join(command)] = [m for m in {HEAVY!r} if m in sys.modules]\nprint(json.dumps(found))"
    )
    arguments = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return {command: set(modules) for command, modules in json.loads(done.stdout).items()}


def test_light_commands_import_nothing_heavy() -> None:
    for command, modules in imported_by(LIGHT).items():
        assert modules <= {"pydantic"}, command  # typer itself looks for pydantic


@pytest.mark.slow
def test_a_heavy_command_would_be_noticed() -> None:
    assert "numpy" in imported_by([["--version"], ["doctor"]])["doctor"]


def test_importing_the_library_is_light() -> None:
    code = f"import sys, toolkit; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_choice_that_there_is_not_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--to", "onxx"]) == 2
    assert capsys.readouterr().err.startswith("error: Invalid value for '--to': 'onxx' is not one of 'onnx',")


def test_help_names_every_verb_in_the_order_of_the_road(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    commands = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0]
    verbs = [line.split()[0] for line in commands.splitlines() if line.startswith("  ") and line[2] != " "]
    road = "init inspect estimate check compile export verify run bench calibrate targets passes cache doctor".split()
    assert [verb for verb in verbs if verb in road] == road


def test_help_of_every_verb_says_what_it_does_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for command in app.registered_commands:
        assert main([str(command.name), "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: toolkit {command.name}")
        sentence = " ".join(text.split("\n\n")[1].split())
        assert sentence.endswith((".", "?")), sentence
        assert "--json" in text


def test_targets_as_json_match_the_published_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "toolkit.targets/1"
    assert [t["name"] for t in document["targets"]] == target_names()
    stacks = {s["id"]: s for t in document["targets"] for s in t["stacks"]}
    assert stacks["raspberry_pi_4/tflite-int8"]["measured_as"]["runtime"] == "TFLite 2.7.1"


BAD = [
    (["compile", "-t", "jetson_nan"], 2, "jetson_nano"),
    (["compile", "--target"], 2, "--help"),
    (["compile", "--tarjet", "jetson_nano"], 2, "--target"),
    (["compil"], 2, "compile"),
    (["compile"], 2, "--target"),
    (["compile", "no_such_model", "-t", "jetson_nano"], 2, "digits"),
    (["compile", "a.onnx", "-m", "b.onnx", "-t", "jetson_nano"], 2, "not both"),
    (["compile", "-t", "coral_tpu", "--stack", "jetson_nano/tensorrt-fp16"], 2, "leave one"),
    (["compile", "gone.onnx", "-t", "jetson_nano"], 5, "path"),
    (["compile", "-t", "jetson_nano", "-c", "gone.yaml"], 5, "path"),
    (["estimate", "digits", "-t", "jetson_nano", "--input", "1xx3"], 5, "1x3x224x224"),
    (["verify", "gone"], 5, "toolkit compile"),
    (["run", "gone", "x.npy"], 5, "toolkit compile"),
    (["export", "digits", "--to", "pt2", "--opset", "13"], 2, "leave it out"),
    (["export", "digits", "--to", "exe"], 2, "--help"),
    (["export", "digits", "--half"], 2, "--to aotinductor"),
    (["export", "digits", "--to", "aotinductor", "--device", "cud"], 2, "cuda"),
    (["verify", "gone", "--provider", "web"], 2, "webgpu"),
    (["verify", "gone", "--provider", "cpu", "--emulate"], 2, "leave out"),
    (["check", "-t", "jetson_nan"], 2, "jetson_nano"),
    (["check"], 2, "--target"),
    (["check", "-t", "jetson_nano", "--stack", "tensorrt-fp17"], 2, "tensorrt-fp16"),
    (["check", "-t", "jetson_nano", "--max-latency", "20"], 2, "20ms"),
    (["check", "-t", "jetson_nano", "--max-latency=-20ms"], 2, "more than zero"),
    (["check", "-t", "jetson_nano", "--max-memory", "5mJ"], 2, "64MiB"),
    (["check", "-t", "jetson_nano", "--max-energy", "lots"], 2, "5mJ"),
    (["check", "-t", "jetson_nano", "--max-latencie", "20ms"], 2, "--max-latency"),
    (["check", "gone.onnx", "-t", "jetson_nano"], 5, "path"),
    (["init", "-t", "jetson_nan"], 2, "jetson_nano"),
    (["init", "-t", "jetson_nano", "--stack", "tensorrt-fp17"], 2, "tensorrt-fp16"),
    (["calibrate", "desktop_cpu/onnxruntime-fp32"], 2, "--forget"),
    (["calibrate", "desktop_cpu/onnxruntime-fp32", "rows.csv", "--forget"], 2, "--forget"),
    (["calibrate", "desktop_cpu/onnxruntime-fp64", "rows.csv"], 2, "onnxruntime-fp32"),
    (["calibrate", "desktop_cpu/onnxruntime-fp32", "gone.csv"], 5, "path"),
    (["bench"], 2, "--write-rows"),
    (["bench", "--write-rows", "rows.csv", "--stack", "raspberry_pi_4/ncnn-fp32"], 2, "--stack"),
    (["bench", "--write-rows", "rows.csv", "gone.onnx"], 5, "path"),
    (["bench", "--write-rows", "rows.csv", "--threads", "9999"], 2, "or fewer"),
    (["bench", "--write-rows", "rows.csv", "digits"], 2, "toolkit export"),
    (["init", "-m", "digit"], 2, "digits"),
    (["init", "-m", "gone.onnx"], 5, "path"),
    (["init", "-m", "no_such_module:net"], 5, "python -m"),
]


@pytest.mark.parametrize(("arguments", "code", "hint"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_gets_one_line_a_next_step_and_the_code(
    arguments: list[str], code: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    out, err = capsys.readouterr()
    problem, step, *rest = err.splitlines()
    assert problem.startswith("error: ")
    assert step.startswith("  next: ")
    assert hint in err
    assert rest == []
    assert out == ""
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_project_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("target: [", "- a list", "tarjet: jetson_nano", "seed: many", "trust: true"):
        (tmp_path / "toolkit.yaml").write_text(text)
        assert main(["compile"]) == 5
        assert "toolkit.yaml" in capsys.readouterr().err


def test_an_unwritable_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["compile", "-t", "jetson_nano", "-o", str(tmp_path / "file" / "bundle"), "-q"]) == 5
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.slow
def test_data_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "shape.npy": np.zeros((5, 1, 9, 9), np.float32),
        "dtype.npy": np.zeros((5, 1, 8, 8), np.float64),
        "rank.npy": np.zeros((5, 64), np.float32),
        "empty.npy": np.zeros((0, 1, 8, 8), np.float32),
    }
    for name, array in cases.items():
        np.save(tmp_path / name, array)
        arguments = ["compile", "-t", "raspberry_pi_4", "--data", str(tmp_path / name), "-o", str(tmp_path / "b"), "-q"]
        assert main(arguments) == 5, name
        assert capsys.readouterr().err.startswith("error: ")
    images = np.zeros((5, 1, 8, 8), np.float32)
    labelled = {
        "length.npz": {"image": images, "labels": np.arange(4)},
        "float.npz": {"image": images, "labels": np.full(5, 1.7)},
        "negative.npz": {"image": images, "labels": np.full(5, -1)},
        "one_hot.npz": {"image": images, "labels": np.eye(5, dtype=np.int64)},
        "alone.npz": {"labels": np.arange(5)},
        "nan.npz": {"image": np.full_like(images, np.nan)},
        "name.npz": {"picture": images, "other": images},
        "scalar.npz": {"image": np.float32(3)},
    }
    for name, arrays in labelled.items():
        np.savez(tmp_path / name, **arrays)
        arguments = ["compile", "-t", "raspberry_pi_4", "--data", str(tmp_path / name), "-o", str(tmp_path / "b"), "-q"]
        assert main(arguments) == 5, name
        assert capsys.readouterr().err.startswith("error: ")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    assert main(["compile", "-t", "raspberry_pi_4", "--data", str(tmp_path / "broken.npz"), "-q"]) == 5
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert main(["compile", "-t", "raspberry_pi_4", "--data", str(tmp_path / "pickled.npy"), "-q"]) == 5


def test_an_internal_error_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from toolkit import driver

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(driver, "compile_model", fail)
    assert main(["compile", "-t", "jetson_nano"]) == 70
    assert "Traceback" not in capsys.readouterr().err
    assert main(["compile", "-t", "jetson_nano", "-vv"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from toolkit import driver

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "compile_model", interrupt)
    assert main(["compile", "-t", "jetson_nano"]) == 130
    assert "again" in capsys.readouterr().err


def test_dry_run_prints_the_recipe_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compile", "-t", "coral_tpu", "--dry-run"]) == 0
    assert "QuantizeInt8" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_init_writes_a_project_file_that_the_other_verbs_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--target", "raspberry_pi_4"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["toolkit.yaml"]
    assert main(["check", "-q"]) == 0
    assert "digits on raspberry_pi_4/tflite-int8" in capsys.readouterr().out
    before = (tmp_path / "toolkit.yaml").read_text()
    assert main(["init", "--target", "jetson_nano"]) == 5, "what is there is not replaced without --force"
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "toolkit.yaml").read_text() == before
    assert main(["init", "--stack", "jetson_nano/tensorrt-fp32", "--force"]) == 0
    capsys.readouterr()
    assert main(["compile", "--dry-run"]) == 0
    assert "jetson_nano/tensorrt-fp32" in capsys.readouterr().out


@pytest.mark.parametrize("name", target_names())
def test_init_names_every_target(name: str, tmp_path: Path) -> None:
    config = load_config(write_project(tmp_path, target=name))
    assert (config.target, config.model, config.stack) == (name, "digits", None)


@pytest.mark.parametrize("name", ["a model.onnx", "yes", "#1.onnx", "a: b.onnx", "ö'\".onnx", "- x.onnx", "{}.onnx"])
def test_init_quotes_what_yaml_would_misread(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    assert load_config(write_project(tmp_path, model=name)).model == name


def test_a_flag_beats_the_project_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toolkit.yaml").write_text("target: jetson_nano\nstack: tensorrt-fp32\n")
    assert main(["compile", "--dry-run"]) == 0
    assert "jetson_nano/tensorrt-fp32" in capsys.readouterr().out
    assert main(["compile", "--dry-run", "-t", "raspberry_pi_5"]) == 0
    assert "raspberry_pi_5/ncnn-fp16" in capsys.readouterr().out


@pytest.mark.slow
def test_the_verbs_on_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compile", "-t", "desktop_cpu", "-q"]) == 0
    assert "bundle: build/digits-desktop_cpu" in capsys.readouterr().out
    bundle = "build/digits-desktop_cpu"
    assert main(["verify", bundle, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    np.save("images.npy", np.zeros((3, 1, 8, 8), np.float32))
    assert main(["run", bundle, "images.npy", "-o", "answers.npz", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["outputs"]["output"]
    np.testing.assert_allclose(np.load("answers.npz")["output"], printed)
    assert main(["estimate", "-t", "raspberry_pi_4", "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert estimate["schema"] == "toolkit.estimate/1"
    low, high = estimate["latency_interval_s"]
    assert low <= estimate["latency_s"] <= high
    assert main(["inspect", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] > 20_000
    assert main(["passes", "--json"]) == 0
    assert {p["name"] for p in json.loads(capsys.readouterr().out)["passes"]} >= {"Export", "QuantizeInt8"}
    assert main(["doctor", "--json"]) == 0


@pytest.mark.slow  # a C++ compiler takes its time
def test_export_has_torch_compile_for_this_kind_of_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # in a process of its own, as from a shell: torch's compiler imports setuptools, which takes the place of distutils
    # and fails where another library of this process was there before
    command = [sys.executable, "-m", "toolkit.cli.main", "export", "--to", "aotinductor", "--half", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["digits.aot.pt2"]
    within = float(re.findall(r"within ([\d.]+) dB", done.stdout)[0])
    assert 45 < within < 90, "float16 inside: eleven bits of significand are 66 dB"
    assert main(["inspect", "digits.aot.pt2"]) == 5, "machine code is no model"


@pytest.mark.slow
@pytest.mark.parametrize(("form", "suffix"), [("onnx", ".onnx"), ("torchscript", ".pt"), ("pt2", ".pt2")])
def test_export_writes_a_file_that_answers_the_same(
    form: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--to", form, "-q"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == [f"digits{suffix}"]
    assert "SQNR" in (said := capsys.readouterr().out) or "identical" in said
    assert main(["export", "--to", form, "-q"]) == 5, "an existing file is not replaced without --force"
    assert main(["estimate", f"digits{suffix}", "-t", "jetson_nano", "--input", "1x1x8x8", "-q"]) == 0


def test_export_writes_a_tflite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--to", "litert", "-q"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["digits.tflite"]
    said = capsys.readouterr().out
    assert float(re.findall(r"within ([\d.]+) dB", said)[0]) > 100, "float32 sums in another order"
    assert main(["export", "--to", "litert", "--opset", "13", "-q"]) == 2


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module whose shapes only the data know, that data, and a module that returns a dict."""
    (tmp_path / "small_nets.py").write_text(
        "from torch import nn\n\nbare = nn.Linear(8, 4)\n\n"
        "class Named(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return {'twice': x * 2, 'sum': x.sum(1)}\n"
    )
    np.save(tmp_path / "samples.npy", np.ones((3, 8), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "small_nets", raising=False)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["check", "estimate", "inspect", "export"])
def test_shapes_come_from_the_data_of_the_project_file(verb: str, nets: Path) -> None:
    (nets / "toolkit.yaml").write_text("model: small_nets:bare\ntarget: raspberry_pi_4\ndata: samples.npy\n")
    assert main([verb, "-q"]) == 0


def test_a_module_that_returns_a_dict_becomes_torchscript(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "small_nets:Named", "--to", "torchscript", "--input", "2x8", "-q"]) == 0
    assert "identical answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compile", "", "-t", "desktop_cpu"], "MODEL is empty"),
        (["compile", "-t", "desktop_cpu", "--min-sqnr-db", "nan"], "--min-sqnr-db 10"),
        (["compile", "-t", "desktop_cpu", "--accuracy-drop", "inf"], "1% or 0.01"),
        (["inspect", "small_nets:bar"], "did you mean 'bare'?"),
        (["inspect", "small_nets:zzz"], "see what small_nets defines"),
        (["compile", "-t", "desktop_cpu", "--data", "sample.npy"], "check the path"),
        (["estimate", "-t", "desktop_cpu", "--rows", "-3"], "--rows"),
    ],
)
def test_a_slip_is_told_with_what_to_write(
    arguments: list[str], words: str, nets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) in (2, 5)
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


@pytest.mark.slow
def test_a_dump_holds_every_graph_although_the_passes_are_kept(nets: Path) -> None:
    for folder in ("first", "second"):
        assert main(["compile", "-t", "raspberry_pi_4", "--recipe", "float32", "--dump", folder, "-q"]) == 0
    assert main(["compile", "-t", "raspberry_pi_4", "--recipe", "float32", "-q"]) == 0
    assert main(["compile", "-t", "raspberry_pi_4", "--recipe", "float32", "--dump", "third", "-q"]) == 0
    names = [sorted(p.name for p in (nets / folder).iterdir()) for folder in ("first", "second", "third")]
    assert len(names[0]) > 3
    assert names[0] == names[1] == names[2]


@pytest.mark.slow
def test_equal_refusals_are_one_line(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (nets / "twice.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Recurrent(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.layers = nn.LSTM(8, 16, 2, batch_first=True)\n\n"
        "    def forward(self, x):\n        return self.layers(x)[0]\n\n"
        "def recurrent():\n    return Recurrent(), torch.zeros(1, 4, 8)\n"
    )
    assert main(["inspect", "twice:recurrent", "-q"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "refuses LSTM" in line]
    assert len(lines) == len(set(lines)) == 1
    assert lines[0].endswith("(2 times)")


def test_what_was_measured_for_one_stack_says_nothing_of_another(
    nets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nets / "recipe.yaml").write_text(
        "model: digits\ntarget: desktop_cpu\nstack: onnxruntime-fp32\nmeasured: {FoldConstants: [slower]}\n"
    )
    for other in (["-t", "raspberry_pi_4"], ["--stack", "desktop_cpu/onnxruntime-int8"]):
        assert main(["compile", "-c", "recipe.yaml", *other]) == 2
        assert "measured for desktop_cpu/onnxruntime-fp32" in capsys.readouterr().err
    assert not (nets / "build").exists()


@pytest.mark.slow
def test_a_reader_who_leaves_is_no_failure() -> None:
    """`toolkit targets | head -1`."""
    code = "import sys; from toolkit.cli.main import main; sys.exit(main(['targets']))"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as left:
        assert left.stdout is not None
        assert left.stderr is not None
        left.stdout.close()
        assert left.stderr.read() == ""
        assert left.wait() == 0
