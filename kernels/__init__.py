"""The operators that the training side is built on: a reference beside every fast form. Imports nothing of ours.

None has landed yet; this file holds the one error that they share.
"""

__all__ = ["KernelUnavailable"]


class KernelUnavailable(RuntimeError):
    """No implementation of an operator runs on this device with what is installed."""
