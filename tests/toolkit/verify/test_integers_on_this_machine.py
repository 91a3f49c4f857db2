"""The numerics of this machine's processor against onnxruntime here, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toolkit
from passes.dataset import Array
from passes.onnxruntime import Session
from toolkit.models import digits
from toolkit.verify.integers import NUMERICS, Numerics, interpreter
from toolkit.verify.integers.network import device_graph, watched


def here() -> Numerics:
    """What this processor computes with."""
    flags = Path("/proc/cpuinfo").read_text("utf-8")
    return NUMERICS["vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "avx2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The built-in example in 8 bits."""
    bundle = toolkit.compile(target="desktop_cpu", output=tmp_path_factory.mktemp("digits") / "bundle")
    return Path(bundle.path, "model.onnx").read_bytes()


def images() -> Array:
    return np.concatenate([sample["image"] for sample in digits.validation().take(16)])


def test_every_integer_of_the_digits_network(model: bytes) -> None:
    device, kernels = interpreter(model, here()), watched(device_graph(model, here()))
    plain = Session(model)
    for image in images():
        run, want = device({"image": image[None]}), kernels({"image": image[None]})
        assert len(run.integers) > 6
        for name, values in run.integers.items():
            np.testing.assert_array_equal(values, want[name], err_msg=name)
        for name, answer in plain({"image": image[None]}).items():
            np.testing.assert_array_equal(run.outputs[name], answer)
