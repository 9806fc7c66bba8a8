"""Scenes of annotations and results, and pycocotools' numbers of them."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc.evaluation.coco import coco_metrics, evaluated, recalls
from htc.evaluation.comparison import compare

CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "debris"}, {"id": 11, "name": "never there"}]


def disc(generator, height, width):
    y, x = generator.uniform(0, height), generator.uniform(0, width)
    radius = generator.uniform(2, 40)
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def encode(bitmap):
    rle = rle_codec.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def scene(seed, images=6, most=30, crowds=True):
    """Annotations and results of random discs: found well, found badly, missed, invented; some images are empty."""
    generator = np.random.default_rng(seed)
    height, width = 120, 150
    truth = {
        "images": [{"id": 10 * i + 5, "height": height, "width": width} for i in range(images)],
        "annotations": [],
        "categories": CATEGORIES,
    }
    results = []
    for index, image in enumerate(truth["images"]):
        for _ in range(0 if index == 2 else generator.integers(1, most)):
            bitmap = disc(generator, height, width)
            if not bitmap.any():
                continue
            rle = encode(bitmap)
            category = int(generator.choice([3, 7]))
            crowd = int(crowds and generator.random() < 0.1)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "iscrowd": crowd,
                    "area": float(rle_codec.area(rle)),
                    "bbox": rle_codec.toBbox(rle).tolist(),
                    "segmentation": rle,
                }
            )
            for _ in range(generator.integers(0, 4)):
                moved = np.roll(bitmap, tuple(generator.integers(-6, 7, 2)), (0, 1))
                results.append(
                    found(image["id"], category if generator.random() < 0.8 else 3, moved, generator.random())
                )
        for _ in range(generator.integers(0, 5)):
            invented = disc(generator, height, width)
            if invented.any():
                results.append(found(image["id"], 7, invented, generator.random() / 2))
    return truth, results


def found(image_id, category_id, bitmap, score):
    rle = encode(bitmap)
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": rle_codec.toBbox(rle).tolist(),
        "score": float(score),
        "segmentation": rle,
    }


def reference(truth, results, max_detections, kind):
    """pycocotools' twelve numbers at `max_detections`, and AP by class; boxes are dropped before the mask
    evaluation.
    """
    results = copy.deepcopy(results)
    if kind == "segm":
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = copy.deepcopy(truth)
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(results), kind)
        evaluation.params.maxDets = (
            [1, 10, 100] if max_detections == 100 else [n for n in (1, 10) if n < max_detections] + [max_detections]
        )
        evaluation.evaluate()
        evaluation.accumulate()
        if max_detections == 100:
            evaluation.summarize()
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"]
    numbers = {
        "AP": mean(precision[:, :, :, 0]),
        "AP50": mean(precision[0, :, :, 0]),
        "AP75": mean(precision[5, :, :, 0]),
    }
    numbers |= {name: mean(precision[:, :, :, area]) for area, name in enumerate(("APs", "APm", "APl"), start=1)}
    numbers |= {f"AR@{count}": mean(recall[:, :, 0, index]) for index, count in enumerate(evaluation.params.maxDets)}
    numbers |= {name: mean(recall[:, :, area, -1]) for area, name in enumerate(("ARs", "ARm", "ARl"), start=1)}
    if max_detections == 100:
        assert list(numbers.values()) == pytest.approx(evaluation.stats, abs=1e-12)  # its own summary is this one
    return numbers, [mean(precision[:, :, k, 0]) for k in range(precision.shape[2])]


def mean(values):
    return values[values > -1].mean() if (values > -1).any() else -1.0


def assert_equal(truth, results, max_detections):
    """All twelve numbers of boxes and masks, and AP by class, to 1e-9."""
    ours, comparison = coco_metrics(truth, results, max_detections), compare(truth, results)
    for kind in ("bbox", "segm"):
        numbers, classes = reference(truth, results, max_detections, kind)
        found = ours[kind] | recalls(evaluated(kind, comparison, max_detections))
        assert found.keys() == numbers.keys()
        for name, value in numbers.items():
            assert found[name] == pytest.approx(value, abs=1e-9), (kind, name)
        names = [c["name"] for c in sorted(truth["categories"], key=lambda c: c["id"])]
        for name, value in zip(names, classes, strict=True):
            assert ours["per_class"][name][kind] == pytest.approx(value, abs=1e-9), (kind, name)
