"""Operators on tensors: boxes, non-maximum suppression, RoI pooling, masks and their run-length encoding.

A function belongs here if its inputs and outputs are tensors or arrays and any detector could use it: it knows no
configuration, no module with parameters, no file and no annotation format. Shapes, units and value ranges are in the
signatures and docstrings.
"""
