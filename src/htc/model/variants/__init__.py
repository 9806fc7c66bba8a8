"""Alternatives to parts of the network, one idea per module: each is a variant of a typed union in `htc.config`.

`htc.model.build` composes them; the plain parts do not refer to them.
"""
