"""The demo's own code on a tiny model and a few of the bundled images; what it reaches at its real size is in
docs.
"""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htc.data.coco import Splits
from htc.demo.run import DEMO_PRESET, nuclei, run_demo
from htc.errors import OutputError
from htc.evaluation.coco import coco_metrics
from htc.inference.load import load
from htc.presets import preset
from htc.training.events import StepDone
from training.tiny import tiny


def few(annotations, place, count):
    """The smallest images of an annotation file, as a file of their own."""
    content = json.loads(annotations.read_text())
    images = sorted(content["images"], key=lambda image: (image["height"] * image["width"], image["id"]))[:count]
    ids = {image["id"] for image in images}
    place.write_text(
        json.dumps(
            {**content, "images": images, "annotations": [a for a in content["annotations"] if a["image_id"] in ids]}
        )
    )
    return place


def test_the_demo_leaves_model_numbers_curves_and_images(tmp_path):
    bundled = nuclei()
    train, val = (
        few(bundled.train_annotations, tmp_path / "train.json", 4),
        few(bundled.val_annotations, tmp_path / "val.json", 2),
    )
    splits = Splits(train, bundled.train_images, val, bundled.val_images)
    steps = []
    out = tmp_path / "demo"
    result = run_demo(
        out,
        device="cpu",
        progress=lambda event: isinstance(event, StepDone) and steps.append((event.step, event.steps)),
        config=tiny(epochs=1),
        splits=splits,
    )
    assert steps == [(1, 2), (2, 2)]
    assert load(result.model, device="cpu").config.classes == ("nucleus",)
    assert json.loads((out / "metrics.json").read_text()) == {
        **result.metrics,
        "model": {"epoch": 1, "step": 2, "is": "the last"},
    }
    assert {path.name for path in result.curves} == {"losses.png", "average_precision.png"}
    assert len(result.images) == 2
    for path in result.images:
        width, height = Image.open(path).size
        assert width > 1.8 * height > 500
    commands = [command for _, command in result.next_commands]
    assert [command.split()[:2] for command in commands] == [["htc", "predict"], ["htc", "train"], ["htc", "predict"]]
    assert str(result.model) in commands[0]
    with pytest.raises(OutputError, match="already contains a training"):
        run_demo(out, device="cpu", config=tiny(), splits=splits)


def test_the_demo_is_a_whole_htc():
    config = preset(DEMO_PRESET)
    assert (config.cascade.num_stages, config.cascade.interleaved, config.cascade.mask_flow) == (3, True, True)
    assert (config.cascade.semantic_fusion, config.semantic.classes) == ("both", 2)
    assert config.inference.max_detections == 400


@pytest.mark.parametrize("max_detections", [100, 400])
def test_numbers_on_the_bundled_nuclei_equal_pycocotools(max_detections, tmp_path):
    """Annotated nuclei moved by up to two pixels, in random order of scores, some left out, some twice."""
    generator = np.random.default_rng(0)
    content = json.loads(few(nuclei().val_annotations, tmp_path / "few.json", 12).read_text())
    results = []
    for annotation in content["annotations"]:
        for _ in range(generator.integers(0, 3)):
            bitmap = np.roll(
                rle_codec.decode([annotation["segmentation"]])[:, :, 0], tuple(generator.integers(-2, 3, 2)), (0, 1)
            )
            rle = rle_codec.encode(np.asfortranarray(bitmap))
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            where = {"image_id": annotation["image_id"], "category_id": 1, "score": float(generator.random())}
            results.append({**where, "bbox": rle_codec.toBbox(rle).tolist(), "segmentation": segmentation})
    ours = coco_metrics(content, results, max_detections)
    for kind in ("bbox", "segm"):
        precision, recall = reference(content, results, kind, max_detections)
        assert ours[kind]["AP"] == pytest.approx(precision[:, :, :, 0, -1].mean(), abs=1e-9)
        assert ours[kind]["AP50"] == pytest.approx(precision[0, :, :, 0, -1].mean(), abs=1e-9)
        assert ours[kind]["APs"] == pytest.approx(precision[:, :, :, 1, -1].mean(), abs=1e-9)
        assert ours[kind]["APm"] == pytest.approx(precision[:, :, :, 2, -1].mean(), abs=1e-9)
        assert ours[kind][f"AR@{max_detections}"] == pytest.approx(recall[:, :, 0, -1].mean(), abs=1e-9)
        assert 0.05 < ours[kind]["AP"] < 0.95


def reference(content, results, kind, max_detections):
    copies = [{key: value for key, value in result.items() if kind == "bbox" or key != "bbox"} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = content
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(copies), kind)
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]
