"""Folders of images, whatever kinds of images are in them; damaged ones are named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from passes.dataset import Dataset
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput, MissingDependency
from toolkit.data import decoding, image_folder, load_data

SIGNATURE = Signature((TensorSpec("picture", "float32", ("b", 4, 6, 3)),), ())
GRAY = Signature((TensorSpec("picture", "float32", ("b", 1, 4, 6)),), ())
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def load(path: Path, signature: Signature = SIGNATURE, text: str | None = "raw") -> Dataset:
    return load_data(str(path), signature, preprocess=text)


def values(data: Dataset) -> np.ndarray:
    return np.concatenate([sample["picture"] for sample in data])


def shade(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), level, np.uint8)).save(path)


def shades(data: Dataset) -> list[int]:
    return [int(sample["picture"].flat[0]) for sample in data]


# ---- which images, in which order, of which class


def test_classes_are_the_sorted_folders_and_take_turns(tmp_path: Path) -> None:
    for name, level in [("dog/a.png", 1), ("dog/b.png", 2), ("cat/z.PNG", 3), ("owl/1.bmp", 4), ("dog/c.png", 5)]:
        shade(tmp_path / name, level)
    (tmp_path / "empty").mkdir()
    data = load(tmp_path)
    assert data.labels is not None
    assert list(zip(shades(data), data.labels, strict=True)) == [(3, 0), (1, 1), (4, 3), (2, 1), (5, 1)]
    assert data.labels.dtype == np.int64


def test_folders_named_by_integers_are_those_classes(tmp_path: Path) -> None:
    for name, level in [("967/a.png", 1), ("281/a.png", 2), ("0/a.png", 3)]:
        shade(tmp_path / name, level)
    data = load(tmp_path)
    assert data.labels is not None
    assert sorted(zip(shades(data), data.labels, strict=True)) == [(1, 967), (2, 281), (3, 0)]


def test_a_flat_folder_has_no_classes_and_strangers_do_not_count(tmp_path: Path) -> None:
    shade(tmp_path / "b.png", 2)
    shade(tmp_path / "a.png", 1)
    for name in ("._a.png", ".hidden.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"not a picture")
    data = load(tmp_path)
    assert (shades(data), data.labels, data.name) == ([1, 2], None, tmp_path.name)


def test_labels_beside_a_flat_folder(tmp_path: Path) -> None:
    for name, level in [("b.png", 2), ("a.png", 1)]:
        shade(tmp_path / name, level)
    np.save(tmp_path / "labels.npy", np.array([7, 3]))
    data = load(tmp_path)
    assert data.labels is not None
    assert (shades(data), data.labels.tolist()) == ([1, 2], [7, 3])
    np.save(tmp_path / "labels.npy", np.array([7, 3, 4]))
    with pytest.raises(InvalidInput, match="2 samples and 3 labels"):
        load(tmp_path)


def test_links_out_of_the_folder_are_followed_and_one_image_is_enough(tmp_path: Path) -> None:
    shade(tmp_path / "elsewhere" / "a.png", 9)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "folders").mkdir()
    (tmp_path / "folders" / "5").symlink_to(tmp_path / "elsewhere")
    assert shades(load(tmp_path / "folder")) == shades(load(tmp_path / "folders")) == [9]
    assert shades(load(tmp_path / "elsewhere" / "a.png")) == [9]


def test_folders_that_could_mean_two_things_are_refused(tmp_path: Path) -> None:
    shade(tmp_path / "mixed" / "class" / "a.png", 1)
    shade(tmp_path / "mixed" / "b.png", 1)
    with pytest.raises(InvalidInput, match=r"b\.png"):
        load(tmp_path / "mixed")
    shade(tmp_path / "both" / "a.png", 1)
    np.save(tmp_path / "both" / "a.npy", np.zeros((4, 6, 3), np.float32))
    with pytest.raises(InvalidInput, match="both arrays and images"):
        load(tmp_path / "both")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"no \.npy files and no images"):
        load(tmp_path / "empty")


# ---- what is stated, what is missing


@pytest.mark.parametrize("text", [None, ""])
def test_without_a_stated_preprocessing_the_hint_shows_what_to_write(tmp_path: Path, text: str | None) -> None:
    shade(tmp_path / "a.png", 1)
    with pytest.raises(InvalidInput, match="nothing says how") as caught:
        load(tmp_path, text=text)
    assert "--preprocess imagenet" in caught.value.hint
    assert "resize=256,crop=center,mean=127,std=128" in caught.value.hint


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shade(tmp_path / "a.png", 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependency) as caught:
        load(tmp_path)
    assert "edge-toolkit[images]" in caught.value.hint


# ---- kinds of images, each as the same pixels seen through Pillow's or numpy's eyes


def saved(tmp_path: Path, image: Image.Image, name: str = "a.png", **how: object) -> Path:
    image.save(tmp_path / name, **how)
    return tmp_path / name


def test_rgb_is_exact(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.ppm", "a.tiff"):
        np.testing.assert_array_equal(values(load(saved(tmp_path, Image.fromarray(PIXELS), name)))[0], PIXELS)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    alpha = np.dstack([PIXELS, np.full((4, 6), 10, np.uint8)])
    np.testing.assert_array_equal(values(load(saved(tmp_path, Image.fromarray(alpha))))[0], PIXELS)


def test_palettes_with_and_without_transparency(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6), "L").convert("P")
    colors = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image.putpalette(colors.tobytes())
    want = colors[np.asarray(image)]
    np.testing.assert_array_equal(values(load(saved(tmp_path, image, "a.png")))[0], want)
    np.testing.assert_array_equal(
        values(load(saved(tmp_path, image, "b.png", transparency=bytes(range(256)))))[0], want
    )
    np.testing.assert_array_equal(values(load(saved(tmp_path, image, "c.gif", transparency=3)))[0], want)
    assert not recwarn.list


def test_gray_fills_three_channels_and_color_becomes_luma(tmp_path: Path) -> None:
    gray = PIXELS[..., 0]
    for kind in (Image.fromarray(gray), Image.fromarray(np.dstack([gray, gray]), "LA")):
        path = saved(tmp_path, kind)
        np.testing.assert_array_equal(values(load(path))[0], np.dstack([gray] * 3))
        np.testing.assert_array_equal(values(load(path, GRAY))[0, 0], gray)
    luma = values(load(saved(tmp_path, Image.fromarray(PIXELS)), GRAY))[0, 0]
    assert np.abs(luma - PIXELS @ [0.299, 0.587, 0.114]).max() <= 1


def test_black_and_white(tmp_path: Path) -> None:
    bits = PIXELS[..., 0] > 127
    np.testing.assert_array_equal(values(load(saved(tmp_path, Image.fromarray(bits)), GRAY))[0, 0], bits * 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    for name in ("a.png", "a.tiff", "a.pgm"):
        have = values(load(saved(tmp_path, Image.fromarray(deep), name), GRAY))[0, 0]
        assert np.abs(have - deep / 257).max() <= 0.5, name
    with pytest.raises(InvalidInput, match="32-bit"):
        load(saved(tmp_path, Image.fromarray(deep.astype(np.float32)), "f.tiff"), GRAY)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_the_camera_may_have_been_turned(
    tmp_path: Path, orientation: int, turned: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(PIXELS), exif=exif)
    want = turned(PIXELS)
    signature = Signature((TensorSpec("picture", "float32", ("b", *want.shape)),), ())
    np.testing.assert_array_equal(values(load(path, signature))[0], want)


# ---- damage


def jpeg(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


def test_a_damaged_image_in_the_middle_is_named_when_it_is_reached(tmp_path: Path) -> None:
    for i in range(4):
        content = jpeg(tmp_path / "dogs" / f"{i}.jpg")
    (tmp_path / "dogs" / "2.jpg").write_bytes(content[: len(content) // 2])
    data = load(tmp_path, text="raw,resize=stretch")
    assert len(data.digest) == 64, "its identity needs no decoding"
    assert len(list(data.take(2))) == 2
    with pytest.raises(InvalidInput, match=r"dogs/2\.jpg"):
        list(data)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tiff", "webp", "ppm"])
def test_damage_of_every_kind_is_an_invalid_input(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    refusals: list[str] = []
    for trial in range(60):
        content = bytearray(whole[: len(whole) * (trial + 1) // 61]) if trial % 2 else bytearray(whole)
        for place in rng.integers(0, len(content), 4):
            content[place] ^= int(rng.integers(1, 256))
        path.write_bytes(content)
        try:
            load(path, text="raw,resize=stretch")
        except InvalidInput as error:
            refusals.append(error.problem)
    assert len(refusals) > 10
    assert all(f"a.{kind}" in text and str(tmp_path) not in text for text in refusals)


@pytest.mark.parametrize("content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"hello", b"\x80\x04N."])
def test_what_is_no_image_is_not_opened_as_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"a\.png"):
        load(tmp_path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    Image.new("1", (12_000, 10_000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InvalidInput, match="million"):
        load(tmp_path)
    assert not recwarn.list


# ---- identity


def test_the_digest_follows_files_names_and_preprocessing_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        shade(tmp_path / f"{i % 2}" / f"{i}.png", i)
    data = load(tmp_path)
    monkeypatch.setattr(image_folder, "decode", lambda *_, **__: pytest.fail("decoded"))
    digests = [data.digest, *(data.take(n).digest for n in (1, 2, 3))]
    assert len(set(digests)) == 4
    assert data.take(4).digest == data.digest
    assert data.take(3).take(2).digest == data.take(2).digest
    monkeypatch.undo()
    assert load(tmp_path).digest == data.digest
    assert load(tmp_path, text="unit").digest != data.digest
    assert load(tmp_path, text="mean=0,std=1").digest == data.digest, "raw under another name"
    monkeypatch.setattr(image_folder, "pillow_version", lambda: "0.0")
    assert load(tmp_path).digest != data.digest
    monkeypatch.undo()
    part = data.take(2).digest
    shade(tmp_path / "1" / "3.png", 77)  # the last of all
    assert load(tmp_path).digest != data.digest
    assert load(tmp_path).take(2).digest == part
    (tmp_path / "0" / "0.png").rename(tmp_path / "0" / "00.png")
    assert load(tmp_path).take(2).digest != part


# ---- memory


def test_no_more_than_the_allowed_bytes_of_pixels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        shade(tmp_path / f"{i}.png", i)
    monkeypatch.setattr(image_folder, "_KEPT_BYTES", 2 * PIXELS.nbytes)
    decoded: list[str] = []

    def counting(file: Path, name: str, *, gray: bool) -> Image.Image:
        decoded.append(name)
        return decoding.decode(file, name, gray=gray)

    monkeypatch.setattr(image_folder, "decode", counting)
    data = load(tmp_path)
    for _ in range(2):
        assert shades(data) == list(range(6))
    once, twice = [f"{i}.png" for i in range(2)], [f"{i}.png" for i in range(2, 6)]
    assert sorted(decoded) == sorted(once + 2 * twice)
    for sample in data:
        sample["picture"][:] = -1  # whoever changes a sample changes nobody else's
    assert shades(data) == list(range(6))
