"""What is frozen: entry, what is left out, and what is taken along, for each of the two programs. Read by their specs.

`pyinstaller packaging/runner.spec` and `packaging/cli.spec` make them on Linux, Windows and macOS.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CLI", "RUNNER", "Frozen"]

_Entry = tuple[str, str, str]
"""A file as PyInstaller lists it: name in the program, source, kind."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A program.

    Args:
        variable: Its name in this module, for specs.
        name: Of the executable; Windows adds .exe.
        steps: Lines that PyInstaller tells, about: how far it is follows from that.
        entry: Its module, below `toolkit`.
        one_file: PyInstaller makes one file of it, which unpacks itself when it starts; else a folder.
        excludes: Modules that are found from the entry, and never reached when it runs.
        collect: Packages whose data files it reads.
        by_path: Packages that put their own folder on the path of modules.
        submodules: Packages whose modules are imported by name.
        libraries: Packages whose shared libraries are opened by name.
        sources: Packages that read their own source text.
        metadata: Distributions whose versions are asked for, with all that they require.
        drops: Files that no module asks for, as patterns of names.
        terse: Without documentation strings and assertions, as `python -OO`: there is less to load.
    """

    variable: str
    name: str
    entry: str
    one_file: bool
    steps: int
    excludes: tuple[str, ...] = ()
    collect: tuple[str, ...] = ()
    by_path: tuple[str, ...] = ()
    submodules: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    terse: bool = False

    @property
    def file(self) -> str:
        """The executable's name on this system."""
        return f"{self.name}.exe" if sys.platform == "win32" else self.name

    def build(self) -> None:
        """What a spec does; runs inside PyInstaller alone."""
        from PyInstaller.building.api import COLLECT, EXE, PYZ
        from PyInstaller.building.build_main import Analysis
        from PyInstaller.config import CONF

        found = Analysis(**self._analysis())
        files = self._files([*found.binaries, *found.datas], Path(CONF["workpath"]))
        inside, beside = (files, []) if self.one_file else ([], files)
        program = EXE(
            PYZ(found.pure), found.scripts, inside, name=self.name, console=True, exclude_binaries=not self.one_file
        )
        if beside:
            COLLECT(program, beside, name=self.name)

    def _analysis(self) -> dict[str, Any]:
        from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs, collect_submodules, copy_metadata

        home = Path(__file__).parents[1]
        return {
            "scripts": [str(home / self.entry)],
            "pathex": [str(home.parent)],
            "excludes": list(self.excludes),
            "binaries": [pair for package in self.libraries for pair in collect_dynamic_libs(package)],
            "datas": [pair for package in self.collect for pair in collect_data_files(package)]
            + [pair for package in self.by_path for pair in collect_data_files(package, include_py_files=True)]
            + [pair for name in self.metadata for pair in copy_metadata(name, recursive=True)],
            "hiddenimports": [name for package in self.submodules for name in collect_submodules(package)],
            "module_collection_mode": dict.fromkeys(self.sources, "pyz+py"),
            "optimize": 2 if self.terse else 0,
        }

    def _files(self, found: Iterable[_Entry], scratch: Path) -> list[_Entry]:
        """What goes along of the libraries and data that were found; Python's own library without its symbols."""
        kept = [entry for entry in found if not any(re.search(pattern, entry[0]) for pattern in self.drops)]
        return [(name, _stripped(source, scratch) if _is_python(name) else source, kind) for name, source, kind in kept]


def _is_python(name: str) -> bool:
    return sys.platform == "linux" and name.startswith("libpython")


def _stripped(source: str, scratch: Path) -> str:
    """A copy without symbols, where there is a `strip`. The libraries of wheels are damaged by it, and stay."""
    if not shutil.which("strip"):
        return source
    copy = scratch / Path(source).name
    subprocess.run(["strip", "--strip-unneeded", "-o", str(copy), source], check=True)
    return str(copy)


_HEAVY = (
    "IPython", "ai_edge_litert", "cryptography", "efficientnet_lite_pytorch", "flatbuffers", "google", "jinja2",
    "ml_dtypes", "onnx", "onnx_ir", "onnxscript", "packaging", "pydantic", "pydantic_core", "rich", "safetensors",
    "scipy", "skimage", "sklearn", "sympy", "torch", "tvm", "typer", "yaml",
)  # fmt: skip
_UNUSED = (
    "PIL.AvifImagePlugin", "PIL.ImageCms", "PIL.ImageQt", "PIL.ImageShow", "PIL.ImageTk", "PIL._avif",
    "PIL._imagingcms", "PIL._imagingft", "PIL._imagingtk", "_ssl", "asyncio", "lib2to3", "multiprocessing",
    "numpy.f2py", "numpy.fft", "numpy.ma", "numpy.polynomial", "numpy.random", "numpy.testing",
    "onnxruntime.quantization", "onnxruntime.tools", "onnxruntime.transformers", "pdb", "pydoc", "pydoc_data",
    "readline", "setuptools", "sqlite3", "ssl", "tkinter", "unittest", "xmlrpc",
)  # fmt: skip

_OURS = ("passes.recipe", "toolkit.backends", "toolkit.bundle.bundle", "toolkit.cli", "toolkit.driver")
"""Named for type checkers alone in what the runner imports."""

RUNNER = Frozen(
    variable="RUNNER",
    name="runner",
    entry="runner/__main__.py",
    one_file=sys.platform != "linux",  # there it is packed by toolkit.standalone.one_file, which starts faster
    steps=70,
    excludes=_HEAVY + _UNUSED + _OURS,
    collect=("targets",),
    drops=(r"^onnxruntime/capi/libonnxruntime\.so", r"^libreadline", r"^libtinfo", r"_tests\.cpython"),
    terse=True,
)
"""Runs the bundle around it. Its answers come from onnxruntime, whatever the device has."""

CLI = Frozen(
    variable="CLI",
    name="toolkit",
    entry="cli/main.py",
    one_file=False,
    steps=600,
    excludes=("IPython", "aeon", "efficientnet_lite_pytorch", "facenet_pytorch", "matplotlib", "mlxtend", "numba",
              "pandas", "pytest", "skimage", "tensorboard", "tkinter"),
    collect=("kernels", "onnx", "onnxruntime", "onnxscript", "passes", "targets", "toolkit", "tvm"),
    by_path=("onnxruntime.transformers",),
    submodules=("kernels", "passes", "targets", "toolkit"),
    libraries=("tvm", "tvm_ffi"),
    sources=("kernels", "onnxscript", "passes", "targets", "toolkit"),
    metadata=("edge-toolkit", "ai-edge-litert", "torch-pruning"),
    drops=(r"^onnxruntime/capi/libonnxruntime\.so", r"^torch/bin/(?!torch_shm)", r"^torch/(include|share|test)/",
           r"^tvm/3rdparty/"),
)  # fmt: skip
"""The whole command line, torch included."""
