"""Checks of datasets, for `htc doctor` and before the first step of a training.

Contains the checks (each yields `Finding`s), the catalogue of their codes (`kinds`), the examination that runs them,
its report, page and JSON, and the repair of an annotation file. Reading annotations belongs to `htc.data`.
"""
