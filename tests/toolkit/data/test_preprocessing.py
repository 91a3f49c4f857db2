"""A stated preprocessing reads back as it was written, and does to an image what others and pencil and paper do."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput, ToolkitError, UsageError
from toolkit.data.frame import Frame, frame_of
from toolkit.data.preprocessing import PRESETS, Preprocessing

RNG = np.random.default_rng(0)


def model(*shape: int | str, dtype: str = "float32") -> Signature:
    return Signature((TensorSpec("image", dtype, shape),), ())


def apply(text: str, pixels: np.ndarray, signature: Signature) -> np.ndarray:
    preparing = Preprocessing.parse(text)
    return preparing(Image.fromarray(pixels), frame_of(signature, preparing))


# ---- as text

numbers = st.floats(-1e6, 1e6).map(float)
deviations = st.floats(1, 1e6)
settings = st.builds(
    Preprocessing,
    resize=st.one_of(
        st.sampled_from(["none", "stretch"]),
        st.integers(1, 10_000),
        st.fractions(Fraction(1, 100), 100, max_denominator=1000),
    ),
    crop=st.sampled_from(["none", "center"]),
    color=st.sampled_from(["auto", "rgb", "bgr", "gray"]),
    filter=st.sampled_from(["bilinear", "bicubic", "nearest", "lanczos"]),
    size=st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    mean=st.tuples(numbers) | st.tuples(numbers, numbers, numbers),
    std=st.tuples(deviations) | st.tuples(deviations, deviations, deviations),
)


@given(settings)
def test_what_is_written_reads_back(preparing: Preprocessing) -> None:
    assert Preprocessing.parse(str(preparing)) == preparing


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_settings(name: str) -> None:
    assert Preprocessing.parse(str(Preprocessing.parse(name))) == PRESETS[name]


def test_settings_change_a_preset() -> None:
    changed = Preprocessing.parse("imagenet, filter=bicubic , resize=232")
    assert (changed.filter, changed.resize, changed.crop) == ("bicubic", 232, "center")
    assert changed.mean == PRESETS["imagenet"].mean
    assert Preprocessing.parse("raw,size=224").size == (224, 224)
    assert Preprocessing.parse("raw,size=240x320").size == (240, 320)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("imagnet", "imagenet"),
        ("resise=256", "resize"),
        ("raw,imagenet", "setting"),
        ("mean", "preprocessing"),
        ("mean=1,mean=2", "twice"),
        ("mean=1/2", "one number or three"),
        ("mean=nan", "one number or three"),
        ("mean=red", "mean=red"),
        ("std=0.229/0.224/0.225", "255"),
        ("std=0", "255"),
        ("resize=0", "positive"),
        ("resize=1/0", "resize=1/0"),
        ("resize=-3", "resize"),
        ("size=12x", "size=12x"),
        ("color=grey", "gray"),
        ("crop=middle", "crop"),
        ("filter=linear", "bilinear"),
        ("", "preprocessing"),
    ],
)
def test_nonsense_is_refused_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Preprocessing.parse(text)
    assert says in f"{caught.value.problem} {caught.value.hint}"


@given(st.text(alphabet="abcdeinorstuz=,/x.0123456789-", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        preparing = Preprocessing.parse(text)
    except ToolkitError:
        return
    assert Preprocessing.parse(str(preparing)) == preparing


# ---- values, by hand

TINY = np.array([[[0, 51, 255], [255, 0, 102]]] * 2, np.uint8)  # two rows of two pixels, RGB


def test_unit_by_hand() -> None:
    want = [[[0, 1]] * 2, [[0.2, 0]] * 2, [[1, 0.4]] * 2]
    np.testing.assert_allclose(apply("unit", TINY, model(1, 3, 2, 2)), want, rtol=1e-6)
    np.testing.assert_allclose(apply("unit", TINY, model("b", 2, 2, 3)), np.moveaxis(want, 0, -1), rtol=1e-6)


def test_signed_and_raw_by_hand() -> None:
    np.testing.assert_allclose(apply("signed", TINY, model(1, 2, 2, 3))[0], [[-1, -0.6, 1], [1, -1, -0.2]], rtol=1e-6)
    np.testing.assert_array_equal(apply("raw", TINY, model(1, 2, 2, 3)), TINY)


def test_three_means_are_of_red_green_and_blue_even_in_bgr() -> None:
    text = "mean=10/20/30,std=1/2/5,color="
    rgb = apply(text + "rgb", TINY, model(1, 2, 2, 3))
    np.testing.assert_allclose(rgb[0], [[-10, 15.5, 45], [245, -10, 14.4]], rtol=1e-6)
    np.testing.assert_array_equal(apply(text + "bgr", TINY, model(1, 2, 2, 3)), rgb[..., ::-1])
    np.testing.assert_array_equal(apply(text + "bgr", TINY, model(1, 3, 2, 2)), np.moveaxis(rgb[..., ::-1], -1, 0))


def test_imagenet_is_the_published_formula_on_a_pixel() -> None:
    gray = np.full((8, 8, 3), 200, np.uint8)
    want = (200 / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(apply("imagenet", gray, model(1, 3, 7, 7))[:, 3, 3], want, rtol=1e-5)


def test_integer_inputs_take_whole_numbers() -> None:
    as_uint8 = apply("raw", TINY, model(1, 2, 2, 3, dtype="uint8"))
    assert as_uint8.dtype == np.uint8
    np.testing.assert_array_equal(as_uint8, TINY)
    as_int8 = apply("mean=128,std=1", TINY, model(1, 2, 2, 3, dtype="int8"))
    np.testing.assert_array_equal(as_int8, TINY.astype(int) - 128)
    assert as_int8.dtype == np.int8


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("unit", "uint8"),
        ("imagenet", "uint8"),
        ("raw", "int8"),
        ("mean=128", "uint8"),
        ("mean=0.5", "int32"),
        ("raw", "bool"),
    ],
)
def test_an_integer_input_that_would_be_rounded_or_clipped_is_refused(text: str, dtype: str) -> None:
    with pytest.raises(InvalidInput, match=dtype):
        frame_of(model(1, 3, 224, 224, dtype=dtype), Preprocessing.parse(text))


# ---- geometry, against torch


def antialiased(pixels: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """torch's own antialiased resizing, in float64, rounded to 8 bits as Pillow does."""
    planes = torch.from_numpy(pixels.astype(np.float64)).permute(2, 0, 1)[None]
    out = torch.nn.functional.interpolate(planes, (height, width), mode=mode, antialias=True, align_corners=False)
    return out[0].permute(1, 2, 0).round().clamp(0, 255).numpy()


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "resized", "corner"),
    [  # for 224: the shorter side becomes 256, the longer int(256 * long / short), the crop starts at round(rest / 2)
        (300, 451, (256, 384), (16, 80)),
        (451, 300, (384, 256), (80, 16)),
        (257, 259, (256, 257), (16, 16)),  # rest 33: 16.5 rounds to even
        (100, 120, (256, 307), (16, 42)),  # rest 83: 41.5 rounds to even
        (256, 256, (256, 256), (16, 16)),
    ],
)
def test_imagenet_geometry_is_that_of_torch(
    height: int, width: int, resized: tuple[int, int], corner: tuple[int, int], mode: str
) -> None:
    pixels = RNG.integers(64, 192, (height, width, 3), dtype=np.uint8)  # bicubic overshoots; Pillow clips between axes
    top, left = corner
    cut = antialiased(pixels, *resized, mode)[top : top + 224, left : left + 224]
    want = (cut / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    have = apply(f"imagenet,filter={mode}", pixels, model("b", 224, 224, 3))
    allowed = 2.01 / 255 / 0.224  # Pillow rounds to 8 bits after each of its two axes: at most two levels off
    assert np.abs(have - want).max() <= allowed
    assert np.abs(have - want).mean() <= allowed / 4


def test_stretching_and_sides_that_differ() -> None:
    pixels = RNG.integers(0, 256, (50, 40, 3), dtype=np.uint8)
    stretched = apply("raw,resize=stretch", pixels, model(1, 20, 30, 3))
    assert np.abs(stretched - antialiased(pixels, 20, 30, "bilinear")).max() <= 2
    covered = apply("raw,resize=1/1,crop=center", pixels, model(1, 20, 30, 3))  # width decides: 40 -> 30, 50 -> 37
    assert np.abs(covered - antialiased(pixels, 37, 30, "bilinear")[8:28]).max() <= 2
    nearest = apply("raw,resize=stretch,filter=nearest", pixels, model(1, 100, 80, 3))
    np.testing.assert_array_equal(nearest, pixels.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("text", ["raw", "raw,resize=200,crop=center", "raw,resize=256", "raw,crop=center"])
def test_an_image_of_another_size_is_refused_with_what_to_add(text: str) -> None:
    with pytest.raises(InvalidInput, match="224x224") as caught:
        apply(text, np.zeros((100, 150, 3), np.uint8), model(1, 3, 224, 224))
    assert "crop=center" in caught.value.hint
    assert "stretch" in caught.value.hint


def test_a_thread_of_an_image_does_not_fill_the_memory() -> None:
    with pytest.raises(InvalidInput, match="resized"):
        apply("imagenet", np.zeros((1, 1_000_000, 3), np.uint8), model(1, 3, 224, 224))


# ---- the model's side


@pytest.mark.parametrize(
    ("shape", "text", "frame"),
    [
        ((1, 3, 32, 48), "raw", Frame(32, 48, 3, False, "float32")),
        (("n", 32, 48, 3), "raw", Frame(32, 48, 3, True, "float32")),
        ((1, 1, 28, 28), "raw", Frame(28, 28, 1, False, "float32")),
        (("n", 3, "h", "w"), "raw,size=20x30", Frame(20, 30, 3, False, "float32")),
        (("n", 3, "h", 30), "raw,size=20x30", Frame(20, 30, 3, False, "float32")),
    ],
)
def test_size_channels_and_layout_come_from_the_model(shape: tuple[int | str, ...], text: str, frame: Frame) -> None:
    assert frame_of(model(*shape), Preprocessing.parse(text)) == frame


@pytest.mark.parametrize(
    ("shape", "text", "says"),
    [
        ((1, 64), "raw", "not one image"),
        ((1, 12, 32, 32), "raw", "channels"),
        (("n", "c", "h", "w"), "raw", "channels"),
        (("n", 3, "h", "w"), "raw", "varies"),
        ((1, 3, 32, 32), "raw,size=33", "size=33x33"),
        ((1, 3, 32, 32), "raw,color=gray", "channels"),
        ((1, 1, 32, 32), "raw,color=rgb", "channels"),
        ((1, 1, 32, 32), "mean=1/2/3", "channels"),
    ],
)
def test_a_model_that_the_preprocessing_does_not_suit_is_refused(
    shape: tuple[int | str, ...], text: str, says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        frame_of(model(*shape), Preprocessing.parse(text))


def test_two_inputs_are_not_one_image() -> None:
    spec = TensorSpec("a", "float32", (1, 3, 4, 4))
    with pytest.raises(InvalidInput, match="not one image"):
        frame_of(Signature((spec, TensorSpec("b", "float32", (1,))), ()), Preprocessing())
