"""Measuring a model in the middle of a training, the pictures divided over its processes."""

from dataclasses import replace
from pathlib import Path

from htc.data.coco import read_coco
from htc.data.loader import PictureBatch
from htc.evaluation.coco import Metrics, coco_metrics
from htc.evaluation.files import read_annotations
from htc.evaluation.run import Progress, detections_that_count, evaluate_model, match_categories, results_of
from htc.inference.predictor import Predictor
from htc.results import Detections
from htc.training.distributed import by_first, count, gathered, rank


def measure(
    predictor: Predictor, annotations: Path, images: Path, progress: Progress | None = None, workers: int = 0
) -> Metrics:
    """`evaluate_model`'s numbers, on every process. Each takes every n-th picture, whatever their number; the first
    counts.
    """
    if count() == 1:
        return evaluate_model(predictor, annotations, images, progress=progress, workers=workers)[0]
    most, truth = detections_that_count(predictor, None), read_annotations(annotations)
    dataset = read_coco(annotations, images)
    mine = replace(dataset, images=dataset.images[rank() :: count()])

    def detect(batch: PictureBatch) -> dict[None, list[Detections]]:
        return {None: predictor.detect(batch.images, batch.sizes, batch.original_sizes)}

    ids = match_categories(predictor.config.classes, truth)
    results = [result for _, result in results_of(predictor, mine, detect, ids, most, progress, workers=workers)]
    everyone = gathered(results)
    return by_first(lambda: coco_metrics(truth, [result for part in everyone for result in part], most))
