"""The runner in C answers as the runner in Python does: the same documents, words and exit codes, on the same bundles.

The program under test is compiled with the compiler's checks of memory and of undefined arithmetic.
"""

from __future__ import annotations

import json
import shutil
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.helper as oh
import pytest
from PIL import Image

import toolkit
from passes.dataset import Array
from targets.target import load_target
from tests.toolkit.standalone.c_programs import (
    bundle_of,
    model_of,
    ran,
    read_manifest,
    run_by_python,
    sanitized,
    with_library,
    write_manifest,
)
from toolkit.calibration.rows import read_rows
from toolkit.rng import generator
from toolkit.standalone.c_runner import write_facts

pytestmark = pytest.mark.slow

PLANE = {"x": ("float32", (1, 3, 4, 5))}
HOW = "mean=124/116/104,std=58/57/56"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_library(sanitized(tmp_path_factory.mktemp("program") / "runner"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toolkit.compile(target="desktop_cpu", output=tmp_path_factory.mktemp("bundles") / "digits").path


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that gives an image back."""
    model = model_of("Identity", PLANE, {"y": PLANE["x"]})
    sample = {"x": generator(0, "plane").normal(size=(1, 3, 4, 5)).astype(np.float32)}
    return bundle_of(tmp_path_factory.mktemp("bundles") / "plane", model, [sample], preprocessing=HOW)


def assert_same(program: Path, *words: str | Path, code: int = 0) -> str:
    """Both runners say the same, to people and as JSON."""
    here, there = ran(program, *words), run_by_python(*words)
    assert (here.code, here.out, here.err) == (there.code, there.out, there.err)
    return assert_same_document(program, *words, code=code)


def assert_same_document(program: Path, *words: str | Path, code: int = 0) -> str:
    here, there = ran(program, *words, "--json"), run_by_python(*words, "--json")
    assert (here.code, json.loads(here.out), here.err) == (there.code, json.loads(there.out), there.err)
    assert here.code == code
    return here.out


def answered(program: Path, *words: str | Path) -> Any:
    done = ran(program, *words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)["outputs"]


def test_a_compiled_bundle_is_tested_by_its_golden_samples(program: Path, digits: Path) -> None:
    assert json.loads(assert_same(program, "--bundle", digits, "--self-test"))["passed"]


def test_the_bundle_around_the_program_is_the_one_that_runs(program: Path, digits: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "digits"
    shutil.copytree(digits, bundle)
    (bundle / "run").mkdir()
    for name in ("runner", "libonnxruntime.so"):
        shutil.copy(program.parent / name, bundle / "run" / name)
    manifest = read_manifest(bundle)
    assert "run/libonnxruntime.so was not written by the compile" in ran(bundle / "run/runner", "--self-test").err
    write_manifest(bundle, manifest)
    assert ran(bundle / "run/runner", "--self-test").code == 0


def test_other_answers_than_recorded_are_a_negative_verdict(program: Path, tmp_path: Path) -> None:
    model = model_of("Relu", PLANE, {"y": PLANE["x"]})
    sample = {"x": generator(0, "relu").normal(size=(1, 3, 4, 5)).astype(np.float32)}
    bundle = bundle_of(tmp_path / "b", model, [sample], answered=lambda s: {"y": np.abs(s["x"])})
    assert not json.loads(assert_same(program, "--bundle", bundle, "--self-test", code=1))["passed"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "uint8", "int8", "bool", "int16"])
def test_every_type_goes_in_and_comes_out(program: Path, dtype: str, tmp_path: Path) -> None:
    rng = generator(0, dtype)
    values = (
        (rng.normal(size=(5, 3)) * 100).astype(dtype) if dtype != "uint8" else rng.integers(0, 256, (5, 3), np.uint8)
    )
    spec = {"x": (dtype, ("batch", 3))}
    bundle = bundle_of(tmp_path / "b", model_of("Identity", spec, {"y": spec["x"]}), [{"x": values[:1]}])
    np.save(tmp_path / "x.npy", values)
    np.savez_compressed(tmp_path / "x.npz", anything=values)
    np.save(tmp_path / "big.npy", values.astype(values.dtype.newbyteorder(">")))
    for file in ("x.npy", "x.npz", "big.npy"):
        told = json.loads(assert_same(program, "--bundle", bundle, tmp_path / file))
        assert np.array_equal(np.array(told["outputs"]["y"], dtype), values)
    assert_same(program, "--bundle", bundle, "--self-test")


def test_integers_that_a_double_cannot_tell_apart_are_not_called_identical(program: Path, tmp_path: Path) -> None:
    spec = {"x": ("int64", (1, 2))}
    far = np.array([[2**60, 5]], np.int64)
    near = np.array([[2**60 + 1, 5]], np.int64)
    model = model_of("Identity", spec, {"y": spec["x"]})
    bundle = bundle_of(tmp_path / "b", model, [{"x": far}], answered=lambda s: {"y": near})
    assert_same(program, "--bundle", bundle, "--self-test")
    assert json.loads(ran(program, "--bundle", bundle, "--self-test", "--json").out)["sqnr_db"] > 300


def test_several_inputs_and_outputs_are_told_by_name(program: Path, tmp_path: Path) -> None:
    inputs = {"a": ("float32", (1, 2)), "b": ("float32", (1, 2))}
    nodes = [oh.make_node("Sub", ["a", "b"], ["difference"]), oh.make_node("ReduceSum", ["a"], ["sum"], keepdims=0)]
    outputs: dict[str, Any] = {"difference": ("float32", (1, 2)), "sum": ("float32", ())}
    rng = generator(0, "two")
    a, b = rng.normal(size=(2, 4, 1, 2)).astype(np.float32)
    bundle = bundle_of(tmp_path / "two", model_of(nodes, inputs, outputs), [{"b": b[0], "a": a[0]}])
    np.savez(tmp_path / "x.npz", b=b, a=a, labels=np.arange(4))
    assert_same(program, "--bundle", bundle, tmp_path / "x.npz")
    assert_same(program, "--bundle", bundle, "--self-test")
    row = json.loads(ran(program, "--bundle", bundle, "--bench", "2", "--json").out)
    assert (
        row["input_shape"] == json.loads(run_by_python("--bundle", bundle, "--bench", "2", "--json").out)["input_shape"]
    )
    np.savez(tmp_path / "y.npz", a=a, c=b)
    assert ran(program, "--bundle", bundle, tmp_path / "y.npz").code == 5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_images_are_what_pillow_makes_of_them(program: Path, plane: Path, mode: str, tmp_path: Path) -> None:
    pixels = generator(0, mode).integers(0, 256, (4, 5, 3), np.uint8)
    file = tmp_path / "image.png"
    if mode == "I;16":
        Image.fromarray(generator(0, mode).integers(0, 2**16, (4, 5), np.uint16)).save(file)
    else:
        image = Image.fromarray(pixels)
        (image.quantize(7) if mode == "P" else image.convert(mode)).save(file)
    assert_same_document(program, "--bundle", plane, file)
    gray = {"x": ("uint8", (1, 4, 5, 1))}
    other = bundle_of(
        tmp_path / "b", model_of("Identity", gray, {"y": gray["x"]}), [{"x": np.zeros((1, 4, 5, 1), np.uint8)}]
    )
    assert_same_document(program, "--bundle", other, file, "--preprocess", "raw")


@pytest.mark.parametrize("size", [(64, 48), (101, 33)])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_large_images_pass_through_every_kind_of_compression(
    program: Path, size: tuple[int, int], level: int, tmp_path: Path
) -> None:
    rows, columns = np.mgrid[: size[1], : size[0]]
    smooth = np.stack([rows, columns, rows * columns // 7], 2) + generator(0, "noise").integers(0, 9, (*rows.shape, 3))
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "image.png", compress_level=level)
    spec = {"x": ("float32", (1, 3, size[1], size[0]))}
    zeros = {"x": np.zeros((1, 3, size[1], size[0]), np.float32)}
    bundle = bundle_of(tmp_path / "b", model_of("Identity", spec, {"y": spec["x"]}), [zeros])
    told = answered(program, "--bundle", bundle, tmp_path / "image.png", "--preprocess", "unit")["y"]
    want = smooth.astype(np.uint8).astype(np.float32).transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(np.array(told, np.float32)[0], want)


@pytest.mark.parametrize(
    "how", ["raw", "unit", "signed", "mean=1/2/3,std=4,color=bgr", "imagenet,resize=none,crop=none"]
)
def test_images_are_prepared_as_stated(program: Path, plane: Path, how: str, tmp_path: Path) -> None:
    Image.fromarray(generator(0, how).integers(0, 256, (4, 5, 3), np.uint8)).save(tmp_path / "image.png")
    assert_same_document(program, "--bundle", plane, tmp_path / "image.png", "--preprocess", how)


@pytest.mark.parametrize("how", ["resize=6,crop=center", "resize=3/2,crop=center", "resize=none,crop=center"])
def test_an_image_that_would_not_be_resized_is_cut(program: Path, plane: Path, how: str, tmp_path: Path) -> None:
    Image.fromarray(generator(0, how).integers(0, 256, (6, 9, 3), np.uint8)).save(tmp_path / "image.png")
    assert_same_document(program, "--bundle", plane, tmp_path / "image.png", "--preprocess", how)


def test_an_image_that_would_be_resized_is_refused_with_its_size(program: Path, plane: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "image.png")
    done = ran(program, "--bundle", plane, tmp_path / "image.png", "--preprocess", "raw,resize=3/2,crop=center")
    assert done.code == 5
    assert "does not resize" in done.err
    assert "resized to 9x6" in done.err
    done = ran(program, "--bundle", plane, tmp_path / "image.png")
    assert done.code == 5
    assert "is 90x60, the model takes 5x4" in done.err


def test_an_image_that_is_to_be_turned_is_refused_and_others_are_not(
    program: Path, plane: Path, tmp_path: Path
) -> None:
    image = Image.fromarray(generator(0, "turned").integers(0, 256, (4, 5, 3), np.uint8))
    for orientation, code in ((1, 0), (6, 5), (3, 5)):
        facts = image.getexif()
        facts[0x0112] = orientation  # EXIF 2.3, 4.6.4
        image.save(tmp_path / "image.png", exif=facts)
        done = ran(program, "--bundle", plane, tmp_path / "image.png")
        assert done.code == code, done.err
    assert "turn it" in done.err


def test_what_pillow_has_of_an_interlaced_or_animated_image_is_not_guessed(
    program: Path, plane: Path, tmp_path: Path
) -> None:
    first, second = (Image.fromarray(np.full((4, 5, 3), value, np.uint8)) for value in (1, 2))
    first.save(tmp_path / "moving.png", save_all=True, append_images=[second])
    first.save(tmp_path / "plain.png")
    content = bytearray((tmp_path / "plain.png").read_bytes())
    content[28] = 1
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "laced.png").write_bytes(content)
    for name, words in (("moving", "it is animated"), ("laced", "it is interlaced")):
        done = ran(program, "--bundle", plane, tmp_path / f"{name}.png")
        assert done.code == 5
        assert words in done.err


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_recordings_are_cut_into_pieces(program: Path, width: int, dtype: str, tmp_path: Path) -> None:
    spec = {"x": (dtype, (1, 1, 50))}
    bundle = bundle_of(
        tmp_path / "b", model_of("Identity", spec, {"y": spec["x"]}), [{"x": np.zeros((1, 1, 50), dtype)}]
    )
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(generator(0, f"{width}").bytes(170 * width))
    told = json.loads(assert_same(program, "--bundle", bundle, tmp_path / "x.wav"))
    assert np.shape(told["outputs"]["y"]) == (3, 1, 50)


def saved(name: str, values: Array) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / name, values)
        return folder / name

    return write


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


FITTING = np.zeros((1, 3, 4, 5), np.float32)


@pytest.mark.parametrize(
    "write",
    [
        saved("shape.npy", np.zeros((2, 3, 4), np.float32)),
        saved("type.npy", FITTING.astype(np.float64)),
        saved("nan.npy", FITTING + np.nan),
        saved("scalar.npy", np.float32(1)),
        saved("none.npy", FITTING[:0]),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_the_same_words(
    program: Path, plane: Path, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    assert_same(program, "--bundle", plane, write(tmp_path), code=5)


@pytest.mark.parametrize(
    "write",
    [
        saved("fortran.npy", np.asfortranarray(np.ones((2, 3, 4, 5), np.float32))),
        saved("objects.npy", np.array([{}], object)),
        saved("text.npy", np.array(["a"])),
        written("empty.npy", b""),
        written("empty.png", b""),
        written("empty.wav", b""),
        written("text.npz", b"PK but no archive"),
        written("picture.jpg", b"\xff\xd8"),
        lambda folder: folder / "missing.npy",
        lambda folder: folder,
    ],
)
def test_files_that_it_cannot_read_take_one_line(
    program: Path, plane: Path, write: Callable[[Path], Path], tmp_path: Path
) -> None:
    done = ran(program, "--bundle", plane, write(tmp_path))
    assert done.code == 5
    assert [line[:6] for line in done.err.splitlines()] == ["error:", "  next"]


def changed_byte(bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)


def stranger(bundle: Path) -> None:
    (bundle / "a").mkdir()
    (bundle / "a" / "stranger.txt").write_text("x")


def outside(bundle: Path) -> None:
    manifest: Any = read_manifest(bundle)
    manifest["sha256"] = {"../x": "", **manifest["sha256"]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def unlisted(bundle: Path) -> None:
    manifest: Any = read_manifest(bundle)
    del manifest["sha256"]["golden.npz"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def other_version(bundle: Path) -> None:
    (bundle / "manifest.json").write_text('{"schema": "toolkit.bundle/9"}')


@pytest.mark.parametrize(
    "damage",
    [
        changed_byte, stranger, outside, unlisted, other_version,
        lambda bundle: (bundle / "golden.npz").unlink(),
        lambda bundle: (bundle / "manifest.json").unlink(),
        lambda bundle: (bundle / "manifest.json").write_text("{"),
        lambda bundle: (bundle / "manifest.json").write_bytes(b'{"schema": "\xff"}'),
    ],
)  # fmt: skip
def test_a_damaged_bundle_is_refused_in_the_same_words(
    program: Path, plane: Path, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    bundle = tmp_path / "plane"
    shutil.copytree(plane, bundle)
    damage(bundle)
    assert_same(program, "--bundle", bundle, "--self-test", code=5)


@pytest.mark.parametrize(
    "words",
    [
        ["--self-test", "--bench", "3"], ["--json"], ["x.npy", "--self-test"], ["--bench", "0"],
        ["--self-test", "--threads", "0"],
    ],
)  # fmt: skip
def test_use_that_makes_no_sense_is_refused_in_the_same_words(program: Path, words: list[str]) -> None:
    assert_same(program, *words, code=2)


@pytest.mark.parametrize("words", [["--nonsense"], ["--bench"], ["--bench", "many"], ["a", "b"]])
def test_words_that_it_does_not_know_are_a_question_of_use(program: Path, words: list[str]) -> None:
    done = ran(program, *words)
    assert done.code == 2
    assert len(done.err.splitlines()) == 2


def test_a_preprocessing_that_touches_nothing_is_refused(program: Path, plane: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FITTING)
    done = ran(program, "--bundle", plane, tmp_path / "x.npy", "--preprocess", "raw")
    assert done.code == 2
    assert "--preprocess is for images; data 'x.npy' is taken as it is" in done.err


@pytest.mark.parametrize(
    "how", ["nonsense", "mean", "raw,std=0.5", "mean=1/2", "resize=", "size=0", "color=blue", "std=inf"]
)
def test_a_preprocessing_that_cannot_be_read_is_a_question_of_use(
    program: Path, plane: Path, how: str, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "x.png")
    assert ran(program, "--bundle", plane, tmp_path / "x.png", "--preprocess", how).code == 2
    assert run_by_python("--bundle", plane, tmp_path / "x.png", "--preprocess", how).code == 2


def test_help_says_what_there_is(program: Path) -> None:
    for words in ([], ["--help"], ["-h"]):
        done = ran(program, *words)
        assert done.code == 0
        assert all(
            option in done.out for option in ("--self-test", "--bench N", "--threads N", "--bundle DIR", "--json")
        )


def test_without_the_library_something_is_missing(program: Path, plane: Path, tmp_path: Path) -> None:
    alone = shutil.copy(program, tmp_path / "runner")
    done = ran(Path(alone), "--bundle", plane, "--self-test")
    assert done.code == 3
    assert "libonnxruntime.so" in done.err


def test_a_table_of_measurements_is_what_calibrate_reads(program: Path, digits: Path, tmp_path: Path) -> None:
    target = load_target("desktop_cpu")
    stack = target.stack(str(read_manifest(digits)["stack"]).partition("/")[2])
    beside = tmp_path / "run"
    shutil.copytree(program.parent, beside, symlinks=True)
    for facts in (False, True):
        if facts:
            write_facts(beside, stack)
        table = digits.parent / "rows.csv"
        table.write_text(ran(beside / "runner", "--bundle", digits, "--bench", "5").out)
        rows = read_rows(table, target, stack)
        assert not rows.set_aside
        assert [row.input_shape for row in rows.rows] == ["1x1x8x8"]
        assert 0 < rows.rows[0].latency_s < 1
    here = json.loads(ran(beside / "runner", "--bundle", digits, "--bench", "5", "--json").out)
    there = json.loads(run_by_python("--bundle", digits, "--bench", "5", "--json").out)
    assert {**here, "latency_s": 0} == {**there, "latency_s": 0}
