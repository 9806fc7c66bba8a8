"""`htc evaluate`: diagnostics, the page, pictures without annotations, memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Htc = Callable[..., Any]


def test_diagnostics_and_page_of_a_model(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    annotations = data / "annotations" / "instances_val.json"
    result = htc("evaluate", model, "--annotations", annotations, "--html", "page.html", "--json", "numbers.json", "--save-results", "found.json")
    assert result.code == 0, result.err
    assert "page in page.html" in result.err
    assert "best F1" in result.out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert set(numbers) == {"bbox", "segm", "per_class", "diagnostics"}
    assert "Worst pictures" in (tmp_path / "page.html").read_text()
    again = htc("evaluate", "--results", "found.json", "--annotations", annotations, "--max-detections", "20", "--diagnostics", "--json", "-")
    assert json.loads(again.out) == numbers


def test_the_page_of_a_result_file_has_pictures_where_they_are(htc: Htc, data: Path, tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text(json.dumps([{"image_id": 5, "category_id": 3, "score": 0.5, "bbox": [20, 10, 40, 30]}]))
    annotations = data / "annotations" / "instances_val.json"
    alone = tmp_path / "alone.json"
    alone.write_text(annotations.read_text())
    assert htc("evaluate", "--results", "found.json", "--annotations", annotations, "--html", "with.html").code == 0
    assert "Worst pictures" in (tmp_path / "with.html").read_text()
    result = htc("evaluate", "--results", "found.json", "--annotations", alone, "--html", "without.html")
    assert "no pictures: --images DIR adds them" in result.err
    assert "Worst pictures" not in (tmp_path / "without.html").read_text()


@pytest.fixture
def test_dev(data: Path, tmp_path: Path) -> Path:
    """A file as COCO's image_info_test-dev2017.json: pictures and categories alone."""
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    del content["annotations"]
    (tmp_path / "image_info_test.json").write_text(json.dumps(content))
    return tmp_path / "image_info_test.json"


def test_results_of_pictures_without_annotations(htc: Htc, model: Path, data: Path, tmp_path: Path, test_dev: Path) -> None:
    result = htc("evaluate", model, "--annotations", test_dev, "--images", data / "val", "--save-results", "found.json")
    assert (result.code, result.out) == (0, "")
    assert "has no annotations, so nothing was measured" in result.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert {one["image_id"] for one in found} == {5, 6, 7}
    assert all(set(one) == {"image_id", "category_id", "bbox", "score", "segmentation"} for one in found)
    htc("evaluate", model, "--annotations", data / "annotations" / "instances_val.json", "--save-results", "usual.json")
    usual = json.loads((tmp_path / "usual.json").read_text())
    assert found == [{key: value for key, value in one.items() if key != "category_name"} for one in usual]


def test_pictures_without_annotations_can_only_be_saved(htc: Htc, model: Path, data: Path, test_dev: Path) -> None:
    result = htc("evaluate", model, "--annotations", test_dev, "--images", data / "val")
    assert result.code == 2
    assert "--save-results FILE writes the results" in result.err
    result = htc("evaluate", model, "--annotations", test_dev, "--images", data / "val", "--save-results", "x.json", "--html", "x.html")
    assert result.code == 2
    assert "leave out --stages, --diagnostics and --html" in result.err


def test_results_of_pictures_without_annotations_cannot_be_scored(htc: Htc, test_dev: Path, tmp_path: Path) -> None:
    (tmp_path / "found.json").write_text("[]")
    result = htc("evaluate", "--results", "found.json", "--annotations", test_dev)
    assert result.code == 2
    assert "annotations are missing" in result.err


def test_predict_takes_ids_from_pictures_without_annotations(htc: Htc, model: Path, data: Path, test_dev: Path) -> None:
    result = htc("predict", data / "val", "--model", model, "--annotations", test_dev, "--score-threshold", "0", "--no-draw", "--json", "-")
    assert result.code == 0, result.err
    assert {one["image_id"] for one in json.loads(result.out)} == {5, 6, 7}
