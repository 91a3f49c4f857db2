"""What a network's operators cost on a device: profiles, stacks, workloads, estimates, verdicts.

Imports nothing of ours, and nothing heavy: a profile is a data file, a cost model a pure function. Names are imported
from the module that has the idea (`from targets.cost import estimate`), so that each brings only what it needs.
"""
