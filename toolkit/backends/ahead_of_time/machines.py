"""Processors that programs are compiled for: what TVM, a C compiler and QEMU call each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MACHINES", "Machine"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A processor under Linux.

    Args:
        name: Architecture and core.
        triple: As LLVM and Debian's cross compilers write it.
        cpu: As LLVM writes it.
        lanes: float32 in a vector register.
        float_abi: For LLVM, where the triple leaves it open.
        features: Instruction set extensions for LLVM, `+name` or `-name`.
        c_flags: The same choice for the C compiler.
        zig: The triple of `zig cc`, whose C library is linked statically.
        emulator: QEMU's user mode program; its `-cpu` is `emulated_cpu`.
        cross_compiler: As Debian names the program.
        package: Debian's package that holds it.
    """

    name: str
    triple: str
    cpu: str
    lanes: int
    float_abi: str = ""
    features: tuple[str, ...] = ()
    c_flags: tuple[str, ...]
    zig: str
    emulator: str
    emulated_cpu: str
    cross_compiler: str
    package: str

    @property
    def architecture(self) -> str:
        return self.triple.split("-")[0]


def _arm64(cpu: str) -> Machine:
    return Machine(
        name=f"aarch64-{cpu}",
        triple="aarch64-linux-gnu",
        cpu=cpu,
        lanes=4,
        c_flags=(f"-mcpu={cpu}",),
        zig="aarch64-linux-musl",
        emulator="qemu-aarch64-static",
        emulated_cpu=cpu,
        cross_compiler="aarch64-linux-gnu-gcc",
        package="gcc-aarch64-linux-gnu",
    )


_ALL = (
    _arm64("cortex-a53"),
    _arm64("cortex-a57"),
    _arm64("cortex-a72"),
    _arm64("cortex-a76"),
    Machine(
        name="armv7-cortex-a7",
        triple="armv7-linux-gnueabihf",
        cpu="cortex-a7",
        lanes=4,
        float_abi="hard",
        features=("+neon", "+vfp4"),
        c_flags=("-mcpu=cortex-a7", "-mfpu=neon-vfpv4", "-mfloat-abi=hard"),
        zig="arm-linux-musleabihf",
        emulator="qemu-arm-static",
        emulated_cpu="cortex-a7",
        cross_compiler="arm-linux-gnueabihf-gcc",
        package="gcc-arm-linux-gnueabihf",
    ),
    Machine(
        name="x86_64",
        triple="x86_64-linux-gnu",
        cpu="x86-64-v3",
        lanes=8,
        c_flags=("-march=x86-64-v3",),
        zig="x86_64-linux-musl",
        emulator="qemu-x86_64-static",
        emulated_cpu="Haswell",
        cross_compiler="x86_64-linux-gnu-gcc",
        package="gcc",
    ),
)

MACHINES: Mapping[str, Machine] = {machine.name: machine for machine in _ALL}
"""By name."""
