"""Drawings of ground truth and prediction side by side.

`draw_comparisons` predicts on a few annotated images and writes the drawings; `draw_errors` draws one image of an
evaluation and marks its errors by color.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from pycocotools import mask as rle_codec

from htc.data.dataset import Dataset, ImageRecord
from htc.data.ground_truth import annotated, annotated_image
from htc.data.image_names import distinct_names
from htc.data.images import read_image
from htc.errors import OutputError
from htc.evaluation.comparison import Annotation, Comparison, EncodedMask
from htc.evaluation.errors import ERROR_KINDS, IGNORED, RIGHT, at_least, sort_errors
from htc.evaluation.matching import Matched
from htc.inference.predictor import Predictor
from htc.ops.masks import MaskCrop
from htc.visual.drawing import (
    crops_of,
    draw_objects,
    enlarge,
    enlarge_crop,
    enlargement,
    paint_box,
    paint_mask,
    side_by_side,
)
from htc.visual.labels import paint_labels
from htc.visual.palette import PALETTE

SCORE = 0.5


def draw_comparisons(predictor: Predictor, dataset: Dataset, folder: Path, most: int = 8) -> tuple[Path, ...]:
    """Write PNGs of ground truth (left) and prediction (right) for up to `most` images, evenly spread over the dataset.

    Predictions have a score of at least 0.5. Existing files of the same name are replaced. Raises `OutputError` if the
    folder cannot be written to.
    """
    records = dataset.images
    chosen = (
        [
            records[index]
            for index in np.unique(np.linspace(0, len(records) - 1, min(most, len(records))).round().astype(int))
        ]
        if records
        else []
    )
    written = []
    for record, name in zip(chosen, distinct_names([record.path for record in chosen]), strict=True):
        path = folder / f"{name}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(comparison(predictor, record)).save(path)
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror}. Use another folder, or free disk space"
            ) from error
        written.append(path)
    return tuple(written)


def comparison(predictor: Predictor, record: ImageRecord) -> np.ndarray:
    """Draw one annotated image (H, W, 3) twice, side by side: with its ground truth, and with the prediction."""
    image = annotated_image(record)
    ground_truth = annotated(record, None, None).ground_truth
    factor = enlargement((record.height, record.width))
    crops = None if ground_truth.masks is None else crops_of(ground_truth.masks, factor)
    named = len(predictor.config.classes) > 1  # with one class, dozens of equal captions would only hide the instances
    captions = [predictor.config.classes[label] for label in ground_truth.labels.tolist()] if named else None
    left = draw_objects(
        enlarge(image, factor),
        ground_truth.boxes.numpy() * factor,
        ground_truth.labels.numpy(),
        crops,
        captions,
        outline_boxes=crops is None,
    )
    detections = predictor.predict(image, score_threshold=SCORE)
    right = detections.drawing(image, labels=named, scale=factor)
    return side_by_side(
        left,
        right,
        (f"ground truth: {len(ground_truth.boxes)}", f"predicted, score {SCORE:g} or more: {len(detections)}"),
    )


CORRECT, MISTAKEN, IGNORED_COLOR = PALETTE[1], PALETTE[5], np.array([150, 150, 150], np.uint8)
"""Sky blue, vermilion, gray: distinguishable with every kind of color vision."""
ERROR_NAMES = {kind: name for name, kind in ERROR_KINDS.items()}


def draw_errors(path: Path, comparison: Comparison, matched: Matched, threshold: float) -> UInt8[np.ndarray, "H W 3"]:
    """Draw an image twice: ground truth with missed instances in vermilion, and results of at least `threshold` with
    false positives in vermilion.

    Raises `DataError` if the image cannot be read.
    """
    image = read_image(path)
    scale = enlargement((image.shape[0], image.shape[1]))
    cut = at_least(matched, threshold)
    kinds = sort_errors(cut).kinds
    objects = [comparison.objects[index] for index in cut.objects]
    missed = ~cut.detected & ~cut.crowd
    left = _painted(
        enlarge(image, scale),
        objects,
        None if comparison.object_masks is None else [comparison.object_masks[index] for index in cut.objects],
        np.where(missed[:, None], MISTAKEN, np.where(cut.crowd[:, None], IGNORED_COLOR, CORRECT)),
        [comparison.categories[label][1] if bad else "" for label, bad in zip(cut.object_labels, missed, strict=True)],
        scale,
    )
    right = _painted(
        enlarge(image, scale),
        [comparison.results[index] for index in cut.results],
        None if comparison.result_masks is None else [comparison.result_masks[index] for index in cut.results],
        np.where((kinds == RIGHT)[:, None], CORRECT, np.where((kinds == IGNORED)[:, None], IGNORED_COLOR, MISTAKEN)),
        [
            f"{ERROR_NAMES[kind]} {score:.2f}" if kind in ERROR_NAMES else ""
            for kind, score in zip(kinds.tolist(), cut.scores, strict=True)
        ],
        scale,
    )
    return side_by_side(left, right, ("Ground truth", f"Predicted, score {threshold:.2f} or more"))


def _painted(
    canvas: UInt8[np.ndarray, "H W 3"],
    items: Sequence[Annotation],
    masks: Sequence[EncodedMask] | None,
    colors: UInt8[np.ndarray, "N 3"],
    captions: Sequence[str],
    scale: int,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw masks (boxes without masks), large ones first, and the captions that are not empty."""
    canvas = canvas.copy()
    thickness = max(1, round(2 * (max(canvas.shape[:2]) / 640) ** 0.9))
    boxes = np.array([item["bbox"] for item in items], np.float32).reshape(-1, 4)
    corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1) * np.float32(scale)
    for index in np.argsort(-boxes[:, 2:].prod(1), kind="stable"):
        if masks is None:
            paint_box(canvas, corners[index], colors[index], thickness)
        else:
            paint_mask(canvas, enlarge_crop(crop_of(masks[index]), scale), colors[index], thickness)
    named = [index for index, caption in enumerate(captions) if caption]
    _caption(canvas, corners[named], [captions[index] for index in named], colors[named])
    return canvas


def _caption(
    canvas: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "N 4"],
    captions: Sequence[str],
    colors: UInt8[np.ndarray, "N 3"],
) -> None:
    if captions:
        paint_labels(canvas, boxes, captions, colors)


def crop_of(mask: EncodedMask) -> MaskCrop:
    """Decode an RLE mask, cropped to its bounding box."""
    x, y, width, height = (int(value) for value in rle_codec.toBbox(mask))
    return MaskCrop(x, y, rle_codec.decode(mask)[y : y + height, x : x + width].astype(bool))
