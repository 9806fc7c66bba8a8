"""A picture with everything that is known of it, moved as one."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from htc.data.dataset import ImageRecord, SemanticMaps
from htc.data.ground_truth import annotated, annotated_picture
from htc.data.transforms import Placement, place_picture, place_semantic, place_truth
from htc.types import GroundTruth


@dataclass(frozen=True)
class View:
    """What is seen and what is true of it; objects in pixels of `picture`."""

    picture: UInt8[np.ndarray, "h w 3"]
    truth: GroundTruth
    semantic: UInt8[np.ndarray, "h w"] | None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.picture.shape[0], self.picture.shape[1]


def view_of(
    record: ImageRecord, placement: Placement, semantic_classes: int | None, semantic_maps: SemanticMaps | None
) -> View:
    """The picture of `record` and its targets (see `annotated`), placed."""
    targets = annotated(record, semantic_classes, semantic_maps)
    return View(
        picture=place_picture(annotated_picture(record), placement),
        truth=place_truth(targets.truth, placement),
        semantic=None if targets.semantic is None else place_semantic(targets.semantic, placement),
    )
