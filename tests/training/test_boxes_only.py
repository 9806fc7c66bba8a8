"""Data without any mask train a model of boxes alone, from annotations to drawings."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import htc
from htc.config import NoMask
from htc.data.coco import Splits, read_coco
from htc.data.transforms import NetworkInput
from htc.errors import ConfigError
from htc.evaluation.run import evaluate_model
from htc.inference.stages import detect_stages
from htc.model.detector import Detector
from htc.training.auto_config import stated
from htc.training.finetune import fit_to_data
from htc.training.run import Options, run_training
from training.discs import write_split
from training.tiny import tiny


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    annotations = [write_split(folder, part, 4, seed) for seed, part in enumerate(("train", "val"))]
    for path in annotations:
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        path.write_text(json.dumps(content))
    return Splits(annotations[0], folder / "train", annotations[1], folder / "val")


@pytest.fixture(scope="module")
def result(splits, tmp_path_factory):
    return run_training(
        tiny(epochs=1),
        splits,
        tmp_path_factory.mktemp("run") / "out",
        Options(device="cpu", images=1),
    )


def test_the_model_has_no_mask_heads_and_no_mask_losses(result):
    assert result.config.cascade.mask_head == NoMask()
    assert result.config.cascade.semantic_fusion == "box"
    assert not result.config.cascade.mask_flow
    header = (result.folder / "losses.csv").read_text().splitlines()[0]
    assert "stage3.box" in header
    assert "mask" not in header


def test_boxes_are_measured_and_masks_are_not(result, splits):
    assert "bbox" in result.metrics.to_dict()
    assert "segm" not in result.metrics.to_dict()
    predictor = htc.load(str(result.model_folder), device="cpu")
    metrics, results = evaluate_model(predictor, splits.val_annotations, splits.val_images)
    assert metrics["bbox"] == result.metrics.to_dict()["bbox"]
    assert "segm" not in metrics
    assert all("segmentation" not in one and "bbox" in one for one in results)


def test_what_is_found_are_boxes(result, splits):
    image = next(splits.val_images.glob("*"))
    found = htc.load(str(result.model_folder), device="cpu").predict(image, score_threshold=0.0)
    assert len(found)
    assert not found.masks.exist
    assert np.asarray(found.draw(image)).shape[:2] == found.size
    assert found.to_supervision().mask is None
    shapes = found.to_labelme("picture.png")["shapes"]
    assert len(shapes) == len(found)
    assert {shape["shape_type"] for shape in shapes} == {"rectangle"}
    assert shapes[0]["points"] == found.boxes[0].reshape(2, 2).tolist()
    with pytest.raises(ConfigError, match="boxes only"):
        found.masks.rle()


def test_it_is_said(splits):
    config = fit_to_data(tiny(), read_coco(splits.train_annotations, splits.train_images), "auto")
    assert {"cascade.mask_head.kind": "none"} in [choice.fields for choice in stated(config, "auto", 2)]


def test_one_object_with_a_mask_keeps_the_mask_heads(splits, tmp_path):
    content = json.loads(splits.train_annotations.read_text())
    x, y, width, height = content["annotations"][0]["bbox"]
    content["annotations"][0]["segmentation"] = [[x, y, x + width, y, x + width, y + height]]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    config = fit_to_data(tiny(), read_coco(path, splits.train_images), "auto")
    assert config.cascade == tiny().cascade


def test_stages_of_masks_are_refused(result):
    predictor = htc.load(str(result.model_folder), device="cpu")
    with pytest.raises(ConfigError, match="boxes alone"):
        detect_stages(predictor, NetworkInput(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]])), [(64, 64)], [(1,)])


@pytest.mark.parametrize(
    "changes", [{"mask_flow": True, "semantic_fusion": "box"}, {"mask_flow": False, "semantic_fusion": "both"}]
)
def test_masks_that_are_not_there_neither_flow_nor_fuse(changes):
    with pytest.raises(ValidationError, match="set mask_flow to false"):
        type(tiny().cascade)(mask_head=NoMask(), **changes)


def test_an_empty_image_gives_no_detections():
    config = tiny().model_dump()
    config["cascade"] |= {"mask_head": {"kind": "none"}, "mask_flow": False, "semantic_fusion": "box"}
    config["inference"] |= {"score_threshold": 1.0}
    detector = Detector(htc.Config.model_validate(config)).eval()
    with torch.no_grad():
        raw = detector(torch.zeros(2, 3, 64, 64), torch.tensor([[64, 64], [40, 50]]))
    assert not raw.valid.any()
    assert raw.masks.shape == (2, 20, 0, 0)
