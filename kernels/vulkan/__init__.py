"""Kernels in WGSL on any Vulkan device, integrated ones included, through wgpu; arrays are numpy's.

The shaders lie beside the operator's other forms: `kernels/<operator>/*.wgsl`.
"""

from kernels.vulkan.device import Array, Device, DeviceLost, Pending, open_device
from kernels.vulkan.forms import attention, bk_core, gray_scott, matmul
from kernels.vulkan.streaming import streamed

__all__ = [
    "Array",
    "Device",
    "DeviceLost",
    "Pending",
    "attention",
    "bk_core",
    "gray_scott",
    "matmul",
    "open_device",
    "streamed",
]
