"""Recipes that train, from the front door: what trains, on which data, and where it goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from passes.context import Batch
from targets.errors import InvalidInput
from toolkit.cache import DiskCache
from toolkit.cli.main import main
from toolkit.driver import compile_model
from toolkit.training.trainer import Trainer


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_recipe_that_does_not_train_asks_for_no_trainer(tmp_path: Path) -> None:
    def refuses(**_arguments: Any) -> Any:
        raise AssertionError

    compile_model("digits", target="desktop_cpu", recipe="float32", output=tmp_path / "b", trainer=refuses)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ("toolkit.training.trainer:Trainr", "did you mean 'Trainer'?"),
        ("no_such_module:make", "run from the folder that holds no_such_module.py"),
        ("builtins:dict", "passes.context.Fit"),
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


@pytest.mark.slow
def test_the_compression_recipe_makes_the_digits_smaller_and_no_worse(tmp_path: Path) -> None:
    """Each step is kept or narrowed, the file is what is measured, and the interval of the drop is the proof's own."""
    bundle = compile_model("digits", target="raspberry_pi_4", recipe="compress", output=tmp_path / "b")
    report = bundle.report
    decisions = {proof["pass"]: proof["decision"] for proof in report["proofs"]}
    assert {decisions[name] for name in ("PruneChannels", "Distil", "TrainQuantized")} <= {"kept", "narrowed"}
    assert report["after"]["size_bytes"] == (bundle.path / "model.onnx").stat().st_size
    assert report["before"]["size_bytes"] > 3.5 * report["after"]["size_bytes"]
    assert report["before"]["latency_s"] > 2 * report["after"]["latency_s"]
    metric = report["accuracy"]["metric"]
    assert metric["before"] == next(p["metric"] for p in report["proofs"] if p["metric"])["before"], "the original's"
    assert metric["before"] - metric["after"] <= 0.011
