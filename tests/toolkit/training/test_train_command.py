"""`toolkit train`: a recipe becomes a folder that compiles; kills, damage and bad input lose nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_weights
from torch import Tensor, nn

from passes.context import Batch
from toolkit.cli.main import main
from toolkit.models.registry import Entry, entry, names
from toolkit.sources import load_source
from toolkit.training import session

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def small(count: int = 40, classes: int = 10) -> None:
    """A few digits as data.npz."""
    from toolkit.models.digits import split

    (images, labels), _ = split()
    np.savez("data.npz", image=images[:count], labels=labels[:count] % classes)


def recipe(**fields: Any) -> str:
    Path("r.yaml").write_text(yaml.safe_dump({"model": "digits", "data": "data.npz", "epochs": 2, **fields}))
    return "r.yaml"


def content(folder: str | Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def refused(capsys: Capture, *arguments: str, code: int = 5) -> str:
    capsys.readouterr()
    assert main(["train", *arguments]) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "next: " in said
    return said


# ---- what it makes


def test_a_recipe_becomes_a_folder_that_is_a_model(capsys: Capture) -> None:
    small()
    assert main(["train", recipe(), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["folder"], document["was_finished"]) == (
        "toolkit.train/1",
        "trained/digits",
        False,
    )
    folder = Path("trained/digits")
    assert sorted(content(folder)) == ["model.safetensors", "recipe.yaml", "report.json"]
    report = json.loads((folder / "report.json").read_text())
    assert [epoch["number"] for epoch in report["epochs"]] == [0, 1, 2]
    assert report["data"]["training"]["samples"] == 36
    assert report["data"]["judging"]["samples"] == 4
    assert report["parameters"] == 28330
    source = load_source(str(folder))
    assert source.program.name == "digits"
    assert source.data is None, "the zoo's data say nothing of what was trained on the user's"
    weights = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(
        source.program.model.state_dict()["classify.weight"].numpy(), weights["classify.weight"]
    )
    assert main(["train", recipe(), "-o", "again", "-q"]) == 0
    assert content("again") == content(folder), "equal recipes, equal bytes"
    assert main(["train", str(folder), "-o", "third", "-q"]) == 0, "a folder is its own recipe"
    assert content("third") == content(folder)


@pytest.mark.slow
def test_a_trained_folder_compiles_with_the_data_of_the_zoo(capsys: Capture) -> None:
    assert main(["train", "digits", "--epochs", "4", "--rate", "0.01", "-o", "mine"]) == 0
    said = capsys.readouterr().out
    assert "28,330 parameters, on 1,437 samples of digits, whole training split" in said
    assert main(["compile", "mine", "-t", "raspberry_pi_4", "-q", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    metric = next(p["metric"] for p in report["proofs"] if p["metric"])
    trained = json.loads(Path("mine/report.json").read_text())
    assert metric["before"] == pytest.approx(trained["best"]["metric"])
    assert metric["before"] > 0.9
    assert main(["check", "mine", "-t", "raspberry_pi_4", "-q"]) == 0
    assert main(["export", "mine", "--to", "onnx", "-q"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_network_trains_and_is_read_back(name: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few of the samples that it comes with."""
    found = entry(name)
    kind = found.config_type()
    config = kind() if kind else None
    if found.training(config) is None:
        assert "comes without labelled data" in refused(capsys, name)
        return
    for part in ("training", "validation"):
        whole = getattr(Entry, part)
        monkeypatch.setattr(Entry, part, lambda self, config=None, whole=whole: whole(self, config).take(8))
    Path("r.yaml").write_text(yaml.safe_dump({"model": name, "epochs": 1, "batch": 4}))
    assert main(["train", "r.yaml", "-q"]) == 0
    report = json.loads(Path("trained", name, "report.json").read_text())
    assert [np.isfinite(epoch["judged_loss"]) for epoch in report["epochs"]] == [True, True]
    source = load_source(f"trained/{name}")
    assert source.training is not None
    assert len(source.training) == 8
    torch.testing.assert_close(
        dict(source.program.model.state_dict()), load_weights(Path("trained", name, "model.safetensors"))
    )


@pytest.mark.slow
def test_methods_change_the_training_and_are_written_down(capsys: Capture) -> None:
    small(80)
    assert main(["train", recipe(held_out=0.0), "-o", "plain", "-q"]) == 0
    plain = load_file("plain/model.safetensors")["classify.weight"]
    methods: dict[str, Any] = {
        "curriculum": {"epochs": 1, "start": 0.2},
        "transfer": {"start_from": "plain", "thaw_every": 1, "decay": 0.5},
        "distil": {"teacher": "digits"},
        "symplectic": {"friction": 1.0},
    }
    for name, fields in methods.items():
        assert main(["train", recipe(methods={name: fields}, held_out=0.0), "-o", name, "-q"]) == 0
        assert not np.array_equal(load_file(f"{name}/model.safetensors")["classify.weight"], plain)
        written = yaml.safe_load(Path(name, "recipe.yaml").read_text())
        assert written["methods"][name].items() >= fields.items()
        load_source(name)
    assert main(["train", recipe(methods={"recompute": True}, held_out=0.0), "-o", "recompute", "-q"]) == 0
    np.testing.assert_array_equal(load_file("recompute/model.safetensors")["classify.weight"], plain)
    capsys.readouterr()


def test_the_default_recipe_has_no_method_on(capsys: Capture) -> None:
    assert main(["train", "digits", "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["recipe"]
    assert shown["methods"] == {"recompute": False}
    assert not Path("trained").exists()
    assert main(["train", "digits", "--dry-run", "--epochs", "7"]) == 0
    assert "epochs: 7" in capsys.readouterr().out


# ---- cut off

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from toolkit.cli.main import main
from toolkit.training import loop
plain, calls = loop.Loop._save, 0
def save(self, *, finished=False):
    global calls
    plain(self, finished=finished)
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
loop.Loop._save = save
main(["train", "r.yaml", "-q"])
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bytes(capsys: Capture) -> None:
    small()
    recipe(epochs=4)
    root = str(Path(__file__).parents[3])
    killed = subprocess.run([sys.executable, "-c", KILLED, root], check=False, capture_output=True, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert list(content("trained/digits")) == ["checkpoint.pt"]
    capsys.readouterr()
    assert main(["check", "trained/digits", "-t", "raspberry_pi_4"]) == 5
    assert "the training in trained/digits is not finished" in capsys.readouterr().err
    before = content("trained/digits")
    assert "was left by another training: another recipe" in refused(capsys, recipe(epochs=5))
    assert content("trained/digits") == before, "nothing is lost"
    Path("trained/digits/.4711.new").write_bytes(b"half a checkpoint")
    assert main(["train", recipe(epochs=4), "-q"]) == 0
    assert main(["train", recipe(epochs=4), "-o", "whole", "-q"]) == 0
    assert content("trained/digits") == content("whole")


def test_a_finished_training_is_not_done_again_and_not_replaced(capsys: Capture) -> None:
    small()
    assert main(["train", recipe(), "-q"]) == 0
    before = content("trained/digits")
    capsys.readouterr()
    assert main(["train", recipe(), "-q"]) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    said = refused(capsys, recipe(epochs=3, methods={"recompute": True, "curriculum": {"epochs": 2}}))
    assert ("another recipe: epochs is 3, was 2; methods.curriculum.epochs is 2, was not set; "
            "methods.curriculum.start is 0.1, was not set; methods.recompute is True, was False") in said  # fmt: skip
    assert content("trained/digits") == before
    assert main(["train", recipe(epochs=3), "-q", "--force"]) == 0
    assert len(json.loads(Path("trained/digits/report.json").read_text())["epochs"]) == 4


# ---- bad input


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if n != "classify.bias"}, folder / "model.safetensors")


def rehashed(folder: Path) -> None:
    """As somebody would who edits a file and its hash."""
    from toolkit.models.trained_folder import sha256

    report = json.loads((folder / "report.json").read_text())
    report["files"] = {name: sha256(folder / name) for name in report["files"]}
    (folder / "report.json").write_text(json.dumps(report))


def other_version(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "schema": "toolkit.train/9"}))


def test_a_damaged_folder_is_named_and_not_compiled(capsys: Capture) -> None:
    small()
    assert main(["train", recipe(), "-o", "good", "-q"]) == 0
    damages = {
        "weights cut": (lambda f: cut(f), "model.safetensors is not what its training wrote"),
        "weights cut, hash mended": (lambda f: (cut(f), rehashed(f)), "model.safetensors is cut short or damaged"),
        "a weight gone": (lambda f: (other_weights(f), rehashed(f)), "another network: classify.bias is missing"),
        "recipe edited": (lambda f: (f / "recipe.yaml").write_text("model: digits"), "recipe.yaml is not what"),
        "report cut": (lambda f: (f / "report.json").write_text("{"), "report.json is cut short or damaged"),
        "report gone": (lambda f: (f / "report.json").unlink(), "cannot read"),
        "another version": (other_version, "made by another version: its report is 'toolkit.train/9'"),
        "no such network": (
            lambda f: ((f / "recipe.yaml").write_text("model: dogits"), rehashed(f)), "did you mean 'digits'?"
        ),
    }  # fmt: skip
    for name, (damage, words) in damages.items():
        shutil.copytree("good", name)
        damage(Path(name))  # type: ignore[no-untyped-call]
        capsys.readouterr()
        assert main(["inspect", name]) in (2, 5), name
        said = capsys.readouterr().err
        assert words in said, (name, said)
        assert "Traceback" not in said


def test_a_damaged_checkpoint_is_told_and_replaced_only_by_force(capsys: Capture) -> None:
    small()
    Path("trained/digits").mkdir(parents=True)
    Path("trained/digits/checkpoint.pt").write_bytes(b"PK cut short")
    assert "checkpoint.pt is cut short or damaged" in refused(capsys, recipe())
    assert content("trained/digits") == {"checkpoint.pt": b"PK cut short"}
    torch.save({"key": "0" * 64, "weights": torch.zeros(10_000)}, "trained/digits/checkpoint.pt")
    whole = Path("trained/digits/checkpoint.pt").read_bytes()
    for left in (0, 1, 100, 5_000, len(whole) // 2, len(whole) - 1):
        Path("trained/digits/checkpoint.pt").write_bytes(whole[:left])
        assert "checkpoint.pt is cut short or damaged" in refused(capsys, recipe()), left
    assert main(["train", recipe(), "--force", "-q"]) == 0
    assert "checkpoint.pt" not in content("trained/digits")


def test_a_checkpoint_of_another_torch_says_so(capsys: Capture) -> None:
    import torch

    small()
    Path("trained/digits").mkdir(parents=True)
    torch.save({"key": "0" * 64, "torch": "2.4.0"}, "trained/digits/checkpoint.pt")
    assert "left by a training of torch 2.4.0, and this is " in refused(capsys, recipe())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "seperable_vision"}, "did you mean 'separable_vision'?"),
        ({"model": None}, "r.yaml:3: model = None is not allowed"),
        ({"epoch": 3}, "there is no field epoch\n  next: did you mean 'epochs'?"),
        ({"epochs": "many"}, "epochs = 'many' is not allowed"),
        ({"epochs": 2.5}, "epochs = 2.5 is not allowed"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"rate": "3ms"}, "without a unit"),
        ({"rate": "0.003"}, "write the number without quotes: rate: 0.003"),
        ({"rate": float("nan")}, "rate = nan is not allowed"),
        ({"methods": {"curiculum": {}}}, "there is no field methods.curiculum\n  next: did you mean 'curriculum'?"),
        ({"methods": {"curriculum": {"start": 0.0}}}, "methods.curriculum.start = 0.0 is not allowed"),
        ({"methods": {"transfer": {"start_from": "nowhere"}}}, "'nowhere' is neither the folder of a training"),
        ({"methods": {"distil": {"teacher": "separable_vision"}}}, "separable_vision comes untrained"),
        ({"config": {"width": 3}}, "r.yaml:2: digits comes in one size and takes no config"),
        ({"model": "separable_vision", "config": {"clases": 3}}, "r.yaml:2: separable_vision has no field 'clases'"),
        ({"model": "separable_vision", "config": {"width": "8px"}}, "r.yaml:2: separable_vision: width = '8px' is not"),
        ({"methods": {"recompute": "maybe"}}, "methods.recompute = 'maybe' is not allowed"),
        ({"methods": {"curriculum": True}}, "it has fields of its own\n  next: fields: epochs, start"),
        ({"amp": "half"}, "amp = 'half' is not allowed: input should be 'bfloat16', 'float16' or 'float32'"),
        ({"model": "resnet_bk"}, "wants int64, got float32\n  next: convert the data; the model's input is"),
        ({"model": "separable_vision"}, "convert the data; the model's input is image"),
    ],
)
def test_a_wrong_recipe_names_the_field(fields: dict[str, Any], words: str, capsys: Capture) -> None:
    small()
    assert words in refused(capsys, recipe(**fields))
    assert not Path("trained").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_missing_device(capsys: Capture) -> None:
    small()
    assert "no GPU that torch can use" in refused(capsys, recipe(device="cuda"), code=3)
    assert not Path("trained").exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_too_little_memory_says_what_to_lower(
    error: Exception, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small()

    def full(self: Any, model: nn.Module, batch: Batch) -> Tensor:
        raise error

    monkeypatch.setattr(session.Objective, "forward", full)
    said = refused(capsys, recipe(), code=3)
    assert "training: a batch takes more memory than this machine has left" in said
    assert "lower batch, set methods.recompute=true" in said


def test_every_mistake_in_a_config_is_told_with_its_line_before_anything_is_trained(capsys: Capture) -> None:
    Path("r.yaml").write_text("model: separable_vision\nconfig:\n  width: 8px\n  stages:\n  - 2\n  - two\n")
    for words in (["r.yaml"], ["r.yaml", "--dry-run"]):
        said = refused(capsys, *words)
        assert "r.yaml has 2 mistakes" in said
        assert "r.yaml:3: separable_vision: width = '8px'" in said
        assert "r.yaml:6: separable_vision: stages[1] = 'two'" in said
    said = refused(capsys, "separable_vision", "--set", "config.width=wide", "--dry-run")
    assert "--set config.width: separable_vision: width = 'wide'" in said
    assert "write true or false" in refused(capsys, "digits", "--set", "methods.recompute=maybe")


def test_a_name_may_bring_settings(capsys: Capture) -> None:
    assert main(["train", "separable_vision@width=16,stages=[1,2]", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["config"] == {"width": 16, "stages": [1, 2]}
    assert "did you mean 'width'?" in refused(capsys, "separable_vision@widht=16", "--dry-run")


def test_a_folder_goes_on_in_itself(capsys: Capture) -> None:
    small()
    assert main(["train", recipe(), "-o", "mine", "-q"]) == 0
    before = content("mine")
    capsys.readouterr()
    assert main(["train", "mine", "-q"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert main(["train", "mine", "--force", "-q"]) == 0
    assert content("mine") == before
    assert "mine holds a training of another recipe: epochs is 3, was 2" in refused(capsys, "mine", "--epochs", "3")
    assert not Path("trained").exists()
    assert "there is no such file or folder" in refused(capsys, "mine/not")


def test_an_early_end_is_told(capsys: Capture) -> None:
    small()
    assert main(["train", recipe(epochs=3, rate=100.0, patience=1), "-q"]) == 0
    assert "after epoch 0 of 3; ended after 1 of 3, 1 without a better one" in capsys.readouterr().out


def test_files_that_are_no_recipe(capsys: Capture) -> None:
    Path("mine").mkdir()
    assert "mine is a folder without recipe.yaml" in refused(capsys, "mine")
    small()
    assert "data.npz is no .yaml file" in refused(capsys, "data.npz")
    Path("digits").mkdir()
    assert main(["train", "digits", "--dry-run", "-q"]) == 0, "a network's name stays one"
    Path("r.yaml").write_text("- model")
    assert "r.yaml is not a mapping of fields" in refused(capsys, "r.yaml")
    Path("r.yaml").write_text("model: [")
    assert "r.yaml is not YAML" in refused(capsys, "r.yaml")
    Path("r.yaml").write_text("epochs: 3")
    assert "model is missing" in refused(capsys, "r.yaml")
    assert "cannot read nowhere.yaml" in refused(capsys, "nowhere.yaml")
    assert "unknown model 'digitz'" in refused(capsys, "digitz", code=2)


def test_data_that_nothing_can_be_learned_from(capsys: Capture) -> None:
    small(classes=1)
    assert "all 40 samples of data.npz are of class 0: there is nothing to tell apart" in refused(capsys, recipe())
    small(count=1)
    assert "the one sample of data.npz is of class" in refused(capsys, recipe())
    np.savez("data.npz", image=np.zeros((0, 1, 8, 8), np.float32), labels=np.zeros(0, np.int64))
    assert "has no samples" in refused(capsys, recipe())
    np.savez("data.npz", image=np.zeros((4, 1, 8, 8), np.float32))
    assert "data.npz has no labels to train with" in refused(capsys, recipe())
    np.savez("data.npz", image=np.zeros((4, 1, 8, 8), np.float32), labels=np.array([0, 1, 2, 10]))
    assert "labels go from 0 to 10, the model's first output has 10 classes" in refused(capsys, recipe())
    np.savez("data.npz", image=np.full((4, 1, 8, 8), np.inf, np.float32), labels=np.array([0, 1, 2, 3]))
    assert "image holds NaN or infinity" in refused(capsys, recipe())
    np.savez("data.npz", image=np.full((4, 1, 8, 8), 3e38, np.float32), labels=np.array([0, 1, 2, 3]))
    assert "the loss is not finite before training" in refused(capsys, recipe())
    assert not Path("trained").exists()


def test_a_loss_that_is_lost_keeps_what_was_trained(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    small()
    plain, steps = session.Objective.forward, 0

    def lost(self: Any, model: nn.Module, batch: Batch) -> Tensor:
        nonlocal steps
        steps += model.training
        return plain(self, model, batch) * (float("nan") if steps == 3 else 1.0)

    monkeypatch.setattr(session.Objective, "forward", lost)
    said = refused(capsys, recipe(epochs=4))
    assert "the loss is not finite in epoch 3, batch 1" in said
    assert "lower the rate" in said
    assert list(content("trained/digits")) == ["checkpoint.pt"], "the two epochs before"
    steps = 100
    assert main(["train", recipe(epochs=4), "-q"]) == 0
    assert steps == 102


def test_a_folder_of_something_else_is_left_alone(capsys: Capture) -> None:
    small()
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("dear to me")
    assert "mine exists and holds no training" in refused(capsys, recipe(), "-o", "mine")
    Path("file").write_text("")
    assert "file is a file" in refused(capsys, recipe(), "-o", "file")
    assert content("mine") == {"notes.txt": b"dear to me"}
    Path("killed").mkdir()
    Path("killed/.4711.new").write_bytes(b"half a checkpoint, and no whole one yet")
    assert main(["train", recipe(epochs=1), "-o", "killed", "-q"]) == 0
    assert sorted(content("killed")) == ["model.safetensors", "recipe.yaml", "report.json"]
