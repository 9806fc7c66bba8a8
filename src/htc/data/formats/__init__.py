"""Annotation formats other than COCO; each reader is a separate module that returns COCO instance data.

The readers are not taken from a library: supervision's create a dense bitmap of the image's size for every instance and
support neither several polygons per instance nor boxes without a mask, and none of the well-maintained libraries
reports the faulty line.
"""
