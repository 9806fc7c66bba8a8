"""Conversion of `supervision.DetectionDataset` to records for `htc.Dataset.from_records`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pycocotools import mask as coco_masks

from htc.data.images import read_image
from htc.data.records import DatasetRecord
from htc.errors import DataError

if TYPE_CHECKING:
    from supervision import DetectionDataset


def records_of_supervision(dataset: "DetectionDataset") -> Iterator[DatasetRecord]:
    """Yield one record per image, in the dataset's order; only images that are not files are read.

    An empty mask means an instance without a mask: supervision has no other representation for it.
    """
    for index, path in enumerate(dataset.image_paths):
        detections = dataset.annotations[path]
        if detections.class_id is None and len(detections):
            raise DataError(f"image {path}: its detections have no class_id; set it, from 0, for each")
        record: DatasetRecord = {
            "image": path if Path(path).is_file() else _in_memory(dataset, index),
            "labels": np.zeros(0, np.int64) if detections.class_id is None else detections.class_id,
            "boxes": detections.xyxy,
            "crowd": detections.data.get("iscrowd"),  # type: ignore[typeddict-item]
        }
        if detections.mask is not None:
            record["masks"] = [_run_lengths(mask) for mask in detections.mask]
        yield record


def _in_memory(dataset: "DetectionDataset", index: int) -> Any:
    """RGB pixels of an image that supervision holds in memory (BGR, like OpenCV); else its path, which is not a
    file.
    """
    try:
        path, image, _ = dataset[index]
    except ValueError:
        return dataset.image_paths[index]
    return read_image(image, channels="bgr") if image is not None else path


def _run_lengths(mask: np.ndarray) -> Any:
    """COCO RLE of one bitmap; for a `CompactMask`, only one mask is dense at a time."""
    if not mask.any():
        return None
    return coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
