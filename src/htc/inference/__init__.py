"""From images to detections in original pixels: the predictors, what they read and what they write.

`predictor` and `ensemble` hold the two kinds of predictor, `augmentation` the views of an image, `stages` predictions
of single mask stages, `panoptic` the merge of instances and semantic map; `load` makes a predictor from a name or a
file, `sources` lists the images that a user named, and `outputs` writes results. What works on tensors alone belongs
in `htc.model`, metrics in `htc.evaluation`.
"""
