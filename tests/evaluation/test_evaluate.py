"""Evaluating from Python, with everything beside the metrics in one object."""

import json

import pytest

from evaluation.test_run import images as images
from evaluation.test_run import predictor
from htc.data.coco import read_coco
from htc.evaluation.evaluation import EvaluationData, evaluate_predictor, images_folder, member_names
from htc.evaluation.files import read_annotations
from htc.evaluation.run import evaluate_model


def test_the_object_holds_the_metrics_and_what_is_beside_them(images, tmp_path):
    file = images / "instances.json"
    data = EvaluationData(file, images, read_annotations(file), read_coco(file, images))
    one, steps = predictor(), []
    found = evaluate_predictor(
        one,
        data,
        members={"a": one, "b": one},
        save_results=tmp_path / "results.json",
        progress=lambda *step: steps.append(step),
    )
    metrics, results = evaluate_model(predictor(), images / "instances.json", images)
    assert found.metrics == metrics
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert found.to_dict() == {**metrics, "members": {"a": metrics, "b": metrics}}
    assert [name for _, _, name in steps] == ["a"] * 3 + ["b"] * 3 + [""] * 3
    against = found.compared_with(results).to_dict()["against"]["bbox"]
    assert against == {"AP": metrics["bbox"]["AP"], "difference": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize(("folder", "expected"), [("val2017", "val2017"), ("other", "annotations")])
def test_the_images_folder_follows_coco_s_layout(tmp_path, folder, expected):
    (tmp_path / "annotations").mkdir()
    (tmp_path / folder).mkdir()
    assert images_folder(tmp_path / "annotations" / "instances_val2017.json") == tmp_path / expected


def test_members_are_named_apart():
    assert member_names(["x/a", "y/b"]) == ["a", "b"]
    assert member_names(["x/a", "y/a"]) == ["x/a", "y/a"]
    assert member_names(["x/a", "x/a"]) == ["x/a (1)", "x/a (2)"]
