"""Fault finding in datasets: what `htc doctor` reports and what training checks before its first step.

Here belong the checks (each yields `Finding`s), the catalogue of their codes (`kinds`), the examination that runs them,
its report, page and JSON, and the repair of an annotation file. Reading annotations belongs to `htc.data`.
"""
