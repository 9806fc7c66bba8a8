"""COCO annotation files in the folders that tools export: which images they belong to, for all commands."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from htc.checks.examine import read_request
from htc.data.dataset import Dataset
from htc.data.formats.layouts import convert_data, locate_split, locate_splits
from htc.errors import DataError

SIZE = (48, 64)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE[1], SIZE[0])).save(path)
    return path


def annotations(file: Path, name: str, **more: Any) -> Path:
    content = {
        "images": [{"id": 1, "file_name": name, "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [2, 4, 16, 16],
                "area": 256,
                "iscrowd": 0,
                "segmentation": [[2, 4, 18, 4, 18, 20, 2, 20]],
                **more,
            }
        ],
        "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def check(folder: Path, image: str) -> None:
    splits = locate_splits(data=folder)
    for file, images in ((splits.train_annotations, splits.train_images), locate_split(folder, "train")):
        assert [record.path for record in Dataset.from_coco(file, images).images] == [folder / image]
    assert len(Dataset.from_folder(folder).images[0].instances) == 1
    assert [entry.path for entry in read_request(folder).train.images] == [folder / image]
    with pytest.raises(DataError, match="already COCO data"):
        convert_data(folder, folder / "out")


@pytest.mark.parametrize(
    ("file", "image", "name"),
    [
        ("annotations/instances_default.json", "images/a.png", "a.png"),
        ("annotations/instances_default.json", "images/default/a.png", "a.png"),
        ("annotations/instances_Train.json", "images/Train/sub/a.png", "sub/a.png"),
        ("annotations/instances_train.json", "images/train/a.png", "a.png"),
        ("result.json", "images/a.png", "images/a.png"),
        ("result.json", "images/a.png", "images\\a.png"),
        ("result.json", "images/a.png", "a.png"),
        ("annotations.json", "a.png", "a.png"),
        ("train/labels.json", "train/data/a.png", "data/a.png"),
        ("labels.json", "data/a.png", "a.png"),
    ],
)
def test_exports(tmp_path: Path, file: str, image: str, name: str) -> None:
    picture(tmp_path / image)
    annotations(tmp_path / file, name, attributes={"occluded": False, "rotation": 0.0}, ignore=0)
    check(tmp_path, image)


def test_parts(tmp_path: Path) -> None:
    for part, folder in (("train", "Train"), ("validation", "Validation"), ("test", "Test")):
        picture(tmp_path / "images" / folder / "a.png")
        annotations(tmp_path / "annotations" / f"instances_{folder}.json", "a.png")
        assert locate_split(tmp_path, part)[1] == tmp_path / "images" / folder if part == "test" else True
    splits = locate_splits(data=tmp_path)
    assert splits.val_images == tmp_path / "images" / "Validation"
    for other in ("captions_train.json", "person_keypoints_train.json"):
        annotations(tmp_path / "annotations" / other, "a.png")
    assert locate_splits(data=tmp_path) == splits


def test_several_files_of_one_part(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    for name in ("first.json", "second.json"):
        annotations(tmp_path / name, "a.png")
    with pytest.raises(DataError, match=r"several annotation files for one part: first\.json and second\.json"):
        locate_splits(data=tmp_path)


def test_a_stray_annotation_file_does_not_hide_another_format(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [dog]\ntrain: images\n")
    annotations(tmp_path / "old.json", "a.png")
    assert Dataset.from_folder(tmp_path).classes == ("dog",)


def test_damaged_files_are_read_by_the_reader_of_coco(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    file = annotations(tmp_path / "annotations" / "instances_default.json", "a.png")
    file.write_text(file.read_text()[:-1] + ", ]")
    with pytest.raises(DataError, match=r"instances_default\.json is not valid JSON"):
        Dataset.from_folder(tmp_path)
