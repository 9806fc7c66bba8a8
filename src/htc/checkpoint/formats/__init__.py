"""Readers of other projects' weights, one module per project.

Each reader maps the project's parameter names, row order and settings to ours: it takes the tensors of a file
(`htc.checkpoint.stored`) and returns `ConvertedWeights` (`base`). `imagenet` reads classifiers for backbones.
"""
