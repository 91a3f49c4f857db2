"""onnxruntime's WebGPU provider, which comes from a distribution of its own; on Linux it computes through Vulkan."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from targets.errors import MissingDependency

__all__ = ["DISTRIBUTION", "DRIVER", "last_words", "webgpu_devices"]

DISTRIBUTION = "onnxruntime-ep-webgpu"
DRIVER = "apt-get install libvulkan1 mesa-vulkan-drivers, or the vendor's driver"
"""What brings a Vulkan device on Debian; the software driver among Mesa's, lavapipe, is refused by the provider."""

_PROVIDER = "WebGpuExecutionProvider"
_ALLOW_SOFTWARE = "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"


def webgpu_devices(ort: Any) -> list[Any]:
    """What `SessionOptions.add_provider_for_devices` takes; the provider is registered once a process.

    Software drivers are let in, and GPUs that onnxruntime does not list by itself: the provider chooses.

    Raises:
        MissingDependency: the distribution is not installed, or this onnxruntime cannot load it.
    """
    if found := _registered(ort):
        return found
    try:
        plugin = import_module("onnxruntime_ep_webgpu")
    except ImportError as error:
        raise MissingDependency(
            f"this onnxruntime runs graphs on cpu, not on webgpu: {DISTRIBUTION} is not installed",
            hint=f"pip install {DISTRIBUTION}; on Linux also {DRIVER}",
        ) from error
    os.environ.setdefault(_ALLOW_SOFTWARE, "1")
    ort.set_default_logger_severity(4)  # else it warns of that
    try:
        ort.register_execution_provider_library(_PROVIDER, plugin.get_library_path())
    except Exception as error:
        raise MissingDependency(
            f"onnxruntime {ort.__version__} cannot load {DISTRIBUTION}: {last_words(error)}",
            hint=f"pip install --upgrade {DISTRIBUTION} onnxruntime; on Linux it needs Vulkan's loader: {DRIVER}",
        ) from error
    if found := _registered(ort):
        return found
    raise MissingDependency(f"{DISTRIBUTION} finds no device", hint=DRIVER)


def last_words(error: Exception) -> str:
    """The end of a long message, from a word on: onnxruntime begins with where in its source it failed."""
    words = " ".join(str(error).split())
    return words if len(words) <= 200 else words[-200:].partition(" ")[2]


def _registered(ort: Any) -> list[Any]:
    """Not more than one: the provider takes no second."""
    return [device for device in ort.get_ep_devices() if device.ep_name == _PROVIDER][:1]
