"""Merge the instances and the semantic map of an image into a panoptic map, in which every pixel belongs to at most one
segment (Kirillov et al., Panoptic Segmentation, CVPR 2019).
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int32, UInt8

from htc.config import Config
from htc.data.panoptic import Panoptic, Segment
from htc.errors import ConfigError
from htc.results import Detections

SCORE, OVERLAP, STUFF_AREA = 0.5, 0.5, 4096
"""The paper's heuristic with the usual thresholds, those of Panoptic FPN. Dropped are instances below this score,
instances with less than this share of their mask still free, and stuff with fewer pixels than this in the image.
"""


def stuff_labels(config: Config, categories: Mapping[int, bool]) -> dict[int, int]:
    """Map the semantic labels that are stuff to their category ids; `categories`: all ids in file order, True for
    stuff.

    The number of classes of the branch shows its training targets. K + 1, for K classes of things: maps derived from
    the instances, without stuff. As many as `categories`: panoptic annotations, where a label is the index of its
    category in the file. More: COCO-Stuff maps, where it is category id - 1. Raises `ConfigError` without a branch.
    """
    if config.semantic is None:
        raise ConfigError("panoptic segmentation needs a semantic branch, which this model does not have")
    classes = config.semantic.classes
    if classes <= len(config.classes) + 1:
        return {}
    if classes == len(categories):
        return {label: category for label, (category, stuff) in enumerate(categories.items()) if stuff}
    return {category - 1: category for category, stuff in categories.items() if stuff and 0 <= category - 1 < classes}


def merge(
    detections: Detections,
    categories: Mapping[str, int],
    stuff: Mapping[int, int],
    score: float = SCORE,
    overlap: float = OVERLAP,
    area: int = STUFF_AREA,
) -> Panoptic:
    """Merge things by descending score, each with the part of its mask that is still free, then stuff on free pixels.

    `categories`: ids of things by class name (other classes are dropped). `stuff`: see `stuff_labels`; if it is empty,
    no semantic map is needed.
    """
    ids = np.zeros(detections.size, np.int32)
    segments: list[Segment] = []
    # Detections are sorted by descending score.
    kept = detections.filter(score, tuple(categories))
    for name, crop in zip(kept.class_names, kept.masks.crops(), strict=True):
        height, width = crop.bitmap.shape
        window = ids[crop.y : crop.y + height, crop.x : crop.x + width]
        free = crop.bitmap & (window == 0)
        if not free.any() or free.sum() < overlap * crop.bitmap.sum():
            continue
        segments.append(Segment(len(segments) + 1, categories[name]))
        window[free] = len(segments)
    if stuff and detections.semantic is not None:
        _add_stuff(ids, segments, detections.semantic.labels(), stuff, area)
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
