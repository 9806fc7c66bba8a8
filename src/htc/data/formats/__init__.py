"""Annotation formats other than COCO's; each reader is a module of its own and hands on COCO instance files.

The readers are our own: supervision's make a dense bitmap of the image's size for every object and keep neither several
polygons of one object nor boxes without a mask, and none of the well-kept libraries names the line that is wrong.
"""
