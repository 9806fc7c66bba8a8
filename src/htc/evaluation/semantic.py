"""Mean IoU of semantic maps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from htc.config import Config
from htc.data.semantic_maps import IGNORE


class SemanticCounts:
    """Adds up pixels of pictures: [true class, found class]; pixels of class 255 do not count."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(self, truth: UInt8[np.ndarray, "H W"], found: UInt8[np.ndarray, "H W"]) -> None:
        """One picture."""
        labelled = truth != IGNORE
        classes = len(self.counts)
        pairs = truth[labelled].astype(np.int64) * classes + found[labelled]
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def numbers(self, names: Mapping[int, str]) -> dict[str, Any]:
        """mIoU over the classes that are annotated anywhere, the share of right pixels, IoU of each; 0..1, -1
        undefined.
        """
        right, annotated = np.diag(self.counts), self.counts.sum(1)
        union = annotated + self.counts.sum(0) - right
        occurs = np.flatnonzero(annotated)
        iou = right / np.maximum(union, 1)
        total = annotated.sum()
        return {
            "mIoU": float(iou[occurs].mean()) if len(occurs) else -1.0,
            "pixel_accuracy": float(right.sum() / total) if total else -1.0,
            "per_class": {names.get(int(label), str(label)): float(iou[label]) for label in occurs},
        }


def semantic_names(config: Config) -> dict[int, str]:
    """Names of the labels of maps derived from the instances: background, then the classes."""
    return {0: "background", **dict(enumerate(config.classes, start=1))}
