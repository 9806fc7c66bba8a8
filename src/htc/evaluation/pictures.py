"""Ground truth beside prediction, as pictures to look at."""

from pathlib import Path

import numpy as np
from PIL import Image

from htc.data.coco import read_coco
from htc.data.dataset import ImageRecord
from htc.data.ground_truth import annotated, annotated_picture
from htc.errors import OutputError
from htc.inference.predictor import Predictor
from htc.visual.drawing import crops_of, draw_objects, enlarge, enlargement, side_by_side

SCORE = 0.5


def draw_comparisons(
    predictor: Predictor, annotations: Path, images: Path, folder: Path, most: int = 8
) -> tuple[Path, ...]:
    """Writes, for up to `most` annotated pictures spread over all of them, ground truth (left) and prediction (right)
    as PNG.

    Predictions have a score of at least 0.5. Earlier pictures of the same name are replaced. Raises `OutputError` if
    the folder cannot be written to.
    """
    records = read_coco(annotations, images).images
    chosen = (
        [
            records[index]
            for index in np.unique(np.linspace(0, len(records) - 1, min(most, len(records))).round().astype(int))
        ]
        if records
        else []
    )
    written = []
    for record in chosen:
        path = folder / f"{record.path.stem[:16]}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(comparison(predictor, record)).save(path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}: give another place, or make room") from error
        written.append(path)
    return tuple(written)


def comparison(predictor: Predictor, record: ImageRecord) -> np.ndarray:
    """One annotated picture (H, W, 3), twice: with its objects, with what the model finds."""
    picture = annotated_picture(record)
    truth = annotated(record, None, None).truth
    factor = enlargement((record.height, record.width))
    crops = None if truth.masks is None else crops_of(truth.masks, factor)
    named = len(predictor.config.classes) > 1  # captions of dozens of objects of one class would hide what they name
    captions = [predictor.config.classes[label] for label in truth.labels.tolist()] if named else None
    left = draw_objects(
        enlarge(picture, factor),
        truth.boxes.numpy() * factor,
        truth.labels.numpy(),
        crops,
        captions,
        outline_boxes=crops is None,
    )
    found = predictor.predict(picture, score_threshold=SCORE)
    right = found.drawing(picture, labels=named, scale=factor)
    return side_by_side(
        left, right, (f"annotated: {len(truth.boxes)}", f"found, score {SCORE:g} or more: {len(found)}")
    )
