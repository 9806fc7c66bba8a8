"""Diagnostics on cases whose answers can be seen, and against definitions written out."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle_codec
from scipy.ndimage import distance_transform_cdt

from evaluation_scenes import encode, scene
from htc.evaluation.coco import boundary_metrics, coco_metrics, evaluated, summary
from htc.evaluation.comparison import compare
from htc.evaluation.diagnostics import diagnose
from htc.evaluation.errors import average_precision, errors_by_kind, sort_errors
from htc.evaluation.matching import confusion_matrix, match_by_score, matched_images, pair_by_overlap
from htc.evaluation.operating import Judged, best_f1, calibration

SIZE = (60, 80)
CAT, DOG = 1, 2


def box(x, y, width, height):
    bitmap = np.zeros(SIZE, bool)
    bitmap[y : y + height, x : x + width] = True
    return bitmap


def case(objects, results):
    """One image; objects are (category, bitmap, crowd), results (category, bitmap, score)."""
    truth = {
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
    }
    truth["annotations"] = [
        {"id": number, "image_id": 1, "category_id": category, "iscrowd": crowd, "segmentation": encode(bitmap)}
        | {"bbox": rle_codec.toBbox(encode(bitmap)).tolist(), "area": float(bitmap.sum())}
        for number, (category, bitmap, crowd) in enumerate(objects, start=1)
    ]
    found = [
        {"image_id": 1, "category_id": category, "segmentation": encode(bitmap), "score": score}
        for category, bitmap, score in results
    ]
    return compare(truth, found)


ZOO = case(
    [
        (CAT, box(0, 0, 10, 10), 0),
        (CAT, box(20, 0, 10, 10), 0),
        (DOG, box(40, 0, 10, 10), 0),
        (DOG, box(60, 0, 10, 10), 0),
        (CAT, box(0, 40, 40, 20), 1),
    ],
    [
        (CAT, box(0, 0, 10, 10), 0.95),  # right
        (CAT, box(0, 0, 10, 9), 0.9),  # double
        (CAT, box(20, 0, 10, 4), 0.85),  # badly outlined: IoU 0.4
        (CAT, box(40, 0, 10, 10), 0.8),  # wrong class
        (CAT, box(60, 0, 10, 3), 0.7),  # wrong class and outline: IoU 0.3
        (DOG, box(70, 40, 5, 5), 0.6),  # background
        (CAT, box(5, 45, 10, 10), 0.5),  # in the crowd
        (DOG, box(72, 40, 5, 5), 0.05),  # background, below the threshold
    ],
)


def test_every_kind_of_error_is_told_apart():
    (image,) = matched_images(ZOO, 100)
    errors = errors_by_kind([image], 2, 0.5)
    counts = {name: kind.count for name, kind in errors.items()}
    # The second cat is what the bad outline was meant for, the first dog what the wrong class was: only the last dog is
    # missed.
    assert counts == {
        "double": 1,
        "wrong class": 1,
        "badly outlined": 1,
        "wrong class and outline": 1,
        "background": 1,
        "missed": 1,
    }
    assert image.ignored.tolist() == [False] * 6 + [True, False]
    assert sort_errors(image).missed.tolist() == [False, False, False, True, False]


def test_what_each_kind_of_error_costs():
    """Cats: 2 objects; ranks right, double, outline, wrong class, both: AP = 51 of 101 recalls at precision 1. Dogs:
    AP 0.
    """
    errors = errors_by_kind(list(matched_images(ZOO, 100)), 2, 0.5)
    plain = (51 / 101 + 0) / 2
    cost = {name: kind.cost for name, kind in errors.items()}
    assert cost["double"] == pytest.approx(0)  # below the one right result, and nothing right comes later
    assert cost["badly outlined"] == pytest.approx(
        (51 + 50 * 2 / 3) / 101 / 2 - plain
    )  # the second cat is found at rank 3
    assert cost["wrong class"] == pytest.approx(
        (51 / 101 + 51 / 101) / 2 - plain
    )  # the dog is found, at the head of the dogs
    assert cost["wrong class and outline"] == pytest.approx(0)
    assert cost["missed"] == pytest.approx(0)  # one dog fewer to find, the other is still not found
    assert cost["background"] == pytest.approx(0)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_cocos(seed):
    truth, results = scene(seed)
    images = list(matched_images(compare(truth, results), 100))
    for label, name in enumerate(("cell", "debris")):
        own = [(image, (image.labels == label) & ~image.ignored) for image in images]
        scores = np.concatenate([image.scores[chosen] for image, chosen in own])
        right = np.concatenate([image.match[chosen] >= 0 for image, chosen in own])
        objects = sum(int(((image.object_labels == label) & ~image.crowd).sum()) for image in images)
        evaluation = evaluated("segm", compare(truth, results), 100)
        assert evaluation.eval["precision"][0, :, label, 0, -1].mean() == pytest.approx(
            average_precision(scores, right, objects), abs=1e-9
        ), name


def test_matching_takes_the_best_free_object_and_each_once():
    ious = np.array([[0.6, 0.8, 0.0], [0.7, 0.9, 0.0], [0.0, 0.0, 0.7]])
    match, ignored = match_by_score(ious, np.array([False, False, True]))
    assert match.tolist() == [1, 0, -1]
    assert ignored.tolist() == [False, False, True]


@pytest.mark.parametrize(("results", "objects"), [(0, 0), (0, 2), (3, 0)])
def test_matching_nothing(results, objects):
    match, ignored = match_by_score(np.zeros((results, objects)), np.zeros(objects, bool))
    assert match.tolist() == [-1] * results
    assert not ignored.any()
    assert pair_by_overlap(np.zeros((results, objects))).tolist() == [-1] * results


def test_confusion_matrix():
    matrix = confusion_matrix(matched_images(ZOO, 100), 2, 0.5)
    # Rows: cat, dog, background; columns: found as cat, as dog, not found. The result in the crowd is nowhere.
    assert matrix.tolist() == [[1, 0, 1], [1, 0, 1], [3, 1, 0]]


def test_confusion_pairs_the_largest_overlap_first():
    assert pair_by_overlap(np.array([[0.6, 0.9], [0.0, 0.95]])).tolist() == [0, 1]
    assert pair_by_overlap(np.array([[0.6, 0.9], [0.8, 0.85]])).tolist() == [1, 0]


def test_best_f1_by_trying_every_threshold():
    generator = np.random.default_rng(0)
    scores, right = generator.integers(0, 20, 100) / 20, generator.random(100) < 0.5
    found = best_f1(scores, right, 70)

    def f1(threshold):
        kept = scores >= threshold
        return 2 * right[kept].sum() / (kept.sum() + 70)

    assert found.f1 == pytest.approx(max(f1(threshold) for threshold in scores))
    assert f1(found.threshold) == pytest.approx(found.f1)
    assert found.f1 == pytest.approx(2 / (1 / found.precision + 1 / found.recall))


@pytest.mark.parametrize(("results", "objects", "expected"), [(0, 0, -1.0), (0, 3, 0.0), (3, 0, -1.0)])
def test_best_f1_of_nothing(results, objects, expected):
    assert best_f1(np.full(results, 0.5), np.zeros(results, bool), objects).f1 == expected


def test_calibration():
    """Eight results of 0.75, six of them right, are calibrated; two of 0.25, both right, are off by 0.75: 2/10 of
    0.75.
    """
    scores, right = np.array([0.75] * 8 + [0.25] * 2), np.array([True] * 6 + [False] * 2 + [True] * 2)
    found = calibration(Judged(scores, right, np.zeros(10, np.int64), np.array([10])))
    assert found.error == pytest.approx(0.2 * 0.75)
    assert [(one.count, one.score, one.right) for one in found.bins if one.count] == [(2, 0.25, 1.0), (8, 0.75, 0.75)]
    assert calibration(Judged(np.empty(0), np.empty(0, bool), np.empty(0, np.int64), np.array([0]))).error == -1.0


def boundary_of(bitmap, width):
    """Pixels of the mask at most `width` from the outside, diagonal steps counting as one; beyond the image is
    outside.
    """
    return bitmap & (distance_transform_cdt(np.pad(bitmap, 1), "chessboard")[1:-1, 1:-1] <= width)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("move", [0, 1, 2, 3])
def test_boundary_ap_of_one_object_by_its_definition(move):
    """A square moved sideways: AP is the share of the thresholds that min(mask IoU, boundary IoU) reaches."""
    truth, found = box(10, 10, 40, 40), box(10 + move, 10, 40, 40)
    comparison = case([(CAT, truth, 0)], [(CAT, found, 0.9)])
    width = round(0.02 * np.hypot(*SIZE))
    overlap = min(iou(truth, found), iou(boundary_of(truth, width), boundary_of(found, width)))
    expected = np.mean([overlap >= threshold for threshold in np.linspace(0.5, 0.95, 10)])
    assert boundary_metrics(comparison, list(matched_images(comparison, 100)), 100)["AP"] == pytest.approx(expected)
    if move:
        assert expected < evaluated("segm", comparison, 100).eval["precision"].max(-1)[:, :, 0, 0].mean()


@pytest.mark.parametrize("seed", range(2))
def test_boundaries_that_are_not_drawn_change_nothing(seed):
    comparison = compare(*scene(seed))
    assert boundary_metrics(comparison, list(matched_images(comparison, 100)), 100) == summary(
        evaluated("boundary", comparison, 100), 100
    )


def test_all_together_is_json_and_keeps_the_contract():
    truth, results = scene(1)
    metrics, found = diagnose(compare(truth, results))
    assert metrics == coco_metrics(truth, results)
    content = json.loads(json.dumps(found.content()))
    assert content["matched_by"] == "segm"
    assert np.mean(list(content["curves"]["segm"]["ap_by_iou"]["all"].values())) == pytest.approx(metrics["segm"]["AP"])
    assert np.mean(content["curves"]["bbox"]["precision"]["0.50"]) == pytest.approx(metrics["bbox"]["AP50"])
    # Classes without objects are undefined, and every object is somewhere in the matrix.
    assert content["best_f1"]["per_class"]["never there"]["f1"] == -1
    objects = sum(not a["iscrowd"] for a in truth["annotations"])
    assert sum(map(sum, content["confusion"]["matrix"][:-1])) == objects
    assert sum(one.found + one.missed for one in found.images) == objects


@pytest.mark.parametrize("with_objects", [False, True])
def test_diagnostics_without_results(with_objects):
    truth, _ = scene(2)
    metrics, found = diagnose(compare({**truth, "annotations": truth["annotations"] if with_objects else []}, []))
    assert metrics["segm"]["AP"] == (0.0 if with_objects else -1.0)
    assert found.calibration.error == -1
    assert json.dumps(found.content())


def test_boxes_alone_are_matched_by_boxes():
    truth, results = scene(3)
    boxes = [{key: value for key, value in result.items() if key != "segmentation"} for result in results]
    _, found = diagnose(compare(truth, boxes))
    assert (found.by, found.boundary) == ("bbox", None)
