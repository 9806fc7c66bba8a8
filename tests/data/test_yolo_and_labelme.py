"""YOLO and labelme folders as other systems leave them: encodings, paths, names, poses, embedded images."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.data.formats.converted import Converted
from htc.data.formats.layouts import convert_data
from htc.data.formats.recognize import read_other
from htc.errors import DataError

SIZE = (40, 60)
POLYGON = "0 0.1 0.1 0.5 0.1 0.5 0.5\n"


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0])).save(path)
    return path


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def read(folder: Path) -> Converted:
    data = read_other(folder)
    assert data is not None
    return data


def counts(data: Converted, part: str = "train") -> dict[str, int]:
    return {image.path.name: len(image.objects) for image in data.parts[part]}


def yolo(root: Path, lines: str = POLYGON, encoding: str = "utf-8", yaml: str = "train: images") -> Path:
    picture(root / "images" / "a.png")
    write(root / "labels" / "a.txt", lines, encoding)
    write(root / "data.yaml", f"names: [cat, dog]\n{yaml}\n")
    return root


# YOLO


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    yolo(tmp_path, POLYGON.strip() + end, encoding)
    write(tmp_path / "data.yaml", f"names: [cat, dog]{end or chr(10)}train: images{end}", encoding)
    assert counts(read(tmp_path)) == {"a.png": 1}


def test_other_encodings_are_named(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "labels" / "a.txt").write_bytes("0 0.1 0.1 0.5 0.1 0.5 0.5".encode("utf-16-le") + b"\xff\xff")
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8 text"):
        read(tmp_path)


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images\\",
        "train: C:\\Users\\me\\data\\images",
        "path: D:\\data\ntrain: images",
        "train: /home/me/data/images",
        "train: list.txt",
    ],
)
def test_paths_of_other_machines(tmp_path: Path, yaml: str) -> None:
    write(tmp_path / "list.txt", "C:\\data\\images\\a.png\r\n")
    assert counts(read(yolo(tmp_path, yaml=yaml))) == {"a.png": 1}


def test_images_outside_of_the_folder(tmp_path: Path) -> None:
    yolo(tmp_path / "data", yaml="train: [images, ../more]")
    picture(tmp_path / "more" / "b.png")
    write(tmp_path / "more" / "b.txt", POLYGON)
    converted = convert_data(tmp_path / "data", tmp_path / "out")
    assert converted.data.images == tmp_path
    names = [image["file_name"] for image in json.loads(converted.files["train"].read_text())["images"]]
    assert names == ["data/images/a.png", "more/b.png"]


@pytest.mark.parametrize(
    ("yaml", "line"),
    [
        ("train: images\nkpt_shape: [5, 2]", "0 .5 .5 .5 .5 .3 .3 .7 .3 .5 .5 .3 .7 .7 .7\n"),
        ("train: images\nkpt_shape: [5, 2]", "0 .5 .5 .5 .5\n"),
        ("train: images\nkpt_shape: [2, 3]", "0 .5 .5 .5 .5 .3 .3 2 0 0 0\n"),
        ("train: images", "0 .5 .5 .5 .5 .3 .3 2 .7 .3 1\n" * 3),
        ("train: images", "0 .5 .5 .5 .5 .3 .3 .7 .3 .5 .5 .3 .7\n" * 3),
    ],
)
def test_poses_train_boxes(tmp_path: Path, yaml: str, line: str) -> None:
    data = read(yolo(tmp_path, line, yaml=yaml))
    assert {one.box for one in data.parts["train"][0].objects} == {(15.0, 10.0, 30.0, 20.0)}
    assert all(one.segmentation is None for one in data.parts["train"][0].objects)
    assert any("keypoints" in note for note in data.notes)


def test_polygons_of_equal_length_are_no_poses(tmp_path: Path) -> None:
    lines = "".join(f"0 {x} .2 {x + 0.1:g} .2 {x + 0.1:g} .4 {x} .4\n" for x in (0.1, 0.4, 0.7, 0.85))
    assert all(one.segmentation for one in read(yolo(tmp_path, lines)).parts["train"][0].objects)


@pytest.mark.parametrize(
    ("lines", "yaml", "says"),
    [
        ("0 .5 .5 .5 .5 .3 .3\n", "train: images\nkpt_shape: [5, 2]", "a pose has a box and 10 values of keypoints"),
        (POLYGON, "train: images\nkpt_shape: 5", r"kpt_shape is 5; it must be \[keypoints, 2 or 3\]"),
        ("0 .5 .5 .5 .5 .93\n", "train: images", "remove the confidence"),
        ("inf .5 .5 .5 .5\n", "train: images", "class inf is not among"),
    ],
)
def test_faults(tmp_path: Path, lines: str, yaml: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(yolo(tmp_path, lines, yaml=yaml))


def test_labels_beside_the_images(tmp_path: Path) -> None:
    yolo(tmp_path)
    picture(tmp_path / "images" / "b.png")
    write(tmp_path / "images" / "b.txt", POLYGON * 2)
    assert counts(read(tmp_path)) == {"a.png": 1, "b.png": 2}
    write(tmp_path / "images" / "a.txt", POLYGON)
    assert counts(read(tmp_path)) == {"a.png": 1, "b.png": 2}
    write(tmp_path / "images" / "a.txt", POLYGON * 3)
    with pytest.raises(DataError, match=r"images/a\.png has different label files, labels/a\.txt and images/a\.txt"):
        read(tmp_path)


@pytest.mark.parametrize("labels", ["images/labels/a.txt", "labels/images/a.txt"])
def test_other_folders_of_labels(tmp_path: Path, labels: str) -> None:
    yolo(tmp_path)
    (tmp_path / "labels" / "a.txt").unlink()
    write(tmp_path / labels, POLYGON)
    assert counts(read(tmp_path)) == {"a.png": 1}


def test_rotated_boxes_are_reported(tmp_path: Path) -> None:
    notes = read(yolo(tmp_path, "0 .2 .2 .6 .2 .6 .5 .2 .5\n")).notes
    assert any("rotated boxes" in note for note in notes)
    assert not any("rotated boxes" in note for note in read(yolo(tmp_path, "0 .2 .2 .6 .2 .7 .5 .2 .5\n")).notes)


@pytest.mark.parametrize("name", ["c é.png", "c%20é.png", "C É.png", "ce\u0301.png"])
def test_names_of_label_files(tmp_path: Path, name: str) -> None:
    yolo(tmp_path)
    picture(tmp_path / "images" / name)
    decoded = {"c é.png": "c%20%C3%A9", "c%20é.png": "c é", "C É.png": "c e\u0301", "ce\u0301.png": "c\u00e9"}[name]
    write(tmp_path / "labels" / f"{decoded}.txt", POLYGON)
    assert counts(read(tmp_path)) == {"a.png": 1, name: 1}


def test_what_has_no_partner_is_named(tmp_path: Path) -> None:
    yolo(tmp_path)
    picture(tmp_path / "images" / "lonely.png")
    write(tmp_path / "labels" / "other.txt", POLYGON)
    notes = read(tmp_path).notes
    assert any("without label file" in note and "images/lonely.png" in note for note in notes)
    assert any("without image" in note and "labels/other.txt" in note for note in notes)


def test_labels_of_the_other_part_have_an_image(tmp_path: Path) -> None:
    yolo(tmp_path, yaml="train: train.txt\nval: val.txt")
    picture(tmp_path / "images" / "b.png")
    write(tmp_path / "labels" / "b.txt", POLYGON)
    write(tmp_path / "train.txt", "images/a.png\n")
    write(tmp_path / "val.txt", "images/b.png\n")
    data = read(tmp_path)
    assert set(data.parts) == {"train", "val"}
    assert not any("without" in note for note in data.notes)


def test_one_label_file_of_two_images(tmp_path: Path) -> None:
    yolo(tmp_path)
    picture(tmp_path / "images" / "a.jpg")
    with pytest.raises(DataError, match=r"labels/a\.txt is the only label file of 2 images.*a\.jpg and images/a\.png"):
        read(tmp_path)


def label_studio(root: Path) -> None:
    write(root / "classes.txt", "cat\ndog\n")
    picture(root / "images" / "a.png")
    write(root / "labels" / "a.txt", POLYGON)


def darknet(root: Path) -> None:
    write(root / "obj.names", "cat\ndog\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(root / "train.txt", "data/obj_train_data/a.png\n")
    picture(root / "obj_train_data" / "a.png")
    write(root / "obj_train_data" / "a.txt", "0 .5 .5 .5 .5\n")


def named_yaml(root: Path) -> None:
    yolo(root)
    (root / "data.yaml").rename(root / "pets.yaml")


@pytest.mark.parametrize("make", [label_studio, darknet, named_yaml])
def test_descriptions(tmp_path: Path, make: Any) -> None:
    make(tmp_path)
    data = read(tmp_path)
    assert data.classes == ("cat", "dog")
    assert counts(data) == {"a.png": 1}


# labelme


SHAPE = {"label": "cat", "points": [[2, 3], [12, 3], [12, 9]], "group_id": None, "shape_type": "polygon", "flags": {}}


def labelme(file: Path, image_path: str, **more: Any) -> Path:
    content = {"version": "5.2.1", "shapes": [SHAPE], "imagePath": image_path, "imageData": None}
    return write(file, json.dumps({**content, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **more}))


@pytest.mark.parametrize(
    ("json_file", "image", "image_path"),
    [
        ("labels/a.json", "pictures/a.png", "{root}/pictures/a.png"),
        ("labels/a.json", "pictures/a.png", "../pictures/a.png"),
        ("labels/a.json", "pictures/a.png", "..\\pictures\\a.png"),
        ("labels/a.json", "images/a.png", "C:\\Users\\me\\a.png"),
        ("labels/a.json", "images/a.png", "/gone/a.png"),
        ("labels/a.json", "labels/a.png", "/gone/other/a.png"),
        ("labels/a.json", "images/a.png", "renamed.png"),
    ],
)
def test_image_paths(tmp_path: Path, json_file: str, image: str, image_path: str) -> None:
    picture(tmp_path / image)
    labelme(tmp_path / json_file, image_path.format(root=tmp_path))
    for folder in (tmp_path / "labels", tmp_path):
        converted = convert_data(folder, tmp_path / "out" / folder.name)
        dataset = read_coco(converted.files["train"], converted.data.images)
        assert [record.path.resolve() for record in dataset.images] == [(tmp_path / image).resolve()]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape_type": ["polygon"]}, "not a list of shapes with a type"),
        ({"shape_type": {}}, "not a list of shapes with a type"),
        ({"points": [[2, 3], [12, 3], [5000, 9]]}, r"a\.png: instance 1 \(cat\): polygon 1 lies far outside"),
        ({"group_id": [1, 2]}, None),
    ],
)
def test_shapes_with_values_of_another_kind(tmp_path: Path, change: dict[str, Any], says: str | None) -> None:
    picture(tmp_path / "a.png")
    labelme(tmp_path / "a.json", "a.png", shapes=[{**SHAPE, **change}])
    if says is None:
        assert len(read_coco(convert_data(tmp_path, tmp_path / "out").files["train"], tmp_path).images) == 1
        return
    with pytest.raises(DataError, match=says):
        convert_data(tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.json"))


@pytest.mark.parametrize("name", ["x" * 5000, ["a.png"], 10**300, "\0"])
def test_image_paths_that_cannot_be_names(tmp_path: Path, name: Any) -> None:
    picture(tmp_path / "a.png")
    labelme(tmp_path / "a.json", name)
    assert counts(read(tmp_path)) == {"a.png": 1}  # found by the name of the JSON file


def test_embedded_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    labelme(tmp_path / "data" / "a.json", "C:\\gone\\a.png", imageData=data)
    converted = convert_data(tmp_path / "data", tmp_path / "out")
    (record,) = read_coco(converted.files["train"], converted.data.images).images
    assert np.array_equal(np.array(Image.open(record.path)), pixels)
    assert record.path.is_relative_to(tmp_path / "out")
    assert len(Dataset.from_folder(tmp_path / "data").images[0].instances) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["a.json"]
    labelme(tmp_path / "data" / "a.json", "a.png", imageData="?")
    with pytest.raises(DataError, match=r"a\.json: its imageData is damaged"):
        read(tmp_path / "data")


def test_other_json_files_and_hidden_ones(tmp_path: Path) -> None:
    picture(tmp_path / "z.png")
    labelme(tmp_path / "z.json", "z.png")
    write(tmp_path / "a_settings.json", "{}")
    (tmp_path / "._z.json").write_bytes(b"\x00\x05\x16\x07")
    data = read(tmp_path)
    assert counts(data) == {"z.png": 1}
    assert any("a_settings.json" in note for note in data.notes)


def test_two_files_of_one_image(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    labelme(tmp_path / "a.json", "a.png")
    labelme(tmp_path / "a_copy.json", "a.png")
    with pytest.raises(DataError, match=r"a\.json and a_copy\.json annotate the same image, a\.png"):
        read(tmp_path)
