"""The bench's peers: what goes to another interpreter and comes back, and what is said where there is none."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from passes.dataset import Dataset
from targets.errors import MissingDependency
from toolkit.bench import foreign, peers
from toolkit.bench.peers import Peer

pytestmark = pytest.mark.slow

DATA = Dataset.of_arrays("noise", {"x": np.arange(6, dtype=np.float32).reshape(3, 2)})

# What a library's interpreter is asked: once whether it has the library, then to run the script.
TOLD = """#!/bin/sh
if [ "$2" = "-c" ]; then case "$3" in *nncf*) exit 0;; *) exit 1;; esac; fi
echo "$@" > {folder}/told
cp "$6" {folder}/calibration.npz
{body}
"""


def interpreter(folder: Path, body: str) -> Path:
    path = folder / "python"
    path.write_text(TOLD.format(folder=folder, body=body), "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def peer(name: str, *pythons: Path) -> Peer:
    return next(one for one in peers.peers(pythons) if one.name == name)


def test_files_go_over_and_one_comes_back(tmp_path: Path) -> None:
    python = interpreter(tmp_path, '(cat "$5"; echo " in integers") > "$7"')
    assert peer("nncf, mixed", python).quantize(b"a graph", DATA) == b"a graph in integers\n"
    flag, script, library, setting, *_ = (tmp_path / "told").read_text().split()
    assert (flag, Path(script).name, library, setting) == ("-I", "foreign.py", "nncf", "mixed")
    (sent,) = np.load(tmp_path / "calibration.npz").values()
    np.testing.assert_array_equal(sent, np.arange(6).reshape(3, 1, 2))


def test_an_absent_library_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.sys, "executable", "/bin/false")
    python = interpreter(tmp_path, "")
    with pytest.raises(MissingDependency, match="aimet-onnx is not installed") as absent:
        peer("aimet-onnx, default", python).quantize(b"", DATA)
    assert "--peer-python" in absent.value.hint


def test_a_library_that_fails_is_quoted(tmp_path: Path) -> None:
    python = interpreter(tmp_path, "echo 'ValueError: no such operator' >&2; exit 1")
    with pytest.raises(MissingDependency, match="nncf failed: ValueError: no such operator"):
        peer("nncf, default", python).quantize(b"", DATA)


def test_one_that_ends_well_without_a_file_failed(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="nothing was said"):
        peer("nncf, default", interpreter(tmp_path, "")).quantize(b"", DATA)


def test_one_that_never_ends_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_LONGEST_S", 0.2)
    with pytest.raises(MissingDependency, match="not done after"):
        peer("nncf, default", interpreter(tmp_path, "exec sleep 60")).quantize(b"", DATA)


# ---- the script in that interpreter


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a stand-in for NNCF was called with; it gives the graph back under another name."""
    found: dict[str, Any] = {}

    def quantize(model: onnx.ModelProto, data: Any, **settings: Any) -> onnx.ModelProto:
        found.update(settings, samples=data)
        model.graph.name = "quantized"
        return model

    library = ModuleType("nncf")
    library.__dict__.update(
        quantize=quantize,
        Dataset=list,
        QuantizationPreset=SimpleNamespace(MIXED="mixed"),
        TargetDevice=SimpleNamespace(CPU="cpu"),
        ModelType=SimpleNamespace(TRANSFORMER="transformer"),
    )
    monkeypatch.setitem(sys.modules, "nncf", library)
    monkeypatch.setenv("NNCF_CI", "")
    return found


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("default", {}),
        ("mixed", {"preset": "mixed"}),
        ("accurate bias", {"preset": "mixed", "fast_bias_correction": False}),
        ("transformer", {"model_type": "transformer"}),
    ],
)
def test_the_script_names_samples_as_the_graph_does(
    setting: str, expected: dict[str, Any], told: dict[str, Any], tmp_path: Path
) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,2] a, float[1,2] b) => (float[1,2] y) { y = Add(a, b) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", **{"000": np.zeros((3, 1, 2)), "001": np.ones((3, 1, 2))})
    foreign.main("nncf", setting, *(str(tmp_path / name) for name in ("m.onnx", "c.npz", "q.onnx")))
    samples = told.pop("samples")
    assert [sorted(sample) for sample in samples] == [["a", "b"]] * 3
    np.testing.assert_array_equal(samples[0]["b"], np.ones((1, 2)))
    assert told == {"target_device": "cpu", "subset_size": 3, **expected}
    assert onnx.load(tmp_path / "q.onnx").graph.name == "quantized"


def test_every_library_of_the_script_is_known_to_the_bench() -> None:
    assert set(foreign.LIBRARIES) == set(foreign.SETTINGS) == set(peers._DISTRIBUTIONS)
