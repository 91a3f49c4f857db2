"""Recipes that train, from the front door: what trains, on which data, and where it goes on."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from passes.context import Batch
from targets.errors import InvalidInput, UsageError
from toolkit.cache import DiskCache
from toolkit.cli.main import main
from toolkit.config import load_config
from toolkit.driver import compile_model
from toolkit.training.trainer import Trainer

pytestmark = pytest.mark.slow


class Counting:
    """The trainer, with few epochs; it tells what it was asked and how many steps it made."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.steps = 0

    def __call__(self, **arguments: Any) -> Any:
        self.asked = arguments
        fit = Trainer(**arguments)

        def trained(model: nn.Module, loss: Callable[..., Tensor], *, step: str, epochs: int, rate: float) -> nn.Module:
            def counted(network: nn.Module, batch: Batch) -> Tensor:
                self.steps += network.training
                return loss(network, batch)

            return fit(model, counted, step=step, epochs=min(epochs, 1), rate=rate)

        trained.key = fit.key  # type: ignore[attr-defined]
        return trained


def test_digits_trained_with_the_rounding_of_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    first, again = Counting(), Counting()
    bundles = [
        compile_model("digits", target="desktop_cpu", recipe="qat", output=tmp_path / name, trainer=trainer)
        for name, trainer in (("one", first), ("two", again))
    ]
    assert (first.asked["data"].name, len(first.asked["data"])) == ("digits, whole training split", 1437)
    assert first.asked["inputs"] == ("image",)
    assert first.asked["folder"] == tmp_path / "cache"
    assert first.steps > 0
    assert again.steps == 0, "what is trained is not trained again"
    report = bundles[0].report
    (proof,) = [p for p in report["proofs"] if p["pass"] == "TrainQuantized"]
    assert (proof["decision"], proof["kind"]) == ("kept", "retrained")
    assert proof["metric"]["after"] >= 0.98
    assert [p["decision"] for p in report["proofs"]].count("kept") == len(report["proofs"])
    for file in ("model.onnx", "report.json", "recipe.yaml"):
        assert (bundles[0].path / file).read_bytes() == (bundles[1].path / file).read_bytes()
    assert [e.path.name for e in DiskCache().entries() if (e.path / "training.pt").is_file()], "the cache counts it"
    assert main(["verify", str(bundles[0].path)]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("target", ["raspberry_pi_4", "jetson_orin_nano"])
def test_other_targets_get_their_own_integers(tmp_path: Path, target: str) -> None:
    stack = {"jetson_orin_nano": "tensorrt-int8"}.get(target)
    bundle = compile_model(
        "digits", target=target, stack=stack, recipe="qat", output=tmp_path / "b", trainer=Counting()
    )
    (proof,) = [p for p in bundle.report["proofs"] if p["pass"] == "TrainQuantized"]
    assert proof["decision"] == "kept"
    assert proof["settings"]["activation"] == "int8"
    assert proof["settings"]["activation_symmetric"] is (target == "jetson_orin_nano")


TRAINER = """
from toolkit.training.trainer import Settings, Trainer

def short(**arguments):
    made = Trainer(**arguments, settings=Settings(batch=16))
    def fit(model, loss, *, step, epochs, rate):
        with open("asked.txt", "a") as file:
            file.write(f"{step} {epochs}\\n")
        return made(model, loss, step=step, epochs=1, rate=rate)
    fit.key = f"short {made.key}"
    return fit
"""


@pytest.fixture
def own_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(TRAINER, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield f"{name}:short"
    sys.modules.pop(name, None)


def test_a_replay_trains_with_what_the_recipe_names(tmp_path: Path, own_trainer: str) -> None:
    flags = ["-q", "--no-cache"]
    first, again = tmp_path / "first", tmp_path / "again"
    (tmp_path / "toolkit.yaml").write_text(
        "model: digits\ntarget: raspberry_pi_4\nstack: onnxruntime-fp32\npasses:\n"
        "  - {pass: CleanUpModule}\n  - {pass: PruneChannels, ratio: 0.1, epochs: 3}\n  - {pass: Export}\n"
    )
    assert main(["compile", "--trainer", own_trainer, "-o", str(first), *flags]) == 0
    assert yaml.safe_load((first / "recipe.yaml").read_text())["trainer"] == own_trainer
    assert main(["compile", "-c", str(first / "recipe.yaml"), "-o", str(again), *flags]) == 0
    assert (tmp_path / "asked.txt").read_text().splitlines() == ["PruneChannels 3"] * 2
    for file in ("model.onnx", "report.json", "recipe.yaml"):
        assert (first / file).read_bytes() == (again / file).read_bytes()


def test_a_trainer_without_a_name_must_be_named_again(tmp_path: Path) -> None:
    passes = [{"pass": "CleanUpModule"}, {"pass": "Sparsify", "epochs": 1}, {"pass": "Export"}]
    options: dict[str, Any] = {"target": "raspberry_pi_4", "stack": "onnxruntime-fp32", "passes": passes}
    bundle = compile_model("digits", output=tmp_path / "b", trainer=Counting(), **options)
    written = load_config(bundle.path / "recipe.yaml")
    assert written.trainer == "(in memory)"
    with pytest.raises(UsageError) as refusal:
        compile_model("digits", output=tmp_path / "c", trainer=written.trainer, **options)
    assert "--trainer" in refusal.value.hint


def test_notes_of_proofs_are_told_where_detail_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toolkit.yaml").write_text(
        "model: digits\ntarget: raspberry_pi_4\nstack: onnxruntime-fp32\npasses:\n"
        "  - {pass: CleanUpModule}\n  - {pass: Sparsify, epochs: 0}\n  - {pass: Export}\n"
    )
    for flags, told in (([], False), (["-v"], True)):
        assert main(["compile", *flags]) == 0
        said = capsys.readouterr()
        assert ("has no kernels for 2:4 zeros" in said.err) is told
        assert "±: 90 % interval over 360 paired samples" in said.out


class Apart(nn.Module):
    """Two inputs that are not alike, and whose names sort the other way."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(8, 3)

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.classify(z - 3 * a)


def test_inputs_come_in_the_order_of_the_forward(tmp_path: Path) -> None:
    """The metric after training is that of before, which it would not be with inputs that are swapped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Apart().eval()
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((96, 8)).astype(np.float32) for name in ("a", "z")}
    with torch.no_grad():
        labels = model(torch.from_numpy(arrays["z"]), torch.from_numpy(arrays["a"])).argmax(1).numpy()
    np.savez(tmp_path / "data.npz", labels=labels, **arrays)
    judged: list[tuple[str, ...]] = []

    class Listening(Counting):
        def __call__(self, **arguments: Any) -> Any:
            fit = super().__call__(**arguments)

            def heard(network: nn.Module, loss: Callable[..., Tensor], **how: Any) -> nn.Module:
                def listened(module: nn.Module, batch: Batch) -> Tensor:
                    judged.append(tuple(batch[0]))
                    return loss(module, batch)

                trained: nn.Module = fit(network, listened, **how)
                return trained

            heard.key = fit.key  # type: ignore[attr-defined]
            return heard

    example = (torch.zeros(1, 8), torch.zeros(1, 8))
    for recipe, passes in (("qat", None), ("custom", [{"pass": "CleanUpModule"}, {"pass": "Sparsify", "share": 0.1,
                           "pattern": "unstructured", "epochs": 1}, {"pass": "Export"}])):  # fmt: skip
        bundle = compile_model((model, example), target="desktop_cpu", recipe=None if passes else recipe, passes=passes,
                               data=tmp_path / "data.npz", output=tmp_path / recipe, trainer=Listening())  # fmt: skip
        metric = next(p["metric"] for p in bundle.report["proofs"] if p["kind"] == "retrained")
        assert metric["before"] == 1.0
        assert metric["after"] > 0.9
    assert set(judged) == {("z", "a")}


def test_a_recipe_that_does_not_train_asks_for_no_trainer(tmp_path: Path) -> None:
    def refuses(**_arguments: Any) -> Any:
        raise AssertionError

    compile_model("digits", target="desktop_cpu", recipe="float32", output=tmp_path / "b", trainer=refuses)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ("toolkit.training.trainer:Trainr", "did you mean 'Trainer'?"),
        ("no_such_module:make", "run from the folder that holds no_such_module.py"),
        pytest.param("builtins:dict", "passes.context.Fit", marks=pytest.mark.slow),
        (lambda: None, "correct your code"),
    ],
)
def test_a_trainer_that_is_none_is_refused(tmp_path: Path, trainer: Any, words: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        compile_model("digits", target="desktop_cpu", recipe="qat", output=tmp_path / "b", trainer=trainer)
    assert words in refusal.value.hint
    assert not (tmp_path / "b").exists()


def test_the_command_line_knows_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "digits", "--target", "desktop_cpu", "--recipe", "qat", "--dry-run", "--json"]) == 0
    passes = [entry["pass"] for entry in json.loads(capsys.readouterr().out)["passes"]]
    assert passes[:4] == ["CleanUpModule", "FoldBatchNorm", "TrainQuantized", "Export"]
    assert main(["compile", "net.onnx", "--target", "desktop_cpu", "--recipe", "qat", "--dry-run"]) == 5
    assert "give the PyTorch module" in capsys.readouterr().err


def test_the_compression_recipe_makes_the_digits_smaller_and_no_worse(tmp_path: Path) -> None:
    """Each step is kept or narrowed, the file is what is measured, and the interval of the drop is the proof's own."""
    bundle = compile_model("digits", target="raspberry_pi_4", recipe="compress", output=tmp_path / "b")
    report = bundle.report
    decisions = {proof["pass"]: proof["decision"] for proof in report["proofs"]}
    assert {decisions[name] for name in ("PruneChannels", "Distil", "TrainQuantized")} <= {"kept", "narrowed"}
    assert report["after"]["size_bytes"] == (bundle.path / bundle.artifact.file).stat().st_size
    assert report["before"]["size_bytes"] > 3.5 * report["after"]["size_bytes"]
    assert report["before"]["latency_s"] > 2 * report["after"]["latency_s"]
    metric = report["accuracy"]["metric"]
    assert metric["before"] == next(p["metric"] for p in report["proofs"] if p["metric"])["before"], "the original's"
    assert metric["before"] - metric["after"] <= 0.011
