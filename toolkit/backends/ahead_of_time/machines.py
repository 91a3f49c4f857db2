"""Processors that programs are compiled for: what TVM, a C compiler and QEMU call each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["MACHINES", "Machine", "Vectors"]


class Vectors(NamedTuple):
    """float32 in a register, and whether the compiler vectorizes plain loops over them by itself.

    It must not on 32-bit ARM, whose vector unit rounds tiny numbers to zero; asked for vectors, it uses them.
    """

    lanes: int
    automatic: bool = True


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A processor under Linux.

    Args:
        name: Architecture and core.
        triple: As LLVM writes it, with a vendor: without one it takes `linux` for the vendor, and calls helpers of
            another convention than that of the C library.
        cpu: As LLVM writes it.
        vectors: What loops are arranged for.
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
    vectors: Vectors
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
        triple="aarch64-unknown-linux-gnu",
        cpu=cpu,
        vectors=Vectors(4),
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
        triple="armv7-unknown-linux-gnueabihf",
        cpu="cortex-a7",
        vectors=Vectors(4, automatic=False),
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
        triple="x86_64-unknown-linux-gnu",
        cpu="x86-64-v3",
        vectors=Vectors(8),
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
