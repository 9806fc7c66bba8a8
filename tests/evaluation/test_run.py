"""Measuring a model, here one that answers with what is annotated, and result files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle_codec
from torch import nn

from htc.config import Config, Inference, Input
from htc.errors import ConfigError, DataError
from htc.evaluation.coco import coco_metrics
from htc.evaluation.files import read_results
from htc.evaluation.run import evaluate_model, match_categories
from htc.inference.predictor import Predictor
from htc.types import RawDetections

BOXES = torch.tensor([[8.0, 8.0, 40.0, 24.0], [30.0, 30.0, 60.0, 60.0], [2.0, 50.0, 10.0, 62.0]])


class Knows(nn.Module):
    """Finds the same three full rectangles in every image, in pixels of the network input, of the given classes."""

    def __init__(self, labels=(0, 1, 0), scale=1.0):
        super().__init__()
        self.labels, self.scale, self.seen = torch.tensor(labels), scale, []

    def forward(self, images, _sizes, _limits):
        count = len(images)
        self.seen.append(count)
        masks = torch.full((count, 3, 28, 28), 1.0)
        valid = torch.ones(count, 3, dtype=torch.bool)
        boxes, scores = (BOXES * self.scale).repeat(count, 1, 1), torch.tensor([0.9, 0.8, 0.7]).repeat(count, 1)
        return RawDetections(boxes, scores, self.labels.repeat(count, 1), valid, masks)


def predictor(classes=("ring", "bar"), *, scale=1.0, **changes):
    config = Config(
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        inference=Inference(max_detections=3),
        input=Input(short_edge=round(64 * scale), long_edge=round(64 * scale)),
    )
    return Predictor(Knows(scale=scale, **changes), config)


@pytest.fixture
def images(tmp_path):
    """Two images whose objects are the rectangles; ids are not the model's; the last image has none."""
    names = {2: "bar", 40: "ring"}
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": key, "name": name} for key, name in names.items()],
    }
    for number in range(3):
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / f"{number}.png")
        content["images"].append({"id": number + 100, "file_name": f"{number}.png", "height": 64, "width": 64})
        for (x1, y1, x2, y2), category in zip(BOXES.int().tolist() if number < 2 else [], (40, 2, 40), strict=False):
            bitmap = np.zeros((64, 64), np.uint8, order="F")
            bitmap[y1:y2, x1:x2] = 1
            rle = rle_codec.encode(bitmap)
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            where = {
                "id": len(content["annotations"]) + 1,
                "image_id": number + 100,
                "category_id": category,
                "iscrowd": 0,
            }
            content["annotations"].append(
                {
                    **where,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float((x2 - x1) * (y2 - y1)),
                    "segmentation": segmentation,
                }
            )
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_perfect_model_scores_one_by_name_in_original_pixels(images, scale, batch_size):
    seen = []
    model = predictor(scale=scale)
    metrics, results = evaluate_model(
        model, images / "instances.json", images, progress=lambda *done: seen.append(done), batch_size=batch_size
    )
    assert len(results) == 9
    assert {(r["category_name"], r["category_id"]) for r in results} == {("ring", 40), ("bar", 2)}
    assert {r["image_id"] for r in results} == {100, 101, 102}
    assert metrics["bbox"]["AR@3"] == metrics["segm"]["AR@3"] == pytest.approx(1.0)
    assert metrics["segm"]["AP"] == pytest.approx(metrics["bbox"]["AP"])
    assert metrics["per_class"].keys() == {"ring", "bar"}
    assert seen[-1] == (3, 3)
    assert max(model.detector.seen) == batch_size


def test_saved_results_give_the_same_numbers(images, tmp_path):
    metrics, results = evaluate_model(predictor(), images / "instances.json", images)
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert coco_metrics(images / "instances.json", read_results(tmp_path / "results.json"), 3) == metrics
    assert coco_metrics(images / "instances.json", results, 3) == metrics


def test_fewer_detections_count_where_asked_for(images):
    metrics, results = evaluate_model(predictor(), images / "instances.json", images, max_detections=1)
    assert len(results) == 3
    assert metrics["bbox"]["AR@1"] < 1
    with pytest.raises(ConfigError, match="max_detections is 4: give 1 to 3"):
        evaluate_model(predictor(), images / "instances.json", images, max_detections=4)


def test_a_category_the_model_does_not_know_is_an_error(images):
    with pytest.raises(DataError, match="'bar', which the model does not have"):
        evaluate_model(predictor(("ring", "bow")), images / "instances.json", images)


def test_classes_the_annotations_lack_are_left_out(images):
    _, results = evaluate_model(predictor(("bow", "bar", "ring"), labels=(2, 1, 0)), images / "instances.json", images)
    assert {r["category_name"] for r in results} == {"ring", "bar"}
    assert match_categories(("bow", "bar"), {"categories": [{"id": 5, "name": "bar"}], "annotations": []}) == [None, 5]


@pytest.mark.parametrize("content", ["{}", "[1]"])
def test_result_files_that_are_none(images, tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match="not a COCO result file"):
        coco_metrics(images / "instances.json", read_results(tmp_path / "results.json"))
