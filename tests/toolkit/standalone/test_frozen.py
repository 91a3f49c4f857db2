"""The frozen runner: one file that needs a C library and nothing else of the machine it is put on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import toolkit
from targets.errors import MissingDependency
from toolkit.cli.main import main
from toolkit.standalone import freezing

SYSTEM = ("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1", "libz.so.1")
KERNEL = ("/proc/cpuinfo", *(f"/sys/devices/system/cpu/{name}" for name in ("kernel_max", "possible", "present")))
"""What every kernel says of its processor, and onnxruntime chooses its kernels by."""
LARGEST_BYTES = 50_000_000
PACKAGING = Path(__file__).parents[3] / "packaging"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system with glibc, zlib and a bundle with its runner, and nothing else."""
    folder = tmp_path_factory.mktemp("root")
    toolkit.compile("digits", target="desktop_cpu", output=folder / "bundle", standalone=True)
    libraries = folder / "lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (folder / "lib64").mkdir()
    (folder / "tmp").mkdir()
    for name in SYSTEM:
        shutil.copy(Path("/lib/x86_64-linux-gnu", name), libraries)
    shutil.copy("/lib64/ld-linux-x86-64.so.2", folder / "lib64")
    for name in KERNEL:
        copy = folder / name.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(Path(name).read_text())
    return folder


def confined(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The runner inside `root`, without a single variable of this environment."""
    change = ["chroot"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "chroot"]
    words = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *change, str(root), "/bundle/run/runner", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a chroot of glibc exists on Linux")
def test_it_runs_where_there_is_a_c_library_alone(root: Path) -> None:
    tested = confined(root, "--self-test", "--json")
    assert (tested.returncode, tested.stderr) == (0, "")
    assert json.loads(tested.stdout)["passed"] is True

    with np.load(root / "bundle/golden.npz") as golden:
        np.save(root / "tmp/image.npy", golden["0/input/image"])
        want = golden["0/output/output"]
    answered = confined(root, "/tmp/image.npy", "--json")
    np.testing.assert_allclose(json.loads(answered.stdout)["outputs"]["output"], want, rtol=1e-6)

    assert "--self-test" in confined(root, "--help").stdout
    assert confined(root, "--bench", "2").stdout.startswith("id,device,")
    gone = confined(root, "/tmp/gone.npy")
    assert (gone.returncode, gone.stderr.splitlines()[0]) == (
        5,
        "error: cannot read data /tmp/gone.npy: No such file or directory",
    )
    assert not list((root / "tmp").glob("runner-*"))


@pytest.mark.slow
def test_it_is_small_carries_its_licences_and_is_hashed(root: Path) -> None:
    folder = root / "bundle"
    assert (folder / "run/runner").stat().st_size < LARGEST_BYTES
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"run/runner", "run/LICENSES.txt", "sbom.cdx.json"} <= set(manifest["sha256"])
    licences = (folder / "run/LICENSES.txt").read_text()
    for name in ("python", "openssl", "numpy", "onnxruntime", "pillow", "pyinstaller", "edge-toolkit"):
        assert f"\n{name} " in f"\n{licences}"
    bill = json.loads((folder / "sbom.cdx.json").read_text())
    inside = {part["name"] for part in bill["components"] if part["type"] == "library"}
    assert inside == {"python", "openssl", "numpy", "onnxruntime", "pillow", "pyinstaller", "edge-toolkit"}
    assert main(["verify", str(folder)]) == 0


@pytest.mark.slow
def test_it_is_made_once_and_has_the_same_bytes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = freezing.frozen_runner()
    assert kept.read_bytes() == (root / "bundle/run/runner").read_bytes()
    monkeypatch.setattr(freezing, "_pyinstaller", None)  # would be called where it had to be made
    assert freezing.frozen_runner() == kept


@pytest.mark.parametrize("name", ["runner", "cli"])
def test_specs_build_what_the_package_says(name: str) -> None:
    program = name.upper()
    assert (PACKAGING / f"{name}.spec").read_text().splitlines() == [
        f"# pyinstaller packaging/{name}.spec", f"from toolkit.standalone.frozen import {program}", "",
        f"{program}.build()",
    ]  # fmt: skip


def test_what_freezes_is_asked_for_before_any_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="PyInstaller") as refusal:
        toolkit.compile("digits", target="desktop_cpu", output=tmp_path / "b", standalone=True)
    assert "edge-toolkit[package]" in refusal.value.hint
    assert not (tmp_path / "b").exists()
