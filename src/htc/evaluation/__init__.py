"""Metrics of predictions against annotations: AP by COCO's rules, diagnostics, intervals, semantic and panoptic
quality, and the report page. `evaluate.evaluate` computes all of them for a model; nothing here trains or prints.
"""

KIND_NAMES = {"bbox": "boxes", "segm": "masks"}
"""The names of the kinds of AP in tables and pages."""
