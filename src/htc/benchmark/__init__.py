"""Benchmarks: speed and memory of a model on this machine, by component and in comparisons on equal work."""
