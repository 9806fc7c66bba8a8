"""A restricted reader of pickles of `torch.save` and NumPy, which never executes code.

`values` lists the names that a pickle may use and the inert objects they become, `unpickle` interprets the opcodes,
`torch_file` and `numpy_arrays` read the two kinds of files.
"""
