"""The C runner's readers on thousands of damaged files: one line and exit code 5, or a file that is still readable."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.toolkit.standalone.c_programs import (
    ENVIRONMENT,
    bundle_of,
    model_of,
    read_manifest,
    sanitized,
    write_manifest,
)
from toolkit.bundle.hashes import hashes_of
from toolkit.rng import generator

pytestmark = pytest.mark.slow

COUNT = 700
"""Damaged files of each kind."""


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that gives each file to a reader, in a process of its own."""
    beside = Path(__file__).with_name("readers.c")
    return sanitized(tmp_path_factory.mktemp("readers") / "readers", without="main.c", beside=[beside])


def read(readers: Path, kind: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    words = [readers, kind, *paths]
    return subprocess.run(words, capture_output=True, check=True, env=ENVIRONMENT, encoding="utf-8", timeout=300)


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(12, dtype=np.float32).reshape(1, 3, 4))
    return stream.getvalue()


def npz(*, packed: bool) -> bytes:
    stream = io.BytesIO()
    save = np.savez_compressed if packed else np.savez
    save(stream, a=np.arange(12, dtype=np.int8), b=np.zeros((2, 3)))
    return stream.getvalue()


def wav() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(generator(0, "wav").bytes(64))
    return stream.getvalue()


def png(mode: str) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(generator(0, mode).integers(0, 256, (6, 5, 3), np.uint8))
    (image.quantize(5) if mode == "P" else image.convert(mode)).save(stream, "png")
    return stream.getvalue()


def manifest() -> bytes:
    document = {"schema": "toolkit.bundle/1", "é\n": [1.5e3, -2, True, None, {"a": "\u2028\\"}], "sha256": {}}
    return json.dumps(document).encode() + json.dumps(document, ensure_ascii=False).encode()


SEEDS: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "npy": ("npy", npy),
    "npz": ("npz", lambda: npz(packed=False)),
    "npz, packed": ("npz", lambda: npz(packed=True)),
    "wav": ("wav", wav),
    "png, RGB": ("png", lambda: png("RGB")),
    "png, palette": ("png", lambda: png("P")),
    "json": ("json", manifest),
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One to four bytes changed, or a piece cut out, doubled, or cut off."""
    made, kind = bytearray(content), rng.integers(0, 6)
    start, end = sorted(rng.integers(0, len(made) + 1, 2).tolist())
    if kind < 3:
        for place in rng.integers(0, len(made), rng.integers(1, 5)):
            made[place] = rng.choice([0, 1, 255, 127, 128, int(rng.integers(0, 256))])
    elif kind == 3:
        del made[start:end]
    elif kind == 4:
        made[start:start] = made[start:end]
    else:
        del made[end:]
    return bytes(made)


def mended(content: bytes) -> bytes:
    """A PNG whose checksums fit what was damaged, so that what lies behind them is read."""
    import zlib

    made, at = bytearray(content), 8
    while at + 12 <= len(made):
        end = at + 8 + int.from_bytes(made[at : at + 4], "big")
        if end + 4 > len(made):
            break
        made[end : end + 4] = zlib.crc32(made[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(made)


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files_are_refused_or_read_and_never_crash(readers: Path, name: str, tmp_path: Path) -> None:
    kind, seed = SEEDS[name]
    rng = generator(0, f"damage of {name}")
    paths = []
    for i in range(COUNT):
        content = damaged(seed(), rng)
        paths.append(tmp_path / f"{i}")
        paths[-1].write_bytes(mended(content) if kind == "png" and i % 2 else content)
    done = read(readers, kind, *paths)
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == COUNT
    assert set(codes) <= {0, 5}, [path for path, code in zip(paths, codes, strict=True) if code not in (0, 5)]
    assert codes.count(5) > COUNT // 10
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * codes.count(5)
    assert all(line.startswith(("error: ", "  next: ")) for line in lines)


def test_hashes_are_those_of_hashlib(readers: Path, tmp_path: Path) -> None:
    """At every length where the padding changes, and where a part of the file ends."""
    sizes = [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 128, 2**16 - 9, 2**16 - 8, 2**16, 2**16 + 1, 2**17, 200_000]
    contents = [generator(0, f"{size} bytes").bytes(size) for size in sizes]
    paths = [tmp_path / f"{size}" for size in sizes]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    lines = read(readers, "sha256", *paths).stdout.splitlines()
    assert lines == [f"{hashlib.sha256(content).hexdigest()} 0" for content in contents]


def twisted(value: Any, rng: np.random.Generator) -> Any:
    """A part of a document, or of what lies below it, replaced by another of any kind."""
    below = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    if not below or rng.random() < 0.1:
        return [None, True, -1, 1.5, 1e300, "", "x", "mean=1/2", "a" * 300, [], {}, [[]], 2**40][rng.integers(0, 13)]
    place = below[rng.integers(0, len(below))]
    made = value.copy()
    made[place] = twisted(made[place], rng)
    return made


def test_bundles_that_were_twisted_are_refused_or_read(readers: Path, tmp_path: Path) -> None:
    """Hashes fit: what is wrong is found by what reads it."""
    spec = {"x": ("float32", (1, 3, 4, 5))}
    sample = {"x": np.zeros((1, 3, 4, 5), np.float32)}
    model = model_of("Identity", spec, {"y": spec["x"]})
    bundle = bundle_of(tmp_path / "b", model, [sample] * 2, preprocessing="resize=256/224,crop=center,mean=1/2/3,std=4")
    rng = generator(0, "twisted")
    folders = [tmp_path / f"{i}" for i in range(COUNT)]
    for i, folder in enumerate(folders):
        shutil.copytree(bundle, folder)
        manifest = read_manifest(folder)
        if i % 3:
            content = json.dumps(twisted({**manifest, "sha256": hashes_of(folder)}, rng))
            (folder / "manifest.json").write_text(content)
        else:
            (folder / "golden.npz").write_bytes(damaged((bundle / "golden.npz").read_bytes(), rng))
            write_manifest(folder, manifest)
    done = read(readers, "bundle", bundle, *folders)
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) == COUNT + 1
    assert codes[0] == 0
    assert set(codes) <= {0, 2, 5}, [
        f for f, code in zip([bundle, *folders], codes, strict=True) if code not in (0, 2, 5)
    ]


@pytest.mark.parametrize("name", ["npy", "npz", "npz, packed", "wav", "png, RGB", "png, palette"])
def test_what_is_whole_is_read(readers: Path, name: str, tmp_path: Path) -> None:
    kind, seed = SEEDS[name]
    (tmp_path / "x").write_bytes(seed())
    done = read(readers, kind, tmp_path / "x")
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1,]", '{"a":1,}', "01", "1.", ".5", "1e", "+1", "nul", '"\\x"', '"\\ud800"', '"\\u0000"', '"\t"',
        "[1] 2", "NaN", "[" * 100 + "]" * 100, "'a'", '{"a" 1}', '{1: 2}', '"\ufeff', '"\\u12G4"',
    ],
)  # fmt: skip
def test_what_is_not_strict_json_is_refused(readers: Path, text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(text, "utf-8")
    done = subprocess.run(
        [readers, "json", tmp_path / "x"], capture_output=True, check=True, env=ENVIRONMENT, text=True
    )
    assert done.stdout == "5\n"


@pytest.mark.parametrize("content", [b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf5\x80\x80\x80"', b'"\xe2\x82"'])
def test_what_is_not_unicode_is_refused(readers: Path, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    done = subprocess.run(
        [readers, "json", tmp_path / "x"], capture_output=True, check=True, env=ENVIRONMENT, text=True
    )
    assert done.stdout == "5\n"
