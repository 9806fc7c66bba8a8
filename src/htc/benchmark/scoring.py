"""Speed of the evaluation: ours against pycocotools on the same results, for which both must give the same metrics."""

import contextlib
import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc.evaluation.coco import coco_metrics

SIZE = (480, 640)
CLASSES = 80
OBJECTS = 7.2
"""Average number of instances per image: COCO val2017 has 36 thousand in 5000 images."""
RESULTS = 100
SCORED_KINDS = ("bbox", "segm")


@dataclass(frozen=True)
class ScoringSpeed:
    """Processor seconds of one thread for all box and mask metrics, from results in memory."""

    images: int
    objects: int
    results: int
    ours: float
    pycocotools: float
    difference: float
    """The largest difference between two AP values."""

    @property
    def ratio(self) -> float:
        """Speed-up of our evaluation over pycocotools."""
        return self.pycocotools / self.ours


def scoring_speed(images: int, seed: int = 0) -> ScoringSpeed:
    """Time both on synthetic results for `images` images, with irregular outlines, 40 % of them near an instance."""
    ground_truth, results = synthetic_results(images, seed)
    metrics, ours = _timed(lambda: coco_metrics(ground_truth, results))
    theirs, difference = 0.0, 0.0
    for kind in SCORED_KINDS:
        # Without the box, since otherwise the area of a result is that of its box.
        own = [
            {key: value for key, value in result.items() if kind == "bbox" or key != "bbox"}
            for result in copy.deepcopy(results)
        ]
        stats, seconds = _timed(partial(_pycocotools, copy.deepcopy(ground_truth), own, kind))
        theirs += seconds
        difference = max(
            difference, *(abs(a - b) for a, b in zip(list(metrics[kind].values())[:6], stats[:6], strict=True))
        )
    return ScoringSpeed(images, len(ground_truth["annotations"]), len(results), ours, theirs, float(difference))


def synthetic_results(images: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Create COCO annotations and results for `images` images."""
    generator = np.random.default_rng(seed)
    height, width = SIZE
    ground_truth: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)],
    }
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        ground_truth["images"].append({"id": image, "height": height, "width": width})
        outlines = [_outline(generator) for _ in range(generator.poisson(OBJECTS))]
        classes = generator.integers(1, CLASSES + 1, len(outlines)).tolist()
        for outline, category in zip(outlines, classes, strict=True):
            where = {
                "id": len(ground_truth["annotations"]) + 1,
                "image_id": image,
                "category_id": category,
                "iscrowd": 0,
            }
            ground_truth["annotations"].append(
                {**where, **_described(outline), "segmentation": [outline.ravel().tolist()]}
            )
        for score in np.sort(generator.random(RESULTS))[::-1].tolist():
            outline, category = _outline(generator), int(generator.integers(1, CLASSES + 1))
            if outlines and generator.random() < 0.4:
                chosen = int(generator.integers(len(outlines)))
                outline, category = _moved(outlines[chosen], generator), classes[chosen]
            predicted = _described(outline)
            results.append(
                {
                    "image_id": image,
                    "category_id": category,
                    "score": score,
                    "bbox": predicted["bbox"],
                    "segmentation": _rle(outline),
                }
            )
    return ground_truth, results


def _outline(generator: np.random.Generator) -> Float[np.ndarray, "V 2"]:
    """Create a wavy ellipse with a radius of 6 to 120 pixels, clipped to the image."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = 1 + 0.15 * np.sin(generator.integers(2, 6) * angle + generator.uniform(0, 2 * np.pi))
    radius = 10 ** generator.uniform(0.8, 2.08) * waves
    center = generator.uniform((0, 0), SIZE[::-1])
    return _clipped(center + np.stack((1.3 * radius * np.cos(angle), radius * np.sin(angle)), axis=1))


def _moved(outline: Float[np.ndarray, "V 2"], generator: np.random.Generator) -> Float[np.ndarray, "V 2"]:
    return _clipped(outline + generator.normal(0, np.ptp(outline, axis=0) * 0.08))


def _clipped(outline: Float[np.ndarray, "V 2"]) -> Float[np.ndarray, "V 2"]:
    return np.clip(outline, 0, (SIZE[1], SIZE[0]))


def _rle(outline: Float[np.ndarray, "V 2"]) -> dict[str, Any]:
    (mask,) = rle_codec.frPyObjects([outline.ravel().tolist()], *SIZE)
    counts = mask["counts"]
    return {"size": mask["size"], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _described(outline: Float[np.ndarray, "V 2"]) -> dict[str, Any]:
    mask: Any = _rle(outline)
    return {"bbox": rle_codec.toBbox(mask).tolist(), "area": float(rle_codec.area(mask))}


def _pycocotools(ground_truth: dict[str, Any], results: list[dict[str, Any]], kind: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = ground_truth  # pyright: ignore[reportAttributeAccessIssue] - its type has required fields that no evaluation reads
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), kind)  # pyright: ignore[reportArgumentType]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    value = work()
    return value, time.process_time() - start
