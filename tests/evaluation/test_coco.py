"""Our COCO numbers against pycocotools, on generated scenes and on the bundled nuclei."""

import json

import numpy as np
import pytest

from evaluation_scenes import CATEGORIES, assert_equal, encode, scene
from htc.errors import DataError
from htc.evaluation.coco import coco_metrics


@pytest.mark.parametrize("max_detections", [1, 5, 100, 400])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_pycocotools_on_generated_scenes(seed, max_detections):
    assert_equal(*scene(seed), max_detections)


def test_counts_more_than_100_detections():
    truth, results = scene(3, images=2, most=300, crowds=False)
    assert max(sum(r["image_id"] == i["id"] for r in results) for i in truth["images"]) > 150
    assert_equal(truth, results, 400)
    assert coco_metrics(truth, results, 400)["bbox"]["AP"] > coco_metrics(truth, results, 20)["bbox"]["AP"]


def test_input_is_left_as_it_was():
    truth, results = scene(4)
    before = json.dumps([truth, results])
    coco_metrics(truth, results)
    assert json.dumps([truth, results]) == before


def test_reads_a_file_and_gives_plain_numbers(tmp_path):
    truth, results = scene(5)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(truth))
    numbers = coco_metrics(path, results)
    assert numbers == coco_metrics(truth, results)
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["per_class"]["never there"] == {"bbox": -1.0, "segm": -1.0}


def test_mask_areas_not_box_areas_decide_the_size():
    """A thin diagonal line: its mask is small, its box large."""
    bitmap = np.eye(120, dtype=bool)
    rle = encode(bitmap)
    truth = {"images": [{"id": 1, "height": 120, "width": 120}], "categories": CATEGORIES[:1]}
    truth["annotations"] = [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 3,
            "iscrowd": 0,
            "area": 120.0,
            "bbox": [0, 0, 120, 120],
            "segmentation": rle,
        }
    ]
    other = {
        "image_id": 1,
        "category_id": 3,
        "bbox": [0, 0, 120, 120],
        "score": 0.9,
        "segmentation": encode(np.eye(120, k=3, dtype=bool)),
    }
    right = {**other, "score": 0.5, "segmentation": rle}
    # The wrong line is as small as the right one, so it counts against AP_S: precision 1/2.
    assert coco_metrics(truth, [other, right])["segm"]["APs"] == pytest.approx(0.5)


def test_boxes_alone_have_no_mask_numbers():
    truth, results = scene(6)
    boxes = [{key: value for key, value in result.items() if key != "segmentation"} for result in results]
    numbers = coco_metrics(truth, boxes)
    assert "segm" not in numbers
    assert numbers["bbox"] == coco_metrics(truth, results)["bbox"]
    assert numbers["per_class"]["cell"].keys() == {"bbox"}


def test_masks_alone_give_boxes_too():
    truth, results = scene(7)
    masks = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    assert coco_metrics(truth, masks) == coco_metrics(truth, results)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_nothing_found_is_zero(kind):
    truth, _ = scene(8)
    assert coco_metrics(truth, [])[kind]["AP"] == 0.0


@pytest.mark.parametrize("with_results", [False, True])
def test_nothing_to_find_is_undefined(with_results):
    truth, results = scene(9)
    truth = {**truth, "annotations": []}
    numbers = coco_metrics(truth, results if with_results else [])
    assert set(numbers["bbox"].values()) == set(numbers["segm"].values()) == {-1.0}


def test_polygons_string_ids_and_object_id_zero():
    """What other tools write: polygons in results, image ids that are paths, objects counted from 0, no area."""
    square = [[10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]]
    truth = {
        "images": [{"id": "a/1.png", "height": 80, "width": 80}, {"id": 2, "height": 80, "width": 80}],
        "categories": CATEGORIES[:1],
    }
    truth["annotations"] = [
        {"id": 0, "image_id": "a/1.png", "category_id": 3, "bbox": [10, 10, 40, 40], "segmentation": square}
    ]
    result = {"image_id": "a/1.png", "category_id": 3, "score": 0.8, "bbox": [10, 10, 40, 40], "segmentation": square}
    numbers = coco_metrics(truth, [result])
    assert numbers["bbox"]["AP"] == numbers["segm"]["AP"] == pytest.approx(1.0)
    assert numbers["segm"]["APm"] == pytest.approx(1.0)
    assert numbers["segm"]["APs"] == -1.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_id": 999}, "image_id 999"),
        ({"category_id": 999}, "category_id 999"),
        ({"score": float("nan")}, "score nan"),
        ({"score": None}, "score missing"),
        ({"segmentation": None}, "no segmentation"),
    ],
)
def test_results_that_do_not_fit_are_named(change, says):
    truth, results = scene(10)
    bad = {key: value for key, value in {**results[1], **change}.items() if value is not None}
    with pytest.raises(DataError, match=f"result 1: .*{says}|result 1 .*{says}"):
        coco_metrics(truth, [results[0], bad, *results[2:]])


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "not valid JSON"), ("[]", "not a COCO instance file"), ('{"images": []}', "annotations, categories")],
)
def test_bad_annotation_files_are_named(tmp_path, content, says):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(DataError, match=says):
        coco_metrics(path, [])
    with pytest.raises(DataError, match="no such file"):
        coco_metrics(tmp_path / "absent.json", [])
