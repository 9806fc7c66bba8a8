"""The bootstrap against its definition: the same number as an annotation file that really holds each drawn image."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle_codec

from htc.evaluation.bootstrap import draws, gains, interval, matches, resampled
from htc.evaluation.coco import boundary_metrics, coco_metrics
from htc.evaluation.comparison import compare
from htc.evaluation.matching import matched_images

IMAGES = 7


def annotated(classes: int = 2) -> dict[str, Any]:
    numbers = np.random.default_rng(1)
    objects = []
    for image in range(1, IMAGES):  # the last image is empty
        for _ in range(5):
            x, y, w, h = (float(v) for v in numbers.integers(4, 40, 4))
            category = int(numbers.integers(1, classes + 1))
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    images = [{"id": image, "height": 100, "width": 100} for image in range(1, IMAGES + 1)]
    return {
        "images": images,
        "annotations": objects,
        "categories": [{"id": id, "name": f"class {id}"} for id in range(1, classes + 1)],
    }


def found(truth: dict[str, Any], noise: float) -> list[dict[str, Any]]:
    numbers = np.random.default_rng(2)
    results = []
    for annotation in truth["annotations"]:
        box = [max(1.0, value + noise * float(numbers.normal())) for value in annotation["bbox"]]
        results.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": box,
                "score": float(numbers.random()),
            }
        )
    return results


def repeated(truth: dict[str, Any], results: list[dict[str, Any]], draw: list[int]) -> float:
    """COCO's AP of a file in which each drawn image has a place and an id of its own."""
    images, objects, copies = [], [], []
    for place, image in enumerate(draw, start=1):
        images.append({**truth["images"][image], "id": place})
        for annotation in truth["annotations"]:
            if annotation["image_id"] == image + 1:
                objects.append({**annotation, "id": len(objects) + 1, "image_id": place})
        copies += [{**result, "image_id": place} for result in results if result["image_id"] == image + 1]
    return coco_metrics({**truth, "images": images, "annotations": objects}, copies, 100)["bbox"]["AP"]


def outline(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def mask_of(box: list[float]) -> dict[str, Any]:
    polygons: Any = [outline(box)]
    rle: Any = rle_codec.frPyObjects(polygons, 100, 100)
    return {**rle[0], "counts": rle[0]["counts"].decode()}


def test_all_images_once_is_cocos_own_number() -> None:
    truth = annotated()
    results = found(truth, 2.0)
    whole = matches("bbox", truth, results, 100).average_precision()
    assert whole == pytest.approx(coco_metrics(truth, results, 100)["bbox"]["AP"], abs=1e-12)
    assert 0.1 < whole < 0.95


@pytest.mark.parametrize("seed", range(5))
def test_a_draw_equals_a_file_that_repeats_its_images(seed: int) -> None:
    truth = annotated()
    results = found(truth, 2.0)
    draw = draws(IMAGES, 1, seed)[0]
    assert matches("bbox", truth, results, 100).average_precision(draw) == pytest.approx(
        repeated(truth, results, draw.tolist()), abs=1e-12
    )


def test_boundaries_are_matched_as_the_evaluation_does() -> None:
    truth = annotated()
    for annotation in truth["annotations"]:
        annotation["segmentation"] = [outline(annotation["bbox"])]
    results = [{**result, "segmentation": mask_of(result["bbox"])} for result in found(truth, 2.0)]
    comparison = compare(truth, results)
    expected = boundary_metrics(comparison, list(matched_images(comparison, 100)), 100)["AP"]
    assert matches("boundary", truth, results, 100).average_precision() == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < matches("segm", truth, results, 100).average_precision()


def test_equal_results_never_differ() -> None:
    truth = annotated()
    one, two = matches("bbox", truth, found(truth, 2.0), 100), matches("bbox", truth, found(truth, 2.0), 100)
    drawn = draws(IMAGES, 20, 0)
    assert interval(resampled(one, drawn) - resampled(two, drawn)) == (0.0, 0.0)


def test_better_results_are_better_in_nearly_every_draw() -> None:
    truth = annotated()
    good, bad = matches("bbox", truth, found(truth, 0.5), 100), matches("bbox", truth, found(truth, 6.0), 100)
    drawn = draws(IMAGES, 50, 0)
    low, high = interval(resampled(good, drawn) - resampled(bad, drawn))
    assert 0 < low < high


def test_without_results_or_objects() -> None:
    truth = annotated()
    assert matches("bbox", truth, [], 100).average_precision() == 0
    assert matches("bbox", {**truth, "annotations": []}, [], 100).average_precision(draws(IMAGES, 1, 0)[0]) == -1


def test_gains_by_kind() -> None:
    truth = annotated()
    good, bad = found(truth, 0.5), found(truth, 6.0)
    (kind,) = gains(truth, good, bad, 100)
    assert kind == "bbox"
    gain = gains(truth, good, bad, 100)["bbox"]
    assert (gain.ap, gain.other) == tuple(
        pytest.approx(coco_metrics(truth, each, 100)["bbox"]["AP"]) for each in (good, bad)
    )
    assert 0 < gain.low < gain.difference < gain.high
    for annotation in truth["annotations"]:
        annotation["segmentation"] = [outline(annotation["bbox"])]
    masks = [{**result, "segmentation": mask_of(result["bbox"])} for result in good]
    assert set(gains(truth, masks, masks, 100)) == {"bbox", "segm"}
    assert set(gains(truth, masks, bad, 100)) == {"bbox"}, "boxes alone can be compared with boxes"
