"""Annotated images, from files to batches.

Here belong the one reader of COCO files, the typed dataset it fills, decoded images and masks, semantic maps,
augmentation, the loaders, and statistics of a dataset. Other annotation formats are in `htc.data.formats`; checks that
go beyond reading are in `htc.checks`.
"""
