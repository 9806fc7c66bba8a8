"""Run a predictor on annotated images and compute the COCO metrics of its results.

Results are encoded as RLE image by image, so that memory grows with the detections and not with the images. The metrics
of single mask stages and of averages of several stages (the paper's Table 4) come from one pass over the images.
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
from htc.evaluation.files import read_annotations, read_results
from htc.inference.predictor import ImagePredictor
from htc.inference.stages import StageSubset, check_subsets, detect_stages
from htc.progress import Progress
from htc.results import Detections

_T = TypeVar("_T")
OnDetections = Callable[[int | str, Detections], None]
"""Called with the id of an image and everything found in it."""


def evaluate_model(
    predictor: ImagePredictor[Any],
    annotations: str | Path,
    images: str | Path,
    max_detections: int | None = None,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
) -> tuple[MetricValues, list[dict[str, Any]]]:
    """COCO numbers of a model on the images of an annotation file, and its results as COCO result dicts with the
    file's category ids.

    `images` is the folder of the images. `max_detections` (None: the model's `inference.max_detections`) objects of a
    image count. Masks are kept as run lengths, so memory grows with the objects, not with the images. Raises
    `DataError` for annotations or images that cannot be used and for categories the model does not know;
    `ConfigError` for `max_detections`.
    """
    most = detections_that_count(predictor, max_detections)
    truth = read_annotations(annotations)
    results = list(
        stream_results(
            predictor, read_coco(Path(annotations), Path(images)), truth, most, progress, batch_size, workers
        )
    )
    return coco_metrics(truth, results, most), results


def stream_results(
    predictor: ImagePredictor[Any],
    dataset: Dataset,
    truth: Mapping[str, Any],
    max_detections: int,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
    look: OnDetections | None = None,
) -> Iterator[dict[str, Any]]:
    """A model's COCO results on the images of `dataset`, with the category ids of the annotations `truth`, by name.

    They come image by image, and nothing is kept of an image that is done.

    `look` is shown the detections of every image, with its semantic map; then the model needs a semantic branch.
    """

    def detect(batch: ImageBatch[Any]) -> dict[None, list[Detections]]:
        found = predictor.detect(batch.prepared, batch.original_sizes, semantic=look is not None)
        for image_id, one in zip(batch.image_ids, found, strict=True):
            if look is not None:
                look(image_id, one)
        return {None: found}

    category_ids = match_categories(predictor.config.classes, truth)
    for _, result in results_of(
        predictor, dataset, detect, category_ids, max_detections, progress, batch_size, workers
    ):
        yield result


def evaluate_results(results: str | Path, annotations: str | Path, max_detections: int = 100) -> MetricValues:
    """COCO numbers of a COCO result file, its image and category ids taken as they are; raises `DataError`."""
    return coco_metrics(annotations, read_results(results), max_detections)


def match_categories(classes: Sequence[str], truth: Mapping[str, Any]) -> list[int | None]:
    """The annotations' category id of each of the model's classes, matched by name; None for a class they do not have.

    Raises `DataError` that names every category with objects that the model does not know.
    """
    used = {annotation["category_id"] for annotation in truth["annotations"]}
    missing = [
        category["name"]
        for category in truth["categories"]
        if category["id"] in used and category["name"] not in classes
    ]
    if missing:
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise DataError(
            f"the annotations have objects of {', '.join(map(repr, missing[:10]))}, which the model does not know (it "
            f"knows {known}): "
            "categories are matched by name; give a model of these classes, or rename them in the annotations"
        )
    ids = {category["name"]: category["id"] for category in reversed(truth["categories"])}
    return [ids.get(name) for name in classes]


def detections_that_count(predictor: ImagePredictor[Any], asked: int | None) -> int:
    """How many objects of an image count; raises `ConfigError` if the model does not give so many."""
    capacity = predictor.config.inference.max_detections
    most = capacity if asked is None else asked
    if not 1 <= most <= capacity:
        raise ConfigError(
            f"max_detections is {most}: give 1 to {capacity}, or load the model with a larger inference.max_detections"
        )
    return most


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
    """COCO results of every kind of detections that `detect` gives for a batch, with the annotations' category ids,
    image by image.
    """
    by_name = dict(zip(predictor.config.classes, category_ids, strict=True))
    done = 0
    for batch in image_batches(dataset, predictor.preparation(), batch_size, workers):
        for kind, found in detect(batch).items():
            for image_id, objects in zip(batch.image_ids, found, strict=True):
                for result in objects[:max_detections].to_coco(image_id):
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
) -> dict[StageSubset, MetricValues]:
    """COCO numbers for each subset of the mask stages (from 1): boxes are the final ones, masks the mean over the
    subset.

    Trunk, boxes and mask heads run once an image. The rest is as in `evaluate_model`. Raises `ConfigError` for stages
    that the model does not have, and what `evaluate_model` raises.
    """
    return measure_stages(predictor, annotations, images, subsets, max_detections, progress, batch_size, workers)[0]


def measure_stages(
    predictor: ImagePredictor[Any],
    annotations: str | Path,
    images: str | Path,
    subsets: Collection[StageSubset],
    max_detections: int | None = None,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
) -> tuple[dict[StageSubset, MetricValues], dict[StageSubset, list[dict[str, Any]]]]:
    """The numbers of `evaluate_stages` and the COCO results behind them, with the annotations' category ids."""
    check_subsets(predictor, subsets)
    most = detections_that_count(predictor, max_detections)
    truth = read_annotations(annotations)
    category_ids = match_categories(predictor.config.classes, truth)
    dataset = read_coco(Path(annotations), Path(images))

    def detect(batch: ImageBatch[NetworkInput]) -> dict[StageSubset, list[Detections]]:
        return detect_stages(predictor, batch.prepared, batch.original_sizes, subsets)

    results: dict[StageSubset, list[dict[str, Any]]] = {subset: [] for subset in subsets}
    for subset, result in results_of(predictor, dataset, detect, category_ids, most, progress, batch_size, workers):
        results[subset].append(result)
    return {subset: coco_metrics(truth, found, most) for subset, found in results.items()}, results


def parse_stages(text: str) -> StageSubset:
    """`2` is stage 2, `1-3` stages 1 to 3, `1,3` stages 1 and 3; raises `ConfigError`."""
    return tuple(stage for part in text.split(",") for stage in _range(part, text))


def stages_name(stages: StageSubset) -> str:
    """The shortest text that `parse_stages` reads as these stages."""
    consecutive = len(stages) > 1 and all(after == before + 1 for before, after in pairwise(stages))
    return f"{min(stages)}-{max(stages)}" if consecutive else ",".join(map(str, stages))


def _range(part: str, text: str) -> Iterator[int]:
    first, _, last = part.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or part.endswith("-"):
        raise ConfigError(
            f"--stages {text}: write 2 for stage 2, 1-3 for the mean of stages 1 to 3, 1,3 for that of stages 1 and 3"
        )
    return iter(range(int(first), int(last or first) + 1))
