"""One image's instances and semantic map merged so that every pixel has one owner (Kirillov et al., Panoptic
Segmentation, CVPR 2019).
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32, UInt8

from htc.config import Config
from htc.data.panoptic import Panoptic, Segment
from htc.errors import ConfigError
from htc.results import Detections

SCORE, OVERLAP, STUFF_AREA = 0.5, 0.5, 4096
"""The paper's heuristic with the thresholds that Panoptic FPN made usual: instances below this score are left out; so
are those of whose mask less than this share is still free; and stuff of fewer pixels than this in the whole image.
"""


def stuff_labels(config: Config, categories: Mapping[int, bool]) -> dict[int, int]:
    """The semantic labels that are stuff, each with its category id; `categories`: all ids in their file's order, True
    for stuff.

    What a branch learned from shows in its number of classes. K + 1, for K classes of things: maps derived from the
    instances, which know no stuff. As many as there are categories: panoptic annotations, each category its place in
    the file. More: maps in COCO-Stuff's way, category id - 1. Raises `ConfigError` without a branch.
    """
    if config.semantic is None:
        raise ConfigError(
            "this model has no semantic branch, and panoptic segmentation needs one: give a model with semantic fusion"
        )
    classes = config.semantic.classes
    if classes <= len(config.classes) + 1:
        return {}
    if classes == len(categories):
        return {place: category for place, (category, stuff) in enumerate(categories.items()) if stuff}
    return {category - 1: category for category, stuff in categories.items() if stuff and 0 <= category - 1 < classes}


def merge(
    found: Detections,
    categories: Mapping[str, int],
    stuff: Mapping[int, int],
    score: float = SCORE,
    overlap: float = OVERLAP,
    area: int = STUFF_AREA,
) -> Panoptic:
    """Things by score, each the part of its mask that better ones left free; then stuff on what is free.

    `categories`: ids of things by class name (others are left out). `stuff`: see `stuff_labels`; empty, no semantic map
    is needed.
    """
    ids = np.zeros(found.size, np.int32)
    segments: list[Segment] = []
    # Detections are sorted, best first.
    kept = found.filter(score, tuple(categories))
    for name, crop in zip(kept.class_names, kept.masks.crops(), strict=True):
        height, width = crop.bitmap.shape
        window = ids[crop.y : crop.y + height, crop.x : crop.x + width]
        free = crop.bitmap & (window == 0)
        if not free.any() or free.sum() < overlap * crop.bitmap.sum():
            continue
        segments.append(Segment(len(segments) + 1, categories[name]))
        window[free] = len(segments)
    if stuff and found.semantic is not None:
        _add_stuff(ids, segments, found.semantic.labels(), stuff, area)
    return Panoptic(ids, tuple(segments))


def _add_stuff(
    ids: Int32[np.ndarray, "H W"],
    segments: list[Segment],
    labels: UInt8[np.ndarray, "H W"],
    stuff: Mapping[int, int],
    area: int,
) -> None:
    free = ids == 0
    for label, category in stuff.items():
        pixels = free & (labels == label)
        if pixels.sum() >= max(area, 1):
            segments.append(Segment(len(segments) + 1, category))
            ids[pixels] = len(segments)
