"""Alternatives to a part of the network, one idea a module: each is a variant of a typed union in `htc.config`.

`htc.model.build` composes them; the plain parts do not mention them.
"""
