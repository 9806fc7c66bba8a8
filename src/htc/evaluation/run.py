"""Run a predictor on annotated images and compute the COCO metrics of its results.

Results are encoded as RLE image by image, so that memory grows with the number of detections, not of pixels. The
metrics of single mask stages and of averages of several stages (the paper's Table 4) come from one pass over the
images.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.data.loader import ImageBatch, image_batches
from htc.data.transforms import NetworkInput
from htc.errors import ConfigError, DataError
from htc.evaluation.coco import MetricValues, coco_metrics
from htc.evaluation.files import read_annotations
from htc.inference.predictor import ImagePredictor
from htc.inference.stages import StageSubset, check_subsets, detect_stages
from htc.progress import Progress
from htc.results import Detections

_T = TypeVar("_T")
OnDetections = Callable[[int | str, Detections], None]
"""Called with the id of an image and its detections."""


def evaluate_model(
    predictor: ImagePredictor[Any],
    annotations: str | Path,
    images: str | Path,
    max_detections: int | None = None,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
) -> tuple[MetricValues, list[dict[str, Any]]]:
    """Compute the COCO metrics of a model on the images of an annotation file, and its COCO results with the file's
    category ids.

    `images` is the folder of the images. At most `max_detections` (None: the model's `inference.max_detections`)
    detections of an image are evaluated. Raises `DataError` if annotations or images cannot be used or if the model
    does not have one of the categories; `ConfigError` for `max_detections`.
    """
    limit = detections_that_count(predictor, max_detections)
    ground_truth = read_annotations(annotations)
    results = list(
        stream_results(
            predictor, read_coco(Path(annotations), Path(images)), ground_truth, limit, progress, batch_size, workers
        )
    )
    return coco_metrics(ground_truth, results, limit), results


def stream_results(
    predictor: ImagePredictor[Any],
    dataset: Dataset,
    ground_truth: Mapping[str, Any],
    max_detections: int,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
    on_detections: OnDetections | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a model's COCO results on the images of `dataset`, with the category ids of the annotations, matched by
    name.

    Images are predicted while the results are consumed; no data of earlier images is kept. `on_detections` receives the
    detections of every image with its semantic map; the model then needs a semantic branch.
    """

    def detect(batch: ImageBatch[Any]) -> dict[None, list[Detections]]:
        detections = predictor.detect(batch.prepared, batch.original_sizes, semantic=on_detections is not None)
        for image_id, one in zip(batch.image_ids, detections, strict=True):
            if on_detections is not None:
                on_detections(image_id, one)
        return {None: detections}

    category_ids = match_categories(predictor.config.classes, ground_truth)
    for _, result in results_of(
        predictor, dataset, detect, category_ids, max_detections, progress, batch_size, workers
    ):
        yield result


def match_categories(classes: Sequence[str], ground_truth: Mapping[str, Any]) -> list[int | None]:
    """Return the annotations' category id of each of the model's classes, matched by name; None if a class has none.

    Raises a `DataError` with every annotated category that is not a class of the model.
    """
    used = {annotation["category_id"] for annotation in ground_truth["annotations"]}
    missing = [
        category["name"]
        for category in ground_truth["categories"]
        if category["id"] in used and category["name"] not in classes
    ]
    if missing:
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise DataError(
            f"the annotations have instances of {', '.join(map(repr, missing[:10]))}, which the model does not have "
            f"(its classes are {known}). Categories are matched by name: use a model with these classes, or rename "
            f"the categories in the annotations"
        )
    ids = {category["name"]: category["id"] for category in reversed(ground_truth["categories"])}
    return [ids.get(name) for name in classes]


def detections_that_count(predictor: ImagePredictor[Any], requested: int | None) -> int:
    """Return the maximum number of detections of an image; raises `ConfigError` if the model gives fewer."""
    capacity = predictor.config.inference.max_detections
    limit = capacity if requested is None else requested
    if not 1 <= limit <= capacity:
        raise ConfigError(
            f"max_detections is {limit}: give 1 to {capacity}, or load the model with a larger inference.max_detections"
        )
    return limit


def results_of(
    predictor: ImagePredictor[Any],
    dataset: Dataset,
    detect: Callable[[ImageBatch[Any]], dict[_T, list[Detections]]],
    category_ids: Sequence[int | None],
    max_detections: int,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
) -> Iterator[tuple[_T, dict[str, Any]]]:
    """Yield the COCO results of each kind of detections that `detect` returns for a batch, with the annotations'
    category ids, image by image.
    """
    by_name = dict(zip(predictor.config.classes, category_ids, strict=True))
    done = 0
    for batch in image_batches(dataset, predictor.preparation(), batch_size, workers, predictor.config.input.intensity):
        for kind, of_images in detect(batch).items():
            for image_id, detections in zip(batch.image_ids, of_images, strict=True):
                for result in detections[:max_detections].to_coco(image_id):
                    category = by_name[result["category_name"]]
                    if category is not None:
                        yield kind, {**result, "category_id": category}
        done += len(batch.image_ids)
        if progress is not None:
            progress(done, len(dataset))


def evaluate_stages(
    predictor: ImagePredictor[Any],
    annotations: str | Path,
    images: str | Path,
    subsets: Collection[StageSubset],
    max_detections: int | None = None,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
) -> tuple[dict[StageSubset, MetricValues], dict[StageSubset, list[dict[str, Any]]]]:
    """Compute the COCO metrics of each subset of the mask stages (from 1), and its COCO results with the annotations'
    category ids: with the final boxes, and the mean mask over the subset.

    Trunk, boxes and mask heads run once for each image. Otherwise as `evaluate_model`. Raises `ConfigError` for stages
    that the model does not have, and what `evaluate_model` raises.
    """
    check_subsets(predictor, subsets)
    limit = detections_that_count(predictor, max_detections)
    ground_truth = read_annotations(annotations)
    category_ids = match_categories(predictor.config.classes, ground_truth)
    dataset = read_coco(Path(annotations), Path(images))

    def detect(batch: ImageBatch[NetworkInput]) -> dict[StageSubset, list[Detections]]:
        return detect_stages(predictor, batch.prepared, batch.original_sizes, subsets)

    results: dict[StageSubset, list[dict[str, Any]]] = {subset: [] for subset in subsets}
    for subset, result in results_of(predictor, dataset, detect, category_ids, limit, progress, batch_size, workers):
        results[subset].append(result)
    return {subset: coco_metrics(ground_truth, of_subset, limit) for subset, of_subset in results.items()}, results


def parse_stages(text: str) -> StageSubset:
    """Parse mask stages: `2` is stage 2, `1-3` stages 1 to 3, `1,3` stages 1 and 3; raises `ConfigError`."""
    return tuple(stage for part in text.split(",") for stage in _range(part, text))


def stages_name(stages: StageSubset) -> str:
    """Return the shortest text that `parse_stages` parses as these stages."""
    consecutive = len(stages) > 1 and all(after == before + 1 for before, after in pairwise(stages))
    return f"{min(stages)}-{max(stages)}" if consecutive else ",".join(map(str, stages))


def _range(part: str, text: str) -> Iterator[int]:
    first, _, last = part.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or part.endswith("-"):
        raise ConfigError(
            f"--stages {text}: write 2 for stage 2, 1-3 for the mean of stages 1 to 3, 1,3 for that of stages 1 and 3"
        )
    return iter(range(int(first), int(last or first) + 1))
