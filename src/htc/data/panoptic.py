"""COCO's panoptic annotations as semantic maps: things and stuff of every pixel, without telling objects apart.

Crowd segments and pixels of no segment are 255 (ignore).
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from htc.data.dataset import Dataset, ImageRecord, PanopticMaps
from htc.data.faults import Faults
from htc.data.map_files import read_segment_ids
from htc.data.panoptic_files import PanopticFile, read_panoptic, valued
from htc.data.semantic_targets import IGNORE, MOST_CLASSES


def read_panoptic_maps(
    annotations: Path, folder: Path, dataset: Dataset, *, by_id: bool = False, may_lack: Collection[int | str] = ()
) -> PanopticMaps:
    """Reads a panoptic annotation file. Classes are its categories in their order, from 0, or `by_id` their category
    ids - 1.

    Every picture of `dataset` must have an annotation (by image id) whose PNG lies in `folder`, but for those that
    `may_lack` it. Raises `DataError` that names the file, what is wrong and what to do.
    """
    found = read_panoptic(annotations, folder, dataset, may_lack)
    values = _values(found, by_id)
    files = {id: name for id, (name, _) in found.maps.items()}
    segments = {
        id: {one.id: IGNORE if one.crowd else values[one.category_id] for one in own}
        for id, (_, own) in found.maps.items()
    }
    return PanopticMaps(
        {values[id]: category.name for id, category in found.categories.items()}, folder, files, segments
    )


def _values(found: PanopticFile, by_id: bool) -> dict[int, int]:
    """Class number by category id: the place in the file, or the id - 1."""
    faults = Faults(found.file)
    if not by_id and len(found.categories) > MOST_CLASSES + 1:
        faults.add(f"{len(found.categories)} categories do not fit into a semantic map (at most {MOST_CLASSES + 1})")
    for id, category in found.categories.items() if by_id else ():
        if not 1 <= id <= MOST_CLASSES + 1:
            faults.add(
                f"category {category.name!r} has the id {id}; classes are category ids - 1 here, so ids must be "
                f"1..{MOST_CLASSES + 1}"
            )
    faults.check()
    return {id: id - 1 if by_id else place for place, id in enumerate(found.categories)}


def read_panoptic_map(record: ImageRecord, panoptic: PanopticMaps) -> UInt8[np.ndarray, "H W"]:
    """The class of every pixel of one picture; raises `DataError` for a PNG that cannot be used or holds unlisted
    segments.
    """
    path = panoptic.folder / panoptic.files[record.id]
    ids = read_segment_ids(path, (record.height, record.width))
    return valued(path, ids, panoptic.segments[record.id], IGNORE, np.uint8)
