"""Random objects and random ways to look at them, for property tests."""

import numpy as np
import torch
from hypothesis import strategies as st

from htc.data.ground_truth import AnnotatedView
from htc.data.instance_masks import boxes_from_masks, crop_bitmaps, mask_crops
from htc.data.mask_encodings import Crop
from htc.data.semantic_maps import derived_map
from htc.data.transforms import Placement, place_ground_truth, place_image, place_semantic
from htc.types import GroundTruth, MaskCrops


@st.composite
def placements(draw: st.DrawFn, resize: bool = True) -> Placement:
    """Any resize, flips and window of an image of any size."""
    original = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    resized = draw(st.tuples(st.integers(1, 90), st.integers(1, 90))) if resize else original
    window = draw(st.none() | st.tuples(st.integers(1, resized[0]), st.integers(1, resized[1])))
    corner = (
        (0, 0)
        if window is None
        else draw(st.tuples(st.integers(0, resized[0] - window[0]), st.integers(0, resized[1] - window[1])))
    )
    return Placement(original, resized, draw(st.booleans()), draw(st.booleans()), corner, window)


def truth_of(seed: int, size: tuple[int, int], count: int = 4) -> tuple[GroundTruth, list[Crop]]:
    """Random blobs whose boxes are those of their masks."""
    random = np.random.default_rng(seed)
    crops = []
    for _ in range(count):
        height, width = random.integers(1, size[0] + 1), random.integers(1, size[1] + 1)
        bitmap = (random.uniform(size=(height, width)) < 0.6).astype(np.uint8)
        bitmap[0, :] = bitmap[-1, :] = bitmap[:, 0] = bitmap[:, -1] = 1
        crops.append(
            Crop(int(random.integers(0, size[1] - width + 1)), int(random.integers(0, size[0] - height + 1)), bitmap)
        )
    masks = mask_crops(crops, size)
    return GroundTruth(boxes_from_masks(masks), torch.arange(count), masks, torch.zeros(0, 4)), crops


def view_of_blobs(seed: int, placement: Placement, count: int = 3) -> AnnotatedView:
    """An image of noise with random blobs and their derived map, placed."""
    ground_truth, crops = truth_of(seed, placement.original, count)
    image = np.random.default_rng(seed).integers(0, 256, (*placement.original, 3), dtype=np.uint8)
    semantic = derived_map(crops, ground_truth.labels.tolist(), [], placement.original)
    return AnnotatedView(
        place_image(image, placement), place_ground_truth(ground_truth, placement), place_semantic(semantic, placement)
    )


def seen_bitmaps(masks: MaskCrops, size: tuple[int, int]) -> np.ndarray:
    """(M, h, w): whether the annotated pixel under each center of the network input belongs to the object."""
    rows = np.floor(masks.scale[1] * (np.arange(size[0]) + 0.5) + masks.shift[1] + 1e-9).astype(int)
    columns = np.floor(masks.scale[0] * (np.arange(size[1]) + 0.5) + masks.shift[0] + 1e-9).astype(int)
    seen = np.zeros((len(masks), *size), bool)
    for dense, (x, y), bitmap in zip(seen, masks.offsets.tolist(), crop_bitmaps(masks), strict=True):
        canvas = np.zeros(masks.canvas, np.uint8)
        canvas[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] = bitmap
        dense[:] = canvas[rows[:, None], columns] > 0
    return seen


def box_of(dense: np.ndarray) -> list[float]:
    """xyxy box of a dense mask, by looking at every pixel."""
    rows, columns = np.flatnonzero(dense.any(1)), np.flatnonzero(dense.any(0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]
