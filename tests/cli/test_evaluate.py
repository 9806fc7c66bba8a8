"""`htc evaluate`: diagnostics, the page, images without annotations, memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Htc = Callable[..., Any]


def test_diagnostics_and_page_of_a_model(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    annotations = data / "annotations" / "instances_val.json"
    result = htc(
        "evaluate",
        model,
        "--annotations",
        annotations,
        "--html",
        "page.html",
        "--json",
        "numbers.json",
        "--save-results",
        "found.json",
    )
    assert result.code == 0, result.err
    assert "page: page.html" in result.err
    assert "best F1" in result.out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert set(numbers) == {"bbox", "segm", "per_class", "diagnostics"}
    assert "Worst images" in (tmp_path / "page.html").read_text()
    again = htc(
        "evaluate",
        "--results",
        "found.json",
        "--annotations",
        annotations,
        "--max-detections",
        "20",
        "--diagnostics",
        "--json",
        "-",
    )
    assert json.loads(again.out) == numbers


def test_the_page_of_a_result_file_has_images_where_they_are(htc: Htc, data: Path, tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text(
        json.dumps([{"image_id": 5, "category_id": 3, "score": 0.5, "bbox": [20, 10, 40, 30]}])
    )
    annotations = data / "annotations" / "instances_val.json"
    alone = tmp_path / "alone.json"
    alone.write_text(annotations.read_text())
    assert htc("evaluate", "--results", "found.json", "--annotations", annotations, "--html", "with.html").code == 0
    assert "Worst images" in (tmp_path / "with.html").read_text()
    result = htc("evaluate", "--results", "found.json", "--annotations", alone, "--html", "without.html")
    assert "pass images (--images DIR)" in result.err
    assert "Worst images" not in (tmp_path / "without.html").read_text()


@pytest.fixture
def test_dev(data: Path, tmp_path: Path) -> Path:
    """A file as COCO's image_info_test-dev2017.json: images and categories alone."""
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    del content["annotations"]
    (tmp_path / "image_info_test.json").write_text(json.dumps(content))
    return tmp_path / "image_info_test.json"


def test_results_of_images_without_annotations(
    htc: Htc, model: Path, data: Path, tmp_path: Path, test_dev: Path
) -> None:
    result = htc("evaluate", model, "--annotations", test_dev, "--images", data / "val", "--save-results", "found.json")
    assert (result.code, result.out) == (0, "")
    assert "has no annotations, so nothing was evaluated" in result.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert {one["image_id"] for one in found} == {5, 6, 7}
    assert all(set(one) == {"image_id", "category_id", "bbox", "score", "segmentation"} for one in found)
    htc("evaluate", model, "--annotations", data / "annotations" / "instances_val.json", "--save-results", "usual.json")
    usual = json.loads((tmp_path / "usual.json").read_text())
    assert found == [{key: value for key, value in one.items() if key != "category_name"} for one in usual]


def test_images_without_annotations_can_only_be_saved(htc: Htc, model: Path, data: Path, test_dev: Path) -> None:
    result = htc("evaluate", model, "--annotations", test_dev, "--images", data / "val")
    assert result.code == 2
    assert "--save-results FILE writes the results" in result.err
    result = htc(
        "evaluate",
        model,
        "--annotations",
        test_dev,
        "--images",
        data / "val",
        "--save-results",
        "x.json",
        "--html",
        "x.html",
    )
    assert result.code == 2
    assert "remove --stages, --against, --diagnostics, --html" in result.err


def test_results_of_images_without_annotations_cannot_be_scored(htc: Htc, test_dev: Path, tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text("[]")
    result = htc("evaluate", "--results", "found.json", "--annotations", test_dev)
    assert result.code == 2
    assert "it has no list of annotations" in result.err


def test_predict_takes_ids_from_images_without_annotations(htc: Htc, model: Path, data: Path, test_dev: Path) -> None:
    result = htc(
        "predict",
        data / "val",
        "--model",
        model,
        "--annotations",
        test_dev,
        "--score-threshold",
        "0",
        "--no-draw",
        "--json",
        "-",
    )
    assert result.code == 0, result.err
    assert {one["image_id"] for one in json.loads(result.out)} == {5, 6, 7}


@pytest.fixture
def panoptic(data: Path, tmp_path: Path) -> Path:
    """Panoptic annotations of the validation images: their objects, and grass around them in the last one."""
    entries = []
    (tmp_path / "panoptic").mkdir()
    for index, image_id in enumerate((5, 6, 7)):
        colors = np.zeros((64, 80, 3), np.uint8)
        segments = []
        if index < 2:
            colors[10:40, 20:60] = (1, 2, 0)
            segments.append({"id": 513, "category_id": (3, 7)[index], "iscrowd": 0})
        else:
            colors[:] = (9, 0, 0)
            segments.append({"id": 9, "category_id": 8, "iscrowd": 0})
        Image.fromarray(colors).save(tmp_path / "panoptic" / f"{image_id}.png")
        entries.append({"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments})
    categories = [
        {"id": 3, "name": "disc", "isthing": 1},
        {"id": 7, "name": "square", "isthing": 1},
        {"id": 8, "name": "grass", "isthing": 0},
    ]
    (tmp_path / "panoptic.json").write_text(json.dumps({"annotations": entries, "categories": categories}))
    return tmp_path / "panoptic.json"


def test_semantic_and_panoptic_maps(htc: Htc, model: Path, data: Path, tmp_path: Path, panoptic: Path) -> None:
    call = (
        "evaluate",
        model,
        "--annotations",
        data / "annotations" / "instances_val.json",
        "--semantic",
        "auto",
        "--panoptic-json",
        panoptic,
    )
    result = htc(*call, "--save-panoptic", "merged", "--json", "numbers.json")
    assert result.code == 0, result.err
    assert "mean IoU" in result.out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert set(numbers) == {"bbox", "segm", "per_class", "semantic", "panoptic"}
    assert set(numbers["semantic"]["per_class"]) == {"background", "disc", "square"}
    assert set(numbers["panoptic"]["per_class"]) == {"disc", "square", "grass"}
    # What was written, as annotations against itself, is perfect: evaluated once more without a model's help.
    written = json.loads((tmp_path / "merged" / "panoptic.json").read_text())
    assert {one["image_id"] for one in written["annotations"]} == {5, 6, 7}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {
        "panoptic.json",
        "image0.png",
        "image1.png",
        "image2.png",
    }
    plain = htc("evaluate", model, "--annotations", data / "annotations" / "instances_val.json", "--json", "-")
    assert json.loads(plain.out) == {key: numbers[key] for key in ("bbox", "segm", "per_class")}


def test_a_folder_of_semantic_maps(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    for index in range(3):
        Image.fromarray(np.full((64, 80), index, np.uint8)).save(tmp_path / "maps" / f"image{index}.png")
    annotations = data / "annotations" / "instances_val.json"
    numbers = json.loads(htc("evaluate", model, "--annotations", annotations, "--semantic", "maps", "--json", "-").out)
    assert set(numbers["semantic"]["per_class"]) == {"0", "1", "2"}
    result = htc("evaluate", model, "--annotations", annotations, "--semantic", "nowhere")
    assert result.code == 2
    assert "semantic nowhere: no such folder; pass auto, or a folder of PNG maps" in result.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("MODEL", "--panoptic-dir", "x"), "add it (--panoptic-json FILE)"),
        (("--results", "found.json", "--semantic", "auto"), "need a model"),
        (("MODEL", "--stages", "1", "--semantic", "auto"), "remove the semantic and panoptic maps"),
        (("MODEL", "--panoptic-json", "gone.json"), "gone.json: no such file"),
    ],
)
def test_map_flags_that_cannot_be(htc: Htc, model: Path, data: Path, flags: tuple[str, ...], says: str) -> None:
    call = [str(model) if flag == "MODEL" else flag for flag in flags]
    result = htc("evaluate", *call, "--annotations", data / "annotations" / "instances_val.json")
    assert result.code == 2
    assert says in result.err


def test_against_other_results(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    annotations = data / "annotations" / "instances_val.json"
    right = [
        {"image_id": 5, "category_id": 3, "bbox": [20, 10, 40, 30]},
        {"image_id": 6, "category_id": 7, "bbox": [20, 10, 40, 30]},
    ]
    (tmp_path / "right.json").write_text(json.dumps([{**each, "score": 0.5} for each in right]))
    (tmp_path / "half.json").write_text(json.dumps([{**right[0], "score": 0.5}]))
    result = htc("evaluate", "--results", "right.json", "--against", "half.json", "--annotations", annotations)
    assert result.code == 0, result.err
    assert ["boxes", "100.0", "50.0", "+50.0"] in [line.split()[:4] for line in result.out.splitlines()]
    result = htc("evaluate", model, "--against", "right.json", "--annotations", annotations, "--json", "-")
    found = json.loads(result.out)
    assert found["against"]["bbox"]["AP"] == 1.0
    assert found["against"]["bbox"]["difference"] == pytest.approx(found["bbox"]["AP"] - 1)
    assert found["against"]["bbox"]["low"] <= found["against"]["bbox"]["difference"] <= found["against"]["bbox"]["high"]


def test_results_of_other_images_are_refused_before_the_model_runs(
    htc: Htc, model: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.json").write_text(
        json.dumps([{"image_id": 99, "category_id": 3, "score": 0.5, "bbox": [20, 10, 40, 30]}])
    )
    result = htc(
        "evaluate", model, "--against", "other.json", "--annotations", data / "annotations" / "instances_val.json"
    )
    assert (result.code, result.out) == (2, "")
    assert "--against other.json: " in result.err
    assert "99" in result.err
