"""Layers and attentions that are found in ONNX graphs, and image layers run on moved inputs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
import pytest

from toolkit.geometry.analysis import tapping
from toolkit.geometry.analysis.findings import LIMITS
from toolkit.geometry.analysis.image_layers import ImageLayer, defects, image_layers
from toolkit.geometry.analysis.tapping import Graph
from toolkit.rng import numpy_generator


def graph(body: str, weights: dict[str, np.ndarray], *, image: str = "float[1,4,16,16]", answer: str) -> Graph:
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g ({image} x) => (float{answer} y) {{ {body} }}'
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in weights.items())
    onnx.checker.check_model(model)
    return Graph(onnx.shape_inference.infer_shapes(model))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return numpy_generator(seed, "graphs").standard_normal(shape).astype(np.float32)


def worst(found: Graph) -> dict[str, tuple[float, int]]:
    """By tensor, the largest defect and its channel."""
    layers = list(image_layers(found))
    tensors = found.tapped([n for one in layers for n in (*one.sources, *one.held)]).all_of(
        {"x": noise(*found.shape("x"), seed=9)}
    )
    by_channel = {one.tensor: defects(found, one, tensors) for one in layers}
    return {name: (float(each.max()), int(each.argmax())) for name, each in by_channel.items()}


W = {"w": noise(4, 4, 3, 3), "v": noise(4, 4, 3, 3, seed=1)}
CONV = "Conv<pads=[1,1,1,1], kernel_shape=[3,3]>"
ROUNDING = 1e-5  # 36 products in float32 differ by 36 * 6e-8 of their sizes


def test_a_block_with_a_bypass_commutes_with_moves() -> None:
    found = graph(f"a = {CONV}(x, w) r = Relu(a) b = {CONV}(r, v) s = Add(b, x) y = Relu(s)", W, answer="[1,4,16,16]")
    by_tensor = worst(found)
    assert set(by_tensor) == {"r", "y"}
    assert max(defect for defect, _ in by_tensor.values()) < ROUNDING


def test_a_bias_with_an_extent_in_space_is_found_in_its_layer_and_channel() -> None:
    bias = np.zeros((1, 4, 16, 16), np.float32)
    bias[0, 2, 8:] = 5
    found = graph(f"a = {CONV}(x, w) m = Add(a, bias) r = Relu(m) y = {CONV}(r, v)", {**W, "bias": bias},
                  answer="[1,4,16,16]")  # fmt: skip
    by_tensor = worst(found)
    assert by_tensor["y"][0] < ROUNDING
    assert by_tensor["r"][0] > LIMITS["symmetry"].value
    assert by_tensor["r"][1] == 2


def test_a_mask_on_part_of_the_image_is_found() -> None:
    mask = np.ones((1, 4, 16, 16), np.float32)
    mask[0, 1, :, ::2] = 0
    found = graph(f"a = {CONV}(x, w) y = Mul(a, mask)", {**W, "mask": mask}, answer="[1,4,16,16]")
    defect, channel = worst(found)["y"]
    assert (defect > 0.5, channel) == (True, 1)


def test_strides_pools_and_resizes_commute_with_moves_by_whole_steps() -> None:
    body = (
        "a = Conv<pads=[1,1,1,1], strides=[2,2], kernel_shape=[3,3]>(x, w) p = MaxPool<kernel_shape=[2,2], "
        f'strides=[2,2]>(a) u = Resize<mode="nearest">(p,,scales) y = {CONV}(u, v)'
    )
    found = graph(body, {**W, "scales": np.array([1, 1, 4, 4], np.float32)}, image="float[1,4,64,64]",
                  answer="[1,4,64,64]")  # fmt: skip
    layers = {one.tensor: one for one in image_layers(found)}
    assert layers["u"].sources == {"x": (4, 4)}
    assert layers["u"].shift == (4, 4)
    assert max(defect for defect, _ in worst(found).values()) < ROUNDING


def test_a_gate_without_extent_stays_as_it_is() -> None:
    body = f"a = {CONV}(x, w) m = GlobalAveragePool(a) g = Sigmoid(m) s = Mul(a, g) y = {CONV}(s, v)"
    found = graph(body, W, answer="[1,4,16,16]")
    layers = {one.tensor: one for one in image_layers(found)}
    assert layers["s"].held == ("g",)
    assert max(defect for defect, _ in worst(found).values()) < ROUNDING


def test_products_of_tokens_and_small_images_are_not_asked() -> None:
    body = "t = MatMul(x, q) y = Add(t, x)"
    assert list(image_layers(graph(body, {"q": noise(16, 16)}, answer="[1,4,16,16]"))) == []
    small = graph(f"y = {CONV}(x, w)", W, image="float[1,4,6,6]", answer="[1,4,6,6]")
    assert list(image_layers(small)) == []


def test_the_margin_grows_with_kernels_and_dilations() -> None:
    found = graph("y = Conv<pads=[2,2,2,2], dilations=[2,2], kernel_shape=[3,3]>(x, w)", W, answer="[1,4,16,16]")
    (layer,) = image_layers(found)
    assert isinstance(layer, ImageLayer)
    assert layer.margin == (5, 5)


def test_layers_are_read_behind_their_bias_and_activation() -> None:
    body = "t = MatMul(x, q) b = Add(t, c) r = Relu(b) y = MatMul(r, q)"
    found = graph(body, {"q": noise(16, 16), "c": noise(16)}, answer="[1,4,16,16]")
    assert [(one.op_type, one.tensor) for one in found.layers()] == [("MatMul", "r"), ("MatMul", "y")]


@pytest.mark.parametrize(("axis", "count"), [(-1, 1), (3, 1), (2, 0)])
def test_an_attention_is_a_softmax_over_keys_that_weighs_values(axis: int, count: int) -> None:
    body = f"k = Transpose<perm=[0,1,3,2]>(x) s = MatMul(x, k) p = Softmax<axis={axis}>(s) y = MatMul(p, x)"
    found = graph(body, {}, answer="[1,4,16,16]")
    assert [one.weights for one in found.attentions()] == ["p"] * count


def test_a_classifiers_softmax_is_no_attention() -> None:
    assert graph("y = Softmax<axis=-1>(x)", {}, answer="[1,4,16,16]").attentions() == []


def test_stored_ranges_are_read_from_the_graph() -> None:
    found = graph("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
                  {"s": np.array(0.5, np.float32), "z": np.array(10, np.uint8)}, answer="[1,4,16,16]")  # fmt: skip
    use = found.ranges()["x"]
    assert (use.low, use.high, use.step) == (-5.0, 122.5, 0.5)


def test_an_attention_is_found_behind_rounding_and_its_masks_are_read() -> None:
    body = (
        "k = Transpose<perm=[0,1,3,2]>(x) s = MatMul(x, k) m = Add(s, mask) p = Softmax<axis=-1>(m) "
        "q = QuantizeLinear(p, one, zero) d = DequantizeLinear(q, one, zero) y = MatMul(d, x)"
    )
    mask = np.triu(np.full((16, 16), -1e4, np.float32), 1)
    weights: dict[str, np.ndarray] = {"mask": mask, "one": np.array(1 / 255, np.float32), "zero": np.array(0, np.uint8)}
    found = graph(body, weights, answer="[1,4,16,16]")
    (attention,) = found.attentions()
    tensors = found.tapped([attention.scores, attention.weights]).all_of({"x": noise(1, 4, 16, 16)})
    assert attention.weights == "p"
    np.testing.assert_array_equal(attention.allowed(tensors)[0, 0], np.tril(np.ones((16, 16), bool)))


def test_scales_that_are_computed_state_no_range() -> None:
    body = "s = ReduceMax<keepdims=0>(x) q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"
    assert graph(body, {"z": np.array(0, np.int8)}, answer="[1,4,16,16]").ranges() == {}


def test_tensors_are_read_in_groups_that_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = graph(f"a = {CONV}(x, w) y = Relu(a)", W, answer="[1,4,16,16]")
    whole = found.tapped(["x", "a", "y"]).all_of({"x": noise(1, 4, 16, 16)})
    monkeypatch.setattr(tapping, "_GROUP_BYTES", 1)
    parts = list(found.tapped(["x", "a", "y"]).run({"x": noise(1, 4, 16, 16)}))
    assert [list(part) for part in parts] == [["x"], ["a"], ["y"]]
    for part in parts:
        for name, value in part.items():
            np.testing.assert_array_equal(value, whole[name])


def test_weights_that_are_inputs_are_no_images() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[1,4,16,16] x, float[4,4,1,1] c) => (float[1,4,16,16] y) '
        "{ y = Conv(x, c) }"
    )
    assert list(image_layers(Graph(onnx.shape_inference.infer_shapes(model)))) == []


def test_paths_that_disagree_on_the_scale_are_left_out() -> None:
    body = f"a = {CONV}(x, w) h = Slice(a, from, to, axes, by) z = Concat<axis=2>(h, h) y = Add(z, a)"
    weights = {"from": np.array([0]), "to": np.array([16]), "axes": np.array([2]), "by": np.array([2])}
    found = graph(body, {"w": W["w"], **weights}, answer="[1,4,16,16]")
    assert list(image_layers(found)) == []
