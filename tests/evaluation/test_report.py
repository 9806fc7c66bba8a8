"""The page of an evaluation, and the drawings of the worst images."""

import numpy as np
import pytest
from PIL import Image

from evaluation_scenes import encode, scene
from htc.errors import DataError
from htc.evaluation.comparison import compare
from htc.evaluation.diagnostics import diagnose
from htc.evaluation.drawings import CORRECT, MISTAKEN, crop_of, draw_errors
from htc.evaluation.report import report_page
from htc.visual.page import Gallery, PageTable, render


def page_of(truth, results, images=None, most=12):
    comparison = compare(truth, results)
    return report_page("a <model>", *diagnose(comparison), comparison, images, most)


@pytest.fixture
def images(tmp_path):
    """A black image of every image of a scene."""
    Image.fromarray(np.zeros((120, 150, 3), np.uint8)).save(tmp_path / "black.png")
    return {image["id"]: tmp_path / "black.png" for image in scene(0)[0]["images"]}


def test_a_page_with_everything(images):
    truth, results = scene(0)
    page = page_of(truth, results, images, 3)
    assert [section.title for section in page.sections] == [
        "Metrics",
        "Curves",
        "Errors by kind",
        "Classes",
        "Confusion",
        "Worst images",
    ]
    gallery = page.sections[-1].parts[0]
    assert isinstance(gallery, Gallery)
    assert len(gallery.figures) == 3
    text = render(page)
    assert "a &lt;model&gt;" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_the_worst_image_comes_first():
    truth, results = scene(0)
    found = diagnose(compare(truth, results))[1]
    assert [one.f1 for one in found.images] == sorted(one.f1 for one in found.images)


@pytest.mark.parametrize("with_objects", [False, True])
@pytest.mark.parametrize("with_results", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_pages_of_nothing_and_of_boxes(images, with_objects, with_results, masks):
    truth, results = scene(0)
    kept = (
        results
        if masks
        else [{key: value for key, value in result.items() if key != "segmentation"} for result in results]
    )
    assert render(
        page_of(
            {**truth, "annotations": truth["annotations"] if with_objects else []},
            kept if with_results else [],
            images,
            2,
        )
    )


def test_many_classes_are_a_list_of_confusions():
    truth, results = scene(0)
    more = [{"id": 100 + number, "name": f"class {number}"} for number in range(30)]
    table = page_of({**truth, "categories": truth["categories"] + more}, results).sections[4].parts[0]
    assert isinstance(table, PageTable)
    assert list(table.columns) == ["annotated as", "predicted as", "number"]
    assert all(row[2] > 0 for row in table.rows)  # type: ignore[operator]


def test_a_image_that_is_gone_is_named(tmp_path):
    truth, results = scene(0)
    with pytest.raises(DataError, match=r"gone\.png"):
        page_of(truth, results, {image["id"]: tmp_path / "gone.png" for image in truth["images"]})


def test_mistakes_are_drawn_in_their_own_color(tmp_path):
    """Left: the object that was found is blue, the missed one vermilion; right: the right result blue, the wrong one
    vermilion.
    """
    Image.fromarray(np.zeros((640, 640, 3), np.uint8)).save(tmp_path / "picture.png")
    squares = []
    for x, y in ((100, 100), (400, 100), (100, 400)):
        bitmap = np.zeros((640, 640), bool)
        bitmap[y : y + 80, x : x + 80] = True
        squares.append(encode(bitmap))
    truth = {"images": [{"id": 1, "height": 640, "width": 640}], "categories": [{"id": 1, "name": "cat"}]}
    truth["annotations"] = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [x, 100, 80, 80],
            "area": 6400,
            "segmentation": mask,
        }
        for number, x, mask in ((1, 100, squares[0]), (2, 400, squares[1]))
    ]
    comparison = compare(
        truth,
        [{"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": mask} for mask in (squares[0], squares[2])],
    )
    found = diagnose(comparison)[1]
    sheet = draw_errors(tmp_path / "picture.png", comparison, found.matched[0], 0.5).astype(int)
    margin = (sheet.shape[1] - 2 * 640) // 3
    top = sheet.shape[0] - 640 - margin

    def looks_like(color, side, x, y):
        pixel = sheet[top + y, margin + side * (640 + margin) + x]
        return np.abs(pixel - color * 0.42).max() <= 2

    assert looks_like(CORRECT, 0, 140, 140)
    assert looks_like(MISTAKEN, 0, 440, 140)
    assert looks_like(CORRECT, 1, 140, 140)
    assert looks_like(MISTAKEN, 1, 140, 440)


def test_a_crop_is_the_mask_at_its_place():
    bitmap = np.zeros((20, 30), bool)
    bitmap[4:9, 11:17] = np.random.default_rng(0).random((5, 6)) < 0.7
    bitmap[4, 11] = bitmap[8, 16] = True
    crop = crop_of(encode(bitmap))
    assert (crop.x, crop.y) == (11, 4)
    assert np.array_equal(crop.bitmap, bitmap[4:9, 11:17])
