"""Training: from a batch to its losses, and from a dataset to a run folder with a trained model.

`objective`, `sampling` and the loss modules compute losses, tensors in and tensors out. `module`, `checkpoints`,
`resume`, `validation`, `history` and `record` are the Lightning module and its callbacks. `run` is the whole training;
`plan` and `launch` prepare it. Only this package imports Lightning, and only `resume` uses undocumented attributes.
Evaluation and prediction belong to `htc.evaluation` and `htc.inference`.
"""
