"""Random ground truth and results: average precision and recall, compared with pycocotools."""

import contextlib
import io
import math
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc.evaluation.coco import coco_metrics
from stress_tests.harness import Case, Stress
from stress_tests.samples import encoded, generator_of, random_mask

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
TOLERANCE = 1e-9
"""faster-coco-eval adds in another order."""


def prepare(_shared: Path) -> Case:
    """Return the case."""
    return case


def case(_index: int, numbers: random.Random, _folder: Path) -> str | None:
    """Compare every metric of one scene."""
    content, results = scene(numbers)
    maximum = numbers.choice((1, 10, 100))
    ours = coco_metrics(deepcopy(content), deepcopy(results), maximum)
    for kind in ("bbox", "segm"):
        theirs = reference(content, results, maximum, kind)
        for name, value in theirs.items():
            if math.isnan(ours[kind][name]) or abs(ours[kind][name] - value) > TOLERANCE:
                return f"{kind} {name} is {ours[kind][name]}, pycocotools has {value} (at most {maximum} detections)"
    return None


def scene(numbers: random.Random) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return annotations and results: some found, some shifted, some of another class, some from nowhere; equal scores,
    crowds, images without annotations and without results.
    """
    generator = generator_of(numbers)
    classes = int(generator.integers(1, 4))
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 2 * number + 1, "name": f"class {number}"} for number in range(classes)],
    }
    results: list[dict[str, Any]] = []
    scores = (lambda: float(np.round(generator.random(), 1))) if generator.random() < 0.3 else generator.random
    for image in range(1, int(generator.integers(1, 5)) + 1):
        height, width = (int(size) for size in generator.integers(20, 160, 2))
        content["images"].append({"id": image, "height": height, "width": width})
        for _ in range(generator.integers(0, 7)):
            mask = random_mask(generator, height, width)
            if not mask.any():
                continue
            category = 2 * int(generator.integers(classes)) + 1
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image,
                    "category_id": category,
                    "iscrowd": int(generator.random() < 0.15),
                    "area": float(mask.sum()),
                    **_outlined(mask),
                }
            )
            for _ in range(generator.integers(0, 3)):
                found = np.roll(mask, tuple(generator.integers(-6, 7, 2)), (0, 1))
                other = 2 * int(generator.integers(classes)) + 1 if generator.random() < 0.2 else category
                results.append({"image_id": image, "category_id": other, "score": float(scores()), **_outlined(found)})
        for _ in range(generator.integers(0, 3)):
            mask = random_mask(generator, height, width)
            if mask.any():
                category = 2 * int(generator.integers(classes)) + 1
                results.append(
                    {"image_id": image, "category_id": category, "score": float(scores()), **_outlined(mask)}
                )
    return content, results


def _outlined(mask: np.ndarray) -> dict[str, Any]:
    runs = encoded(mask)
    return {"bbox": coco_masks.toBbox(runs).tolist(), "segmentation": runs}


def reference(content: dict[str, Any], results: list[dict[str, Any]], maximum: int, kind: str) -> dict[str, float]:
    """Compute the metrics with pycocotools; masks are evaluated without boxes, which would decide their size."""
    truth, found = COCO(), COCO()
    truth.dataset = deepcopy(content)
    found.dataset = {**deepcopy(content), "annotations": []}
    for number, result in enumerate(deepcopy(results), start=1):
        area = coco_masks.area(result["segmentation"]) if kind == "segm" else result["bbox"][2] * result["bbox"][3]
        found.dataset["annotations"].append({**result, "id": number, "iscrowd": 0, "area": float(area)})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.maxDets = sorted({1, 10, maximum})
        evaluation.evaluate()
        evaluation.accumulate()
    last = evaluation.params.maxDets.index(maximum)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    parts = (slice(None), [0], [5], slice(None), slice(None), slice(None))
    sizes = (0, 0, 0, 1, 2, 3)
    values = {
        name: _mean(precision[part][..., size, last]) for name, part, size in zip(NAMES, parts, sizes, strict=True)
    }
    return {**values, f"AR@{maximum}": _mean(recall[..., 0, last])}


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


STRESS = Stress("ap", "average precision of random results, equal to pycocotools'", 10_000, prepare)
