"""The vision blueprints and the keyword spotter: held against torch's own layers, and trained on what is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.dataset import Dataset
from passes.metric import TOP1
from targets.errors import InvalidInput
from toolkit.models.blueprints import inverted_residual, keyword_spotting, separable_vision, vision_transformer
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.written_recurrence import WrittenGRU, WrittenLSTM
from toolkit.models.pictures import digit_pictures
from toolkit.training.trainer import Settings, Trainer


@pytest.mark.parametrize(("written", "peer"), [(WrittenGRU, nn.GRU), (WrittenLSTM, nn.LSTM)])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_written_recurrence_answers_and_learns_like_torchs(written: type, peer: type, steps: int) -> None:
    torch.manual_seed(0)
    model = written(5, 6)
    other = peer(5, 6, batch_first=True)
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, steps, 5)
    found, wanted = model(x), other(x)[0][:, -1]
    assert torch.allclose(found, wanted, atol=1e-6)
    found.square().sum().backward(), wanted.square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        mine = torch.zeros_like(a) if a.grad is None else a.grad  # of one step, the state's weights have none
        assert torch.allclose(mine, b.grad, atol=1e-5), name


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_mobilenet_v2_of_the_paper_comes_out_with_its_parameters() -> None:
    config = inverted_residual.Config(
        image_size=224, channels=3, classes=1000, stem=32, widths=(16, 24, 32, 64, 96, 160), depths=(1, 2, 3, 4, 3, 3),
        expansion=6, head=1280,
    )  # fmt: skip
    # the seventh stage (one block of stride 1 to 320 channels) has no place here, where stages but the first halve
    seventh = parameters(inverted_residual.InvertedResidual(160, 320, 6)) + (320 - 160) * 1280
    assert parameters(inverted_residual.build(config)) + seventh == 3_504_872


def test_mobilenet_v1_of_the_paper_comes_out_with_its_parameters() -> None:
    config = separable_vision.Config(image_size=224, channels=3, classes=1000, width=32, stages=(1, 2, 2, 6, 2))
    assert parameters(separable_vision.build(config)) == 4_231_976


def test_attention_is_that_of_torch() -> None:
    model = vision_transformer.build()
    block = model.blocks[0]
    peer = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    peer.load_state_dict({
        "in_proj_weight": block.query_key_value.weight, "in_proj_bias": block.query_key_value.bias,
        "out_proj.weight": block.project.weight, "out_proj.bias": block.project.bias,
    })  # fmt: skip
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (2, 9, 64)).astype(np.float32))
    with torch.no_grad():
        normed = block.before_attention(x)
        y = x + peer(normed, normed, normed)[0]
        wanted = y + block.narrow(nn.functional.gelu(block.widen(block.before_tokens(y))))
        assert torch.allclose(block(x), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "fields", "words"),
    [
        (separable_vision, {"image_size": 30}, "image_size = 30 is not allowed"),
        (separable_vision, {"image_size": 16, "stages": [1, 1, 1, 1, 1]}, "cannot be halved 6 times"),
        (inverted_residual, {"depths": [1, 2]}, "3 widths and 2 depths make no stages"),
        (inverted_residual, {"image_size": 16, "widths": [8] * 6, "depths": [1] * 6}, "cannot be halved 6 times"),
        (vision_transformer, {"patch": 5}, "patches of 5 pixels do not tile a picture of 32"),
        (vision_transformer, {"heads": 3}, "3 heads cannot share 64 features"),
        (keyword_spotting, {"cell": "rnn"}, "cell = 'rnn' is not allowed"),
        (keyword_spotting, {"hidden": "48"}, "hidden = '48' is not allowed"),
    ],
)
def test_a_config_that_means_nothing_is_refused(module: ModuleType, fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse(module.Config, fields)


def test_digits_are_enlarged_without_a_change() -> None:
    small, large = (next(iter(digit_pictures(size, 1, "validation")))["image"] for size in (8, 24))
    assert np.array_equal(large[:, :, 1::3, 2::3], small)
    with pytest.raises(InvalidInput, match="cannot be enlarged to 12"):
        digit_pictures(12, 1, "training")


# ---- trained

_PICTURES = {"image_size": 16}
_SOUNDS = {"width": 8, "hidden": 24}
LEAST = {
    "separable": (separable_vision, _PICTURES | {"width": 16, "stages": (1, 1)}, 14, 0.95),
    "inverted": (inverted_residual, _PICTURES | {"widths": (12, 16), "depths": (1, 2)}, 8, 0.95),
    "transformer": (vision_transformer, _PICTURES | {"width": 48, "depth": 2}, 12, 0.90),
    "gru": (keyword_spotting, _SOUNDS, 6, 0.90),
    "lstm": (keyword_spotting, _SOUNDS | {"cell": "lstm"}, 6, 0.90),
}


def loss(model: nn.Module, batch: tuple[Mapping[str, Tensor], Tensor | None]) -> Tensor:
    return nn.functional.cross_entropy(model(*batch[0].values()), batch[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_it_learns_what_it_is_for(name: str) -> None:
    module, fields, epochs, least = LEAST[name]
    config = parse(module.Config, fields)
    trainer = Trainer(data=module.training(config), settings=Settings(batch=50, held_out=0), metric=TOP1)
    model = trainer(module.build(config), loss, step=name, epochs=epochs, rate=5e-3)
    assert _accuracy(model, module.validation(config)) >= least


def _accuracy(model: nn.Module, data: Dataset) -> float:
    inputs = [torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*(s.values() for s in data), strict=True)]
    with torch.no_grad():
        return float((model(*inputs).argmax(-1).numpy() == data.labels).mean())
