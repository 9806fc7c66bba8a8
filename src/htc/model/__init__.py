"""The network: one module per box of the paper's figure, from the backbone to detections in pixels of the network
input.

`cascade.py` implements the paper's Eqs. 1-6, `detector.py` the four public steps; `build.py` builds the parts that a
configuration selects. Nothing here reads images or files, samples RoIs or computes a loss.
"""
