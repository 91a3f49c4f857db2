"""The search beside its peers, at equal evaluations: `python -m toolkit.bench.search [--json]`. Wants the extra
`bench`.

Problems are tables of deployments (`tables`), each on three targets, and a synthetic network that no table holds.
"""
