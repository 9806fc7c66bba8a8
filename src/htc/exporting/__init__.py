"""Export of a model to another runtime, with a certificate of what the written file computes.

`graph` makes one program of the detector, the modules of the formats write it, `certificate` compares the file in its
runtime with the model, `export` is the public function. Sessions are opened in `htc.inference.runtimes`.
"""
