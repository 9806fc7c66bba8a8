"""Mask stages measured one by one: the same numbers as a model that is configured so, in one pass."""

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.test_coco import encode
from htc.errors import ConfigError
from htc.evaluation.run import evaluate_model, evaluate_stages, parse_stages, stages_name
from htc.files import write_json
from htc.inference.predictor import Predictor
from small_detector import seeded_detector, small_config
from stand_in_detector import Corners

SUBSETS = [(1,), (2,), (3,), (1, 2, 3), (1, 3)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two noisy images; the objects are where a model with seeded weights finds some, so that numbers are above 0."""
    folder, generator = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    model = predictor()
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": id + 1, "name": name} for id, name in enumerate(("cat", "dog", "bird"))],
    }
    for number in range(2):
        pixels = generator.integers(0, 255, (64, 90, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 90})
        found = model.predict(pixels, score_threshold=0.0)
        for object, bitmap in zip(found, found.masks.bitmaps(), strict=True):
            rle = encode(bitmap)
            x1, y1, x2, y2 = object.box.tolist()
            where = {
                "id": len(content["annotations"]) + 1,
                "image_id": number,
                "category_id": object.category_id,
                "iscrowd": 0,
                "segmentation": rle,
            }
            if bitmap.any():
                content["annotations"].append(
                    {**where, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(bitmap.sum())}
                )
    write_json(folder / "instances.json", content)
    return folder


def predictor(**inference):
    detector = seeded_detector(small_config(3, semantic={}, inference=inference), spread=0.2)
    torch.manual_seed(1)
    for head in detector.roi.mask_heads:
        torch.nn.init.normal_(head.logits.weight, std=2.0)
    return Predictor(detector, detector.config)


def test_each_subset_equals_a_model_configured_so(images):
    seen = []
    found = evaluate_stages(
        predictor(), images / "instances.json", images, SUBSETS, progress=lambda *done: seen.append(done)
    )[0]
    assert list(found) == SUBSETS
    assert seen == [(1, 2), (2, 2)]
    for subset, metrics in found.items():
        alone, _ = evaluate_model(predictor(mask_stages=subset), images / "instances.json", images)
        assert metrics == alone
    assert len({metrics["segm"]["AP"] for metrics in found.values()}) > 1
    assert len({metrics["bbox"]["AP"] for metrics in found.values()}) == 1


def test_every_head_runs_once_a_image(images):
    model = predictor()
    calls = []
    for head in [model.detector.backbone, *model.detector.roi.mask_heads]:
        head.register_forward_hook(lambda *_: calls.append(1))
    for head in model.detector.roi.mask_heads:
        features = head.features
        head.features = lambda x, features=features: calls.append(2) or features(x)
    evaluate_stages(model, images / "instances.json", images, SUBSETS)
    assert calls.count(2) == 2 * 3


@pytest.mark.parametrize("subset", [(), (0,), (4,), (1, 1)])
def test_stages_the_model_does_not_have(images, subset):
    with pytest.raises(ConfigError, match="from 1 to 3"):
        evaluate_stages(predictor(), images / "instances.json", images, [subset])


def test_a_network_without_stages(images):
    config = small_config(3)
    with pytest.raises(ConfigError, match="has no stages"):
        evaluate_stages(Predictor(Corners(), config), images / "instances.json", images, [(1,)])


@pytest.mark.parametrize(("text", "stages"), [("2", (2,)), ("1-3", (1, 2, 3)), ("1,3", (1, 3)), ("1-2,4", (1, 2, 4))])
def test_texts_for_stages(text, stages):
    assert parse_stages(text) == stages
    assert parse_stages(stages_name(stages)) == stages


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1--3", "1,", "½"])
def test_texts_that_are_no_stages(text):
    with pytest.raises(ConfigError, match="--stages"):
        parse_stages(text)
