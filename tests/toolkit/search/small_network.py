"""A small classifier of digits as an ONNX graph, and its data: what deployments are searched of in tests."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np

WIDTHS = (192, 128, 64)


@cache
def fitted():
    """scikit-learn's own network, trained here, with 1,797 images of 64 pixels and their classes."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    pixels, classes = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    network = MLPClassifier(WIDTHS, max_iter=12, tol=0.0, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it could go on learning
        network.fit(pixels[:1000], classes[:1000])
    return network, pixels, classes


def write(folder: Path) -> tuple[str, str, str]:
    """Paths of the model, of calibration data without labels, and of labelled validation data."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    network, pixels, classes = fitted()
    nodes, constants, last = [], [], "pixels"
    for k, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        for name, values in ((f"w{k}", weight), (f"b{k}", bias)):
            constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        is_last = k == len(network.coefs_) - 1
        nodes.append(
            helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], ["scores" if is_last else f"sum{k}"], f"dense{k}")
        )
        last = f"relu{k}"
        if not is_last:
            nodes.append(helper.make_node("Relu", [f"sum{k}"], [last], last))
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])], constants,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "small.onnx")
    np.savez(folder / "calibration.npz", pixels=pixels[:64])
    np.savez(folder / "validation.npz", pixels=pixels[1000:1240], labels=classes[1000:1240])
    return tuple(str(folder / name) for name in ("small.onnx", "calibration.npz", "validation.npz"))
