"""Weights files and model folders: reading, converting, downloading and saving them.

`load` is the entry point: it turns a preset name, a folder or a file of any supported format into a configuration with
a complete state dict. `native` is our own format, `formats` contains a reader for each other project, `safe_pickle`
reads `.pth` and `.pkl` files without executing them, `structure` and `infer` derive a configuration from shapes, `fit`
compares weights with a model, `zoo` and `download` download released weights. Nothing here trains or predicts.
"""
