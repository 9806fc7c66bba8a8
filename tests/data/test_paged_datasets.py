"""Pages of a TIFF stack as images of a dataset, in every part of the library that reads annotations."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import htc
from htc.checks.doctor import doctor
from htc.data.coco import read_coco
from htc.data.ground_truth import annotated_image, check_images
from htc.data.semantic_maps import map_path
from htc.errors import DataError

PAGES = [np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3), dtype=np.uint8) for number in range(3)]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A stack of three pages below `train/cells`, of which the second and third are annotated."""
    (tmp_path / "train" / "cells").mkdir(parents=True)
    first, *others = (Image.fromarray(page) for page in PAGES)
    first.save(tmp_path / "train" / "cells" / "stack.tif", save_all=True, append_images=others)
    names = {2: "cells/stack.tif#2", 3: "cells\\stack.tif#3"}
    content = {
        "images": [
            {"id": number, "file_name": name, "height": 39 + number, "width": 60} for number, name in names.items()
        ],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [10, 10, 20, 20],
                "area": 400,
                "iscrowd": 0,
                "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]],
            }
            for number in names
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    return path


def test_training_and_evaluation_read_the_pages(annotations: Path) -> None:
    dataset = read_coco(annotations, annotations.parent / "train")
    check_images(dataset)
    for record, page in zip(dataset.images, PAGES[1:], strict=True):
        assert np.array_equal(annotated_image(record), page)
    again = htc.Dataset.from_coco(*dataset.save(annotations.parent / "copy"))
    assert np.array_equal(annotated_image(again.images[1]), PAGES[2])


def test_the_doctor_knows_the_pages(annotations: Path) -> None:
    report = doctor(annotations, annotations.parent / "train", html=annotations.with_suffix(".html"))
    assert {finding.code for finding in report.findings} <= {"picture-name", "class-rare", "box-whole-numbers"}


@pytest.mark.parametrize(("page", "text"), [("#4", "no page 4: it has 3"), ("#1", "40, but 60x41")])
def test_a_page_that_does_not_fit_is_named(annotations: Path, page: str, text: str) -> None:
    annotations.write_text(annotations.read_text().replace("#2", page))
    with pytest.raises(DataError, match=text):
        check_images(read_coco(annotations, annotations.parent / "train"))


def test_a_page_of_a_missing_file_is_missing(annotations: Path) -> None:
    annotations.write_text(annotations.read_text().replace("stack.tif#2", "gone.tif#2"))
    with pytest.raises(DataError, match=r"gone\.tif#2"):
        read_coco(annotations, annotations.parent / "train")


def test_records_in_python(annotations: Path) -> None:
    stack = annotations.parent / "train" / "cells" / "stack.tif"
    dataset = htc.Dataset.from_records(
        [{"image": f"{stack}#{page}", "labels": ["cell"], "boxes": [[1, 1, 9, 9]]} for page in (1, 3)]
    )
    for index, record in zip((0, 2), dataset.images, strict=True):
        np.testing.assert_array_equal(annotated_image(record), PAGES[index])


def test_each_page_has_its_own_semantic_map() -> None:
    names = [map_path(Path("maps"), Path("a") / name).name for name in ("stack.tif", "stack.tif#1", "stack.tif#2")]
    assert names == ["stack.png", "stack#1.png", "stack#2.png"]
