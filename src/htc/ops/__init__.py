"""Operators on tensors: boxes, suppression, pooling of regions, masks and their run lengths.

A function belongs here if its inputs and outputs are tensors or arrays and it would make sense in any detector: it
knows no configuration, no module with parameters, no file and no annotation format. Shapes, units and value ranges
are in the signatures and docstrings.
"""
