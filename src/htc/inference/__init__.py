"""Inference: from images to detections in original pixels.

`predictor` and `ensemble` contain the two kinds of predictor, `views` and `augmentation` test-time augmentation,
`stages` predictions of single mask stages, `panoptic` the merge of instances and semantic map. `load` builds a
predictor from a name or a file, `sources` lists input images, and `outputs` writes results. Operations on tensors alone
belong to `htc.model`, metrics to `htc.evaluation`.
"""
