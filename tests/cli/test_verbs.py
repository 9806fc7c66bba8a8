"""Each verb does its work with a small model: data on stdout, messages on stderr, files where they belong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cli.conftest import Result
from htc.checkpoint.native import read_config
from htc.config import Config

Htc = Callable[..., Result]


def test_predict_writes_drawings_and_results(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    annotations = data / "annotations" / "instances_val.json"
    result = htc("predict", data / "val", "--model", model, "--annotations", annotations, "--score-threshold", "0", "--json", "found.json", "--device", "cpu")
    assert (result.code, result.out) == (0, ""), result.err
    assert {path.name for path in (tmp_path / "runs" / "predict" / "val").iterdir()} == {"picture0.png", "picture1.png", "picture2.png"}
    found = json.loads((tmp_path / "found.json").read_text())
    assert {one["image_id"] for one in found} == {5, 6, 7}
    assert {(one["category_id"], one["category_name"]) for one in found} <= {(3, "disc"), (7, "square")}
    assert coco_mask.decode(found[0]["segmentation"]).shape == (64, 80)


def test_predict_to_stdout_with_limits(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    picture = data / "val" / "picture0.png"
    call = ("predict", picture, "--model", model, "--score-threshold", "0", "--json", "-", "--no-draw")
    found = json.loads(htc(*call, "--max-detections", "3", "--polygons").out)
    assert len(found) == 3
    assert all(isinstance(one["segmentation"], list) for one in found)
    assert found[0]["image_id"] == "picture0.png"
    only = json.loads(htc(*call, "--classes", "square").out)
    assert {one["category_name"] for one in only} <= {"square"}
    assert len(json.loads(htc(*call, "--max-detections", "40").out)) > 20  # more than the model's own limit
    assert list(tmp_path.iterdir()) == []


def test_a_switch_changes_the_prediction(htc: Htc, model: Path, data: Path) -> None:
    call = ("predict", data / "val" / "picture0.png", "--model", model, "--score-threshold", "0", "--json", "-", "--no-draw")
    assert htc(*call).out == htc(*call).out
    assert htc(*call, "--inference.box_stage", "1").out != htc(*call).out


def test_a_bad_picture_is_named_and_the_rest_is_done(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.open(data / "val" / "picture0.png").save(folder / "good.png")
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes((data / "val" / "picture1.png").read_bytes()[:3000])
    result = htc("predict", folder, "--model", model, "--out", "drawn", "--labelme")
    assert result.code == 1
    for name in ("text.png", "empty.jpg", "cut.png"):
        assert result.err.count(name) == 1
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {"good.png", "good.json"}


def test_only_bad_pictures_leave_nothing(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes((data / "val" / "picture1.png").read_bytes()[:3000])
    before = list(tmp_path.iterdir())
    result = htc("predict", "cut.png", "gone.png", "--model", model, "--json", "found.json")
    assert result.code == 2
    assert "cut.png" in result.err
    assert "gone.png" in result.err
    assert list(tmp_path.iterdir()) == before


def test_a_picture_over_the_limit_says_which_flag_raises_it(htc: Htc, model: Path, data: Path) -> None:
    result = htc("predict", data / "val" / "picture0.png", "--model", model, "--max-pixels", "100")
    assert result.code == 2
    assert "--max-pixels 5120" in result.err


def test_unusable_outputs_are_refused_before_the_work(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    picture = data / "val" / "picture0.png"
    for flags in (("--out", "file"), ("--json", "file"), ("--out", "file/below"), ("--json", ".")):
        result = htc("predict", picture, "--model", model, *flags)
        assert result.code == 2, flags
        assert "file" in result.err or "folder" in result.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--inference.nms_iou", "7"), "--inference.nms_iou: should be less than or equal to 1"),
        (("--classes", "disk"), "disc"),
        (("--preset", "htc_r50_fpn_1x_coco"), "--preset: the preset is htc_r50_fpn_1x_coco, but this model is htc_r18_small"),
        (("--backbone.depth", "34"), "backbone.depth"),
    ],
)
def test_what_contradicts_the_model_is_an_error(htc: Htc, model: Path, data: Path, flags: tuple[str, ...], message: str) -> None:
    result = htc("predict", data / "val" / "picture0.png", "--model", model, *flags)
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize(
    ("name", "content"), [("cut.safetensors", b"\x10\x00\x00"), ("empty.pth", b""), ("text.pth", b"hello"), ("text.safetensors", b"x" * 99)]
)
def test_a_damaged_checkpoint_is_named(htc: Htc, data: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    result = htc("predict", data / "val" / "picture0.png", "--model", name)
    assert result.code == 2
    assert name in result.err
    assert len(result.err.splitlines()) <= 6


def test_evaluate_a_model_and_its_results(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    annotations = data / "annotations" / "instances_val.json"
    call = ("evaluate", model, "--annotations", annotations, "--images", data / "val", "--save-results", "found.json", "--json", "numbers.json")
    result = htc(*call, "--max-detections", "50")
    assert result.code == 0, result.err
    assert "boxes" in result.out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert set(numbers) == {"bbox", "segm", "per_class"}
    assert "AR@50" in numbers["segm"]
    again = htc("evaluate", "--results", "found.json", "--annotations", annotations, "--max-detections", "50", "--json", "-")
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
    assert htc("predict", "x.png", "--model", model, "--config", "own.yaml", "--print-config").out == (tmp_path / "own.yaml").read_text()


def test_train_from_a_configuration_file(htc: Htc, data: Path, small_config: Config, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(small_config.model_dump_json())
    result = htc("train", "--data", data, "--config", "own.json", "--out", "run", "--device", "cpu")
    assert result.code == 0, result.err
    assert "boxes" in result.out
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert htc("predict", data / "val" / "picture0.png", "--model", "run", "--no-draw", "--json", "-").code == 0
    again = htc("train", "--data", data, "--config", "own.json", "--out", "run")
    assert again.code == 2
    assert "run" in again.err
