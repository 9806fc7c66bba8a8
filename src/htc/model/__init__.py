"""The network: one module a box of the paper's figure, from the backbone to the detections of the network input.

`cascade.py` is the paper's Eqs. 1-6, `detector.py` the four public steps, `build.py` composes what a configuration
names. Nothing here reads images or files, samples RoIs or computes a loss.
"""
