"""Every test run has cache and configuration folders of its own and leaves the user's alone."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import tempfile
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: threads of several workers wait for one another
_config = tempfile.TemporaryDirectory(prefix="toolkit-config-")
os.environ["TOOLKIT_CONFIG"] = _config.name  # before tests are collected: they ask for targets then


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="rewrite tests/replay/*.txt with what is compiled now")


def pytest_configure(config: pytest.Config) -> None:
    """The fast tests try a quarter of the examples of a property that says no number of its own."""
    settings.register_profile("fast", max_examples=settings().max_examples // 4)
    if config.getoption("markexpr") == "not slow":
        settings.load_profile("fast")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slow tests try properties again, with all examples."""
    if config.getoption("markexpr") == "slow":
        for item in items:
            if hasattr(getattr(item, "obj", None), "hypothesis"):
                item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests live as long as the run: no look for garbage while they are loaded, nor through them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        gc.enable()
        atexit.register(gc.unfreeze)  # libraries count at the end what was not given back


@pytest.fixture(autouse=True)
def _same_numbers_in_whatever_order() -> None:
    """A test that draws from torch's own generator draws the same alone and after any other."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("TOOLKIT_CACHE")
    os.environ["TOOLKIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TOOLKIT_CACHE"]
    else:
        os.environ["TOOLKIT_CACHE"] = before
