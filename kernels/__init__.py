"""The operators that the training side is built on: each folder a reference, a Triton form and what chooses between.

Imports nothing of ours. `kernels.registry` lists the operators, and says which form runs for a call, and why.
"""

from kernels.dispatch import KernelUnavailable

__all__ = ["KernelUnavailable"]
