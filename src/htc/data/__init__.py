"""Annotated images, from files to batches.

This package contains the only reader of COCO files, the dataset class, image and mask decoding, semantic maps,
augmentation, the loaders, and dataset statistics. Other annotation formats are in `htc.data.formats`; checks beyond
reading are in `htc.checks`.
"""
