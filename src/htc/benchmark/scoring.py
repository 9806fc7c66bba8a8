"""From predictions to numbers: our evaluation against pycocotools on the same results, which both must score alike."""

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
"""An image, on average: COCO val2017 has 36 thousand in 5000."""
RESULTS = 100
SCORED_KINDS = ("bbox", "segm")


@dataclass(frozen=True)
class ScoringSpeed:
    """Processor seconds of one thread for all numbers of boxes and masks, from results in memory."""

    images: int
    objects: int
    results: int
    ours: float
    pycocotools: float
    difference: float
    """The largest between any two AP."""

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.pycocotools / self.ours


def scoring_speed(images: int, seed: int = 0) -> ScoringSpeed:
    """Measures both on made-up results of `images` images: irregular outlines, two in five of them near an
    object.
    """
    truth, results = made_up(images, seed)
    numbers, ours = _timed(lambda: coco_metrics(truth, results))
    theirs, difference = 0.0, 0.0
    for kind in SCORED_KINDS:
        # With its box a result would have the box's area.
        own = [
            {key: value for key, value in result.items() if kind == "bbox" or key != "bbox"}
            for result in copy.deepcopy(results)
        ]
        stats, seconds = _timed(partial(_pycocotools, copy.deepcopy(truth), own, kind))
        theirs += seconds
        difference = max(
            difference, *(abs(a - b) for a, b in zip(list(numbers[kind].values())[:6], stats[:6], strict=True))
        )
    return ScoringSpeed(images, len(truth["annotations"]), len(results), ours, theirs, float(difference))


def made_up(images: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO annotations and results of `images` images."""
    generator = np.random.default_rng(seed)
    height, width = SIZE
    truth: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)],
    }
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        truth["images"].append({"id": image, "height": height, "width": width})
        outlines = [_outline(generator) for _ in range(generator.poisson(OBJECTS))]
        classes = generator.integers(1, CLASSES + 1, len(outlines)).tolist()
        for outline, category in zip(outlines, classes, strict=True):
            where = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category, "iscrowd": 0}
            truth["annotations"].append({**where, **_described(outline), "segmentation": [outline.ravel().tolist()]})
        for score in np.sort(generator.random(RESULTS))[::-1].tolist():
            outline, category = _outline(generator), int(generator.integers(1, CLASSES + 1))
            if outlines and generator.random() < 0.4:
                chosen = int(generator.integers(len(outlines)))
                outline, category = _moved(outlines[chosen], generator), classes[chosen]
            found = _described(outline)
            results.append(
                {
                    "image_id": image,
                    "category_id": category,
                    "score": score,
                    "bbox": found["bbox"],
                    "segmentation": _rle(outline),
                }
            )
    return truth, results


def _outline(generator: np.random.Generator) -> Float[np.ndarray, "V 2"]:
    """A wavy ellipse of 6 to 120 pixels' radius, cut off at the image's edge."""
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


def _pycocotools(truth: dict[str, Any], results: list[dict[str, Any]], kind: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = truth  # pyright: ignore[reportAttributeAccessIssue] - its type asks for fields that no evaluation reads
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
