"""Weights files and model folders: reading, converting, downloading and saving them.

`load` is the way in: a preset name, a folder or a file of any supported format becomes a configuration with a complete
state dict. `native` is our own format, `formats` holds one reader for each other project, `safe_pickle` reads `.pth`
and `.pkl` files without running them, `structure` and `infer` derive a configuration from shapes, `fit` compares
weights with a model, `zoo` and `download` fetch released weights. Nothing here trains or predicts.
"""
