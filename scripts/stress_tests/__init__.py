"""Stress tests: faults on purpose, thousands of them, one module a kind. `scripts/stress --help` lists the kinds.

`harness` runs the cases in worker processes and records crashes, hangs and too much memory; `kinds` lists the stress
tests; `samples` makes the models, datasets and random masks that they share.
"""
