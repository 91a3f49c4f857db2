"""Boards emulated on this machine: their core, their /proc and /sys, a Python of their architecture with runtimes."""
