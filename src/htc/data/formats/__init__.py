"""Data sets in other forms than COCO's, each read by a module of its own and handed on as COCO instance files.

The readers are our own: supervision's make a dense bitmap of the picture's size for every object and keep neither
several outlines of one object nor boxes without outline, and none of the well-kept libraries names the line that is
wrong.
"""
