"""Ground truth beside prediction, as pictures to look at."""

from pathlib import Path

import numpy as np
from PIL import Image

from htc.data.coco import Splits, read_coco
from htc.data.ground_truth import annotated, annotated_picture
from htc.data.records import ImageRecord
from htc.errors import DataError, OutputError
from htc.inference.predictor import Predictor
from htc.visual.drawing import crops_of, draw_objects, enlarge, enlargement, side_by_side

SCORE = 0.5


def draw_comparisons(predictor: Predictor, splits: Splits, folder: Path, most: int = 8) -> tuple[Path, ...]:
    """Writes, for up to `most` validation pictures spread over all of them, ground truth (left) and prediction (right) as PNG.

    Predictions have a score of at least 0.5. Raises `OutputError` if the folder cannot be written to.
    """
    if splits.val_annotations is None or splits.val_images is None:
        raise DataError("there are no validation pictures to draw: give validation annotations and pictures")
    records = read_coco(splits.val_annotations, splits.val_images).images
    chosen = [records[index] for index in np.unique(np.linspace(0, len(records) - 1, min(most, len(records))).round().astype(int))] if records else []
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
    left = draw_objects(enlarge(picture, factor), truth.boxes.numpy() * factor, truth.labels.numpy(), crops, outline_boxes=crops is None)
    found = predictor.predict(picture, score_threshold=SCORE)
    # Captions of dozens of objects of one class would hide what they name.
    right = found.drawing(picture, labels=len(predictor.config.classes) > 1, scale=factor)
    return side_by_side(left, right, (f"annotated: {len(truth.boxes)}", f"found: {len(found)}"))
