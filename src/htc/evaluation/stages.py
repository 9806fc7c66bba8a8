"""Average precision of single mask stages and of subsets of them: the paper's Table 4 for any model, in one pass
over the pictures.
"""

from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from htc.data.coco import read_coco
from htc.data.loader import PictureBatch
from htc.errors import ConfigError
from htc.evaluation.coco import Metrics, coco_metrics
from htc.evaluation.files import read_annotations
from htc.evaluation.run import Progress, detections_that_count, match_categories, results_of
from htc.inference.predictor import Predictor
from htc.inference.stages import Stages, check_subsets, detect_stages
from htc.results import Detections


def evaluate_stages(
    predictor: Predictor,
    annotations: str | Path,
    images: str | Path,
    subsets: Collection[Stages],
    max_detections: int | None = None,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
) -> dict[Stages, Metrics]:
    """COCO numbers for each subset of the mask stages (from 1): boxes are the final ones, masks the mean over the
    subset.

    Trunk, boxes and mask heads run once a picture. The rest is as in `evaluate_model`. Raises `ConfigError` for stages
    that the model does not have, and what `evaluate_model` raises.
    """
    return measure_stages(predictor, annotations, images, subsets, max_detections, progress, batch_size, workers)[0]


def measure_stages(
    predictor: Predictor,
    annotations: str | Path,
    images: str | Path,
    subsets: Collection[Stages],
    max_detections: int | None = None,
    progress: Progress | None = None,
    batch_size: int = 1,
    workers: int = 0,
) -> tuple[dict[Stages, Metrics], dict[Stages, list[dict[str, Any]]]]:
    """The numbers of `evaluate_stages` and the COCO results behind them, with the annotations' category ids."""
    check_subsets(predictor, subsets)
    most = detections_that_count(predictor, max_detections)
    truth = read_annotations(annotations)
    category_ids = match_categories(predictor.config.classes, truth)
    dataset = read_coco(Path(annotations), Path(images))

    def detect(batch: PictureBatch) -> dict[Stages, list[Detections]]:
        return detect_stages(predictor, batch.images, batch.sizes, batch.original_sizes, subsets)

    results: dict[Stages, list[dict[str, Any]]] = {subset: [] for subset in subsets}
    for subset, result in results_of(predictor, dataset, detect, category_ids, most, progress, batch_size, workers):
        results[subset].append(result)
    return {subset: coco_metrics(truth, found, most) for subset, found in results.items()}, results


def parse_stages(text: str) -> Stages:
    """`2` is stage 2, `1-3` stages 1 to 3, `1,3` stages 1 and 3; raises `ConfigError`."""
    return tuple(stage for part in text.split(",") for stage in _range(part, text))


def stages_name(stages: Stages) -> str:
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
