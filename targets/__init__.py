"""What a network's operators cost on a device: profiles, stacks, workloads, estimates, verdicts.

Imports nothing of ours, and nothing heavy: a profile is a data file, a cost model a pure function.
"""

from targets.cost import estimate
from targets.errors import (
    InvalidInput,
    MissingDependency,
    ToolkitError,
    UnknownName,
    UsageError,
)
from targets.estimate import Estimate, OperatorCost
from targets.stack import QuantFormat, Stack
from targets.target import Target, load_target, target_names
from targets.verdict import Limits, Verdict, judge
from targets.workload import Operator, Workload

__all__ = [
    "Estimate",
    "InvalidInput",
    "Limits",
    "MissingDependency",
    "Operator",
    "OperatorCost",
    "QuantFormat",
    "Stack",
    "Target",
    "ToolkitError",
    "UnknownName",
    "UsageError",
    "Verdict",
    "Workload",
    "estimate",
    "judge",
    "load_target",
    "target_names",
]
