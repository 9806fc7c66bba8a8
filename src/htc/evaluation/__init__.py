"""Evaluation of predictions against annotations: COCO's AP, diagnostics, confidence intervals, semantic and panoptic
quality, and the report page. `evaluate.evaluate` computes all of them for a model; nothing here trains or prints.
"""

KIND_NAMES = {"bbox": "boxes", "segm": "masks"}
"""Names of the kinds of AP in tables and on pages."""
