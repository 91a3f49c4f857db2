"""Ablations of the organism: each switches one thing, on the same data, start and seeds in all of its arms.

    python -m toolkit.bench.ablation [NAME ...] [--preset smoke|quick|cpu|h100] [--seeds N] [--json]

An ablation is one file here that holds `ABLATION`: its arms, a `run` from a seed to what each arm measured, and the
contrasts that decide. What was kept lies in `recorded`, and as a table in `toolkit/bench/RESULTS.md`.
"""
