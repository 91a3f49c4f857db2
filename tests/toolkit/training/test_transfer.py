"""Transfer: what is carried over, which layers learn when, at which rates, and that frozen parts do not move."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import Dataset
from targets.errors import InvalidInput
from toolkit.models.digits import DigitsNet
from toolkit.models.registry import entry
from toolkit.training.methods import started_from
from toolkit.training.recipe import Methods, TransferMethod
from toolkit.training.trainer import Settings, Trainer
from toolkit.training.transfer import GradualThaw, LayerRates, layer_groups, transplant


class Net(nn.Module):
    """Two blocks with norms, and a head."""

    def __init__(self, classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.ReLU())
            )
            self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(x))
        return found


def test_groups_go_from_the_outputs_to_the_inputs() -> None:
    groups = layer_groups(Net())
    assert groups[0] == ["head.weight", "head.bias"]
    assert [name for group in groups for name in group if name.startswith("body.1")] == [
        "body.1.0.weight",
        "body.1.0.bias",
    ]
    assert sorted(n for g in groups for n in g) == sorted(n for n, _ in Net().named_parameters())
    flat = layer_groups(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))
    assert flat == [["2.weight", "2.bias"], ["0.weight", "0.bias"]]
    digits = layer_groups(DigitsNet())
    assert digits[0] == ["classify.weight", "classify.bias"]
    assert any("stem" in name for name in digits[-1])


def _data() -> Dataset:
    x = np.random.default_rng(0).standard_normal((64, 2)).astype(np.float32)
    return Dataset.of_arrays("points", {"x": x}, (x[:, 0] > 0).astype(np.int64))


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    return nn.functional.cross_entropy(model(inputs["x"]), labels)


def _trained(epochs: int, thaw: GradualThaw | None) -> dict[str, Tensor]:
    fit = Trainer(data=_data(), thaw=thaw, settings=Settings(batch=16, patience=0, held_out=0.0))
    return fit(Net(), _loss, step="transfer", epochs=epochs, rate=0.05).state_dict()


def test_what_is_frozen_does_not_move_norms_included() -> None:
    groups, before = layer_groups(Net()), Net().state_dict()
    for epochs in (1, 2, len(groups)):
        after = _trained(epochs, GradualThaw(1))
        learnt = {name for group in groups[:epochs] for name in group}
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert {name for name in moved if "running" not in name and "batches" not in name} == learnt
        norms_learn = any(name.startswith("body.0.1") for name in learnt)
        assert any("running" in name for name in moved) is norms_learn
    assert {n for n in before if torch.equal(before[n], _trained(1, GradualThaw(0))[n])} == set()


def test_rates_fall_towards_the_inputs() -> None:
    model = Net()
    optimizer = LayerRates(0.5)(model, 0.1, 0.3)
    names = {id(p): name for name, p in model.named_parameters()}
    shares = {names[id(g["params"][0])]: g["share"] for g in optimizer.param_groups}
    assert shares["head.weight"] == 1.0
    assert shares["head.weight"] > shares["body.1.0.weight"] > shares["body.0.0.weight"]
    decays = {names[id(g["params"][0])]: g["weight_decay"] for g in optimizer.param_groups}
    assert (decays["head.weight"], decays["head.bias"]) == (0.3, 0.0)
    fit = Trainer(data=_data(), optimizer=LayerRates(0.5), settings=Settings(batch=16, patience=0, held_out=0.0))
    assert fit.key != Trainer(data=_data(), optimizer=LayerRates(0.25), settings=fit.settings).key
    still = Trainer(data=_data(), optimizer=LayerRates(1e-9), settings=fit.settings)
    after = still(Net(), _loss, step="rates", epochs=1, rate=0.05).state_dict()
    assert not torch.allclose(after["head.weight"], Net().head.weight, atol=1e-3)
    torch.testing.assert_close(after["body.0.0.weight"], Net().body[0][0].weight, atol=1e-6, rtol=0)  # type: ignore[index]


def test_weights_of_one_name_and_shape_are_carried_over() -> None:
    source, model = Net(classes=5, seed=1), Net(classes=2)
    kept = transplant(source, model)
    assert kept == ["head.bias", "head.weight"]
    for name, value in source.body.state_dict().items():
        assert torch.equal(value, model.body.state_dict()[name])
    assert torch.equal(model.head.weight, Net().head.weight)
    with pytest.raises(InvalidInput, match="no weight of one name and shape"):
        transplant(nn.Linear(3, 3), model)


def test_little_that_is_carried_over_is_said(caplog: pytest.LogCaptureFixture) -> None:
    methods = Methods(transfer=TransferMethod(start_from="digits"))
    started_from(methods, entry("digits").build(None))
    assert caplog.text == ""
    started_from(methods, entry("vision_transformer").build(None))
    assert "only 10 of 102,282 parameters start from digits" in caplog.text
