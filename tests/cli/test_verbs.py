"""Each verb does its work with a small model: data on stdout, messages on stderr, files where they belong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.models.detection import maskrcnn_resnet50_fpn

from cli.conftest import Result
from htc.checkpoint.folder import read_config
from htc.checkpoint.native import save_pretrained
from htc.config import Config
from htc.demo.run import NUCLEI
from htc.model.detector import Detector

Htc = Callable[..., Result]


def test_predict_writes_drawings_and_results(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    annotations = data / "annotations" / "instances_val.json"
    result = htc(
        "predict",
        data / "val",
        "--model",
        model,
        "--annotations",
        annotations,
        "--score-threshold",
        "0",
        "--json",
        "found.json",
        "--device",
        "cpu",
    )
    assert (result.code, result.out) == (0, ""), result.err
    assert {path.name for path in (tmp_path / "runs" / "predict" / "val").iterdir()} == {
        "image0.png",
        "image1.png",
        "image2.png",
    }
    found = json.loads((tmp_path / "found.json").read_text())
    assert {one["image_id"] for one in found} == {5, 6, 7}
    assert {(one["category_id"], one["category_name"]) for one in found} <= {(3, "disc"), (7, "square")}
    assert coco_mask.decode(found[0]["segmentation"]).shape == (64, 80)


def test_predict_to_stdout_with_limits(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    image = data / "val" / "image0.png"
    call = ("predict", image, "--model", model, "--score-threshold", "0", "--json", "-", "--no-draw")
    found = json.loads(htc(*call, "--max-detections", "3", "--polygons").out)
    assert len(found) == 3
    assert all(isinstance(one["segmentation"], list) for one in found)
    assert found[0]["image_id"] == "image0.png"
    only = json.loads(htc(*call, "--classes", "square").out)
    assert {one["category_name"] for one in only} <= {"square"}
    assert len(json.loads(htc(*call, "--max-detections", "40").out)) > 20  # more than the model's own limit
    assert list(tmp_path.iterdir()) == []


def test_a_switch_changes_the_prediction(htc: Htc, model: Path, data: Path) -> None:
    call = (
        "predict",
        data / "val" / "image0.png",
        "--model",
        model,
        "--score-threshold",
        "0",
        "--json",
        "-",
        "--no-draw",
    )
    assert htc(*call).out == htc(*call).out
    assert htc(*call, "--inference.box_stage", "1").out != htc(*call).out


def test_a_bad_image_is_named_and_the_rest_is_done(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.open(data / "val" / "image0.png").save(folder / "good.png")
    (folder / "text.png").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes((data / "val" / "image1.png").read_bytes()[:3000])
    result = htc("predict", folder, "--model", model, "--out", "drawn", "--labelme")
    assert result.code == 1
    for name in ("text.png", "empty.jpg", "cut.png"):
        assert result.err.count(name) == 1
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"good.png", "good.json"}


def test_only_bad_images_leave_nothing(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes((data / "val" / "image1.png").read_bytes()[:3000])
    before = list(tmp_path.iterdir())
    result = htc("predict", "cut.png", "gone.png", "--model", model, "--json", "found.json")
    assert result.code == 2
    assert "cut.png" in result.err
    assert "gone.png" in result.err
    assert list(tmp_path.iterdir()) == before


def test_a_image_over_the_limit_says_which_flag_raises_it(htc: Htc, model: Path, data: Path) -> None:
    result = htc("predict", data / "val" / "image0.png", "--model", model, "--max-pixels", "100")
    assert result.code == 2
    assert "--max-pixels 5120" in result.err


def test_unusable_outputs_are_refused_before_the_work(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    image = data / "val" / "image0.png"
    for flags in (("--out", "file"), ("--json", "file"), ("--out", "file/below"), ("--json", ".")):
        result = htc("predict", image, "--model", model, *flags)
        assert result.code == 2, flags
        assert "file" in result.err or "folder" in result.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--inference.nms_iou", "7"), "--inference.nms_iou: should be less than or equal to 1"),
        (("--classes", "disk"), "disc"),
        (
            ("--preset", "htc_r50_fpn_1x_coco"),
            "--preset: the preset is htc_r50_fpn_1x_coco, but this model is htc_r18_small",
        ),
        (("--backbone.depth", "34"), "backbone.depth"),
    ],
)
def test_what_contradicts_the_model_is_an_error(
    htc: Htc, model: Path, data: Path, flags: tuple[str, ...], message: str
) -> None:
    result = htc("predict", data / "val" / "image0.png", "--model", model, *flags)
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize(
    ("name", "content"),
    [("cut.safetensors", b"\x10\x00\x00"), ("empty.pth", b""), ("text.pth", b"hello"), ("text.safetensors", b"x" * 99)],
)
def test_a_damaged_checkpoint_is_named(htc: Htc, data: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    result = htc("predict", data / "val" / "image0.png", "--model", name)
    assert result.code == 2
    assert name in result.err
    assert len(result.err.splitlines()) <= 6


def test_evaluate_a_model_and_its_results(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    annotations = data / "annotations" / "instances_val.json"
    call = (
        "evaluate",
        model,
        "--annotations",
        annotations,
        "--images",
        data / "val",
        "--save-results",
        "found.json",
        "--json",
        "numbers.json",
    )
    result = htc(*call, "--max-detections", "50")
    assert result.code == 0, result.err
    assert "boxes" in result.out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert set(numbers) == {"bbox", "segm", "per_class"}
    assert "AR@50" in numbers["segm"]
    again = htc(
        "evaluate", "--results", "found.json", "--annotations", annotations, "--max-detections", "50", "--json", "-"
    )
    assert json.loads(again.out) == numbers


def test_convert_and_print_the_configuration(htc: Htc, model: Path, small_config: Config, tmp_path: Path) -> None:
    result = htc("convert", model / "model.safetensors", "native")
    assert result.code == 0, result.err
    assert "0 missing" in result.out
    assert read_config(tmp_path / "native" / "config.json") == small_config
    again = htc("convert", model, "native")
    assert again.code == 2
    assert "native" in again.err
    (tmp_path / "own.yaml").write_text(htc("predict", "x.png", "--model", model, "--print-config").out)
    assert (
        htc("predict", "x.png", "--model", model, "--config", "own.yaml", "--print-config").out
        == (tmp_path / "own.yaml").read_text()
    )


def test_train_from_a_configuration_file(htc: Htc, data: Path, small_config: Config, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(small_config.model_dump_json())
    result = htc("train", "--data", data, "--config", "own.json", "--out", "run", "--device", "cpu")
    assert result.code == 0, result.err
    assert "boxes" in result.out
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert htc("predict", data / "val" / "image0.png", "--model", "run", "--no-draw", "--json", "-").code == 0
    again = htc("train", "--data", data, "--config", "own.json", "--out", "run")
    assert again.code == 2
    assert "run" in again.err


def test_results_are_as_the_contract_says(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    for name in ("000139.png", "b/7.png", "c/7.png", "street.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(data / "val" / "image0.png").save(tmp_path / "photos" / name)
    call = ("predict", "photos", "--model", model, "--score-threshold", "0", "--json", "-", "--no-draw")
    found = json.loads(htc(*call).out)
    assert {one["image_id"] for one in found} == {
        139,
        "b/7.png",
        "c/7.png",
        "street.png",
    }  # two images may not share an id
    for one in found:
        assert set(one) == {"image_id", "category_id", "category_name", "bbox", "score", "segmentation"}
        x, y, width, height = one["bbox"]
        assert 0 <= x <= x + width <= 80.001
        assert 0 <= y <= y + height <= 64.001
        assert one["segmentation"]["size"] == [64, 80]
        assert isinstance(one["segmentation"]["counts"], str)
    outlined = json.loads(htc(*call, "--polygons").out)
    assert [{**one, "segmentation": None} for one in outlined] == [{**one, "segmentation": None} for one in found]
    assert all(len(ring) >= 6 and len(ring) % 2 == 0 for one in outlined for ring in one["segmentation"])


def test_labelme_files_lie_beside_the_drawings(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    result = htc(
        "predict",
        data / "val",
        "--model",
        model,
        "--score-threshold",
        "0",
        "--labelme",
        "--out",
        "drawn",
        "--batch-size",
        "2",
    )
    assert (result.code, result.err) == (0, "3 images done, files in drawn\n")
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert names == {f"image{index}.{suffix}" for index in range(3) for suffix in ("png", "json")}
    content = json.loads((tmp_path / "drawn" / "image0.json").read_text())
    assert (content["imageHeight"], content["imageWidth"]) == (64, 80)
    assert {shape["label"] for shape in content["shapes"]} <= {"disc", "square"}
    assert (tmp_path / "drawn" / content["imagePath"]).samefile(data / "val" / "image0.png")


def test_convert_reports_every_tensor(htc: Htc, model: Path, tmp_path: Path) -> None:
    result = htc("convert", model, "native", "--json", "-")
    assert result.code == 0
    assert "htc predict IMAGE --model native" in result.err
    report = json.loads(result.out)
    assert "rpn.conv.weight" in report["used"]
    assert report["missing"] == report["unexpected"] == report["dropped"] == []


def test_convert_is_told_what_a_file_does_not_say(htc: Htc, small_config: Config, tmp_path: Path) -> None:
    """torchvision's frozen norms: their epsilon is in no file, and in a native folder there is nothing to tell."""
    with torch.device("meta"):
        shapes = {
            name: tensor.shape
            for name, tensor in maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
            .state_dict()
            .items()
        }
    torch.save(
        {name: torch.full(shape, 0.5) for name, shape in shapes.items() if not name.endswith("num_batches_tracked")},
        tmp_path / "model.pth",
    )
    counts = {}
    for epsilon in ("0", "1e-5"):
        result = htc("convert", "model.pth", f"native {epsilon}", "--norm-epsilon", epsilon, "--json", "-")
        assert result.code == 0, result.err
        counts[epsilon] = sum("no epsilon" in what for _, what in json.loads(result.out)["reordered"])
    assert counts == {"0": 53, "1e-5": 0}
    assert "--norm-epsilon 1e-5" in htc("convert", "model.pth", "native").out
    refused = htc("convert", "native", "again", "--colors", "bgr")
    assert refused.code == 2
    assert "--colors has no effect on this kind of file" in refused.err
    assert "rgb" in htc("convert", "model.pth", "again", "--colors", "blue").err
    assert "--colors has no effect" in htc("convert", "model.pth", "again", "--colors", "bgr", "--print-config").err


def test_evaluate_the_bundled_nuclei(htc: Htc, data: Path, small_config: Config, tmp_path: Path) -> None:
    truth = json.loads((NUCLEI / "annotations" / "instances_val.json").read_text())
    few = {image["id"] for image in truth["images"][:2]}
    truth["images"] = truth["images"][:2]
    truth["annotations"] = [annotation for annotation in truth["annotations"] if annotation["image_id"] in few]
    (tmp_path / "few.json").write_text(json.dumps(truth))
    config = small_config.replace(classes=("cell", "nucleus"), category_ids=(5, 9))  # other ids: matched by name
    save_pretrained(Detector(config), config, tmp_path / "model")
    result = htc(
        "evaluate",
        "model",
        "--annotations",
        "few.json",
        "--images",
        NUCLEI / "val",
        "--json",
        "-",
        "--save-results",
        "found.json",
    )
    assert result.code == 0, result.err
    numbers = json.loads(result.out)
    assert list(numbers["per_class"]) == ["nucleus"]
    assert list(numbers["bbox"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@20"]
    assert all(-1 <= value <= 1 for kind in ("bbox", "segm") for value in numbers[kind].values())
    found = json.loads((tmp_path / "found.json").read_text())
    assert {one["category_id"] for one in found} <= {truth["categories"][0]["id"]}
    assert {one["image_id"] for one in found} <= few


def test_convert_turns_data_into_coco_files(htc: Htc, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "mine/images/a.png")
    (tmp_path / "mine/labels/a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "mine/data.yaml").write_text("train: images\nnames: [cat]\n")
    result = htc("convert", "mine", "coco")
    assert result.code == 0, result.err
    assert "1 images with 1 instances" in result.out
    assert "htc train --train-annotations coco/annotations/instances_train.json --train-images mine" in result.err
    assert json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())["categories"] == [
        {"id": 1, "name": "cat"}
    ]
    assert "not empty" in htc("convert", "mine", "coco").err or "exists already" in htc("convert", "mine", "coco").err
