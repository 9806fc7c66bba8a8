"""Records that cannot be used: each fault names the record's index, its image, what is wrong and what to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import htc
from htc.errors import DataError

IMAGE = np.zeros((40, 50, 3), np.uint8)
BOX = [[1.0, 2.0, 30.0, 20.0]]
PLAIN = {"image": IMAGE, "labels": ["cat"], "boxes": BOX}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": ["cat"]}, "unknown key 'label'; did you mean 'labels'"),
        ({"filename": "a"}, "unknown key 'filename'; the keys are image, labels, boxes, masks, crowd, id, group"),
        ({"image": "nowhere.png"}, r"\(image nowhere.png\): .*nowhere.png: no such file"),
        ({"image": np.zeros((40, 50, 3))}, r"an array of shape \(40, 50, 3\) and type float64"),
        ({"image": None}, "an image cannot be a NoneType"),
        ({"labels": "cat"}, r"its labels have the shape \(\)"),
        ({"labels": [1.5]}, "its labels are of type float64; give class names, or indices"),
        ({"labels": [True]}, "its labels are of type bool"),
        ({"labels": ["cta"]}, r"labels\[0\] is 'cta', which is not among the classes; did you mean 'cat'"),
        ({"labels": [2]}, r"labels\[0\] is 2; there are 2 classes, so give 0 to 1"),
        ({"labels": [-1]}, r"labels\[0\] is -1"),
        ({"labels": ["cat", "dog"]}, r"boxes have the shape \(1, 4\) .* 2 labels need \(2, 4\) numbers"),
        ({"boxes": [[30, 20, 1, 2]]}, r"boxes\[0\] is \[30, 20, 1, 2\]; give finite numbers x1, y1, x2, y2"),
        ({"boxes": [[1, 2, float("nan"), 9]]}, r"boxes\[0\] is .*nan"),
        ({"boxes": [["a"] * 4]}, "type <U1"),
        ({"boxes": None}, "instance 0 has neither box nor mask; give boxes"),
        ({"masks": np.zeros((40, 50), bool)}, r"masks have the shape \(40, 50\); give \(1, 40, 50\)"),
        ({"masks": np.zeros((2, 40, 50), bool)}, "2 masks and 1 labels"),
        ({"masks": np.zeros((1, 50, 40), bool)}, r"masks\[0\] has the shape \(50, 40\), its image .* \(40, 50\)"),
        ({"masks": np.zeros((1, 40, 50))}, r"masks\[0\] is of type float64; give bool, for example mask > 0.5"),
        ({"masks": [[[1, 2, 3, 4, 5]]]}, r"records\[1\], instance 0: polygon 1 has 5 numbers: an odd number"),
        ({"masks": [[1, 2, 3, 4, 5, 6]]}, "instance 0: its segmentation is one flat list of 6 numbers"),
        ({"masks": [[["a", "b"]]]}, "polygon 1 is not a list of finite numbers"),
        (
            {"masks": [{"size": (50, 40), "counts": b"abc"}]},
            "instance 0: its run-length size .* width and height swapped",
        ),
        ({"masks": [{"size": [40, 50], "counts": [5]}]}, "its runs cover 5 pixels, the image has 2000"),
        ({"masks": [{"counts": [5]}]}, "run-length size is None"),
        ({"masks": ["mask.png"]}, r"masks\[0\] has the shape \(\)"),
        ({"crowd": [2]}, r"its crowd is \[2\]; give one True or False per instance \(1\)"),
        ({"crowd": [True, False]}, "give one True or False"),
        ({"id": 1}, "image id 1 occurs twice"),
        ({"id": 2.5}, "has the id 2.5"),
    ],
)
def test_a_fault_names_the_record(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        htc.Dataset.from_records([PLAIN, PLAIN | changes], classes=["cat", "dog"])
    assert str(caught.value).startswith("htc.Dataset.from_records: records[1]")


def test_all_faults_at_once() -> None:
    with pytest.raises(DataError, match="has 3 faults") as caught:
        htc.Dataset.from_records([{"image": IMAGE}, {"labels": []}, PLAIN, PLAIN | {"boxs": []}])  # type: ignore[list-item]
    assert "records[0]: it has no 'labels'" in str(caught.value)
    assert "records[1]: it has no 'image'" in str(caught.value)
    assert "did you mean 'boxes'" in str(caught.value)


@pytest.mark.parametrize(
    ("records", "classes", "message"),
    [
        ([], None, "there are no records"),
        ([{"image": IMAGE, "labels": []}], None, "no record has an instance, so classes=.* is needed"),
        ([PLAIN | {"labels": [0]}], None, "labels are indices, so classes=.* is needed"),
        ([PLAIN], ["cat", "cat"], r"classes\[1\]: the name 'cat' occurs twice"),
        ([PLAIN], "cat", "classes is 'cat'; give a list of names"),
        ([PLAIN], ["cat", ""], r"classes\[1\]: .* it needs an integer and a name"),
    ],
)
def test_faults_of_the_whole(records: list[Any], classes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        htc.Dataset.from_records(records, classes)


def test_what_nothing_can_be_learned_from_is_left_out_with_its_reason() -> None:
    boxes = [[1, 2, 1.5, 20], [60, 60, 70, 70], *BOX]
    dataset = htc.Dataset.from_records([{"image": IMAGE, "labels": ["cat"] * 3, "boxes": boxes}])
    assert len(dataset.images[0].instances) == 1
    assert len(dataset.dropped) == 2


def test_tensors_are_taken_as_arrays() -> None:
    record = {"image": IMAGE, "labels": torch.tensor([1]), "boxes": torch.tensor(BOX)}
    record |= {"masks": torch.ones(1, 40, 50, dtype=torch.bool), "crowd": torch.tensor([False])}
    plain = {"image": IMAGE, "labels": [1], "boxes": BOX, "masks": np.ones((1, 40, 50), bool)}
    assert htc.Dataset.from_records([record], ["a", "b"]) == htc.Dataset.from_records([plain], ["a", "b"])


def test_upright_size_of_a_turned_image(tmp_path: Path) -> None:
    image = Image.new("RGB", (50, 40))
    image.getexif()[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=image.getexif())
    (record,) = htc.Dataset.from_records([{"image": tmp_path / "a.jpg", "labels": []}], ["cat"])
    assert (record.height, record.width) == (50, 40)
