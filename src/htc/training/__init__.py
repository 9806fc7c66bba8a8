"""Everything that changes weights: from a batch to its losses, and from a dataset to a folder with a trained model.

Losses are tensors in, tensors out (`objective`, `sampling` and the loss modules); how Lightning runs them is `module`,
`checkpoints`, `resume`, `validation`, `history` and `record`; `run` is the whole training, `plan` and `launch` what
precedes it. Lightning is imported in this package only, and `resume` alone uses undocumented attributes of it.
Evaluation and prediction belong to `htc.evaluation` and `htc.inference`.
"""
