"""Data sets in other forms: what becomes of each object, and that every fault is named with file and line."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from htc.data.coco import read_coco
from htc.data.dataset import Dataset, ImageRecord, Polygons, RunLengths
from htc.data.formats.label_maps import runs_by_value
from htc.data.formats.layouts import convert_data, prepare_splits
from htc.data.held_out import split_off
from htc.data.mask_encodings import decode_mask
from htc.errors import DataError

SIZE = (40, 60)


def image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def map_file(path: Path, values: Any, kind: Any = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, kind)).save(path)
    return path


def trained_on(folder: Path, **options: Any) -> Dataset:
    splits = prepare_splits(folder, folder / "out", **options)
    return read_coco(splits.train_annotations, splits.train_images)


def bitmap(record: ImageRecord, number: int = 0) -> np.ndarray:
    segmentation = record.instances[number].segmentation
    assert isinstance(segmentation, Polygons | RunLengths)
    crop = decode_mask(segmentation, record.height, record.width)
    canvas = np.zeros((record.height, record.width), bool)
    canvas[crop.y : crop.y + crop.bitmap.shape[0], crop.x : crop.x + crop.bitmap.shape[1]] = crop.bitmap
    return canvas


# YOLO


def yolo(
    root: Path,
    lines: str = "1 0.1 0.1 0.5 0.1 0.5 0.5\n",
    names: str = "names: [cat, dog]",
    place: str = "train: images",
) -> Path:
    image(root / "images" / "a.png")
    image(root / "images" / "b.png")
    write(root / "labels" / "a.txt", lines)
    write(root / "data.yaml", f"{names}\n{place}\n")
    return root


def test_yolo_outlines_and_images_without_objects(tmp_path: Path) -> None:
    data = trained_on(yolo(tmp_path))
    assert data.classes == ("cat", "dog")
    assert [len(record.instances) for record in data.images] == [1, 0]
    found = data.images[0].instances[0]
    assert (found.label, found.box) == (1, (6, 4, 30, 20))
    assert isinstance(found.segmentation, Polygons)
    assert found.segmentation.rings[0].tolist() == [6, 4, 30, 4, 30, 20]


def test_yolo_boxes(tmp_path: Path) -> None:
    notes: list[str] = []
    data = trained_on(yolo(tmp_path, "0 0.5 0.5 0.2 0.5\n1.0 0.95 0.5 0.2 0.5\n"), say=notes.append)
    assert [found.box for found in data.images[0].instances] == [(24, 10, 36, 30), (51, 10, 60, 30)]
    assert all(found.segmentation is None for found in data.images[0].instances)
    assert any("only boxes" in note for note in notes)
    assert any("without label file" in note for note in notes)


@pytest.mark.parametrize(
    ("names", "place"),
    [
        ("names: {0: cat, 1: dog}", "train: ../images"),
        ("nc: 2\nnames: [cat, dog]", "path: /not/on/this/machine\ntrain: images"),
        ("names: [cat, dog]", "path: .\ntrain: [images]"),
        ("names: [cat, dog]", "train: list.txt"),
    ],
)
def test_ways_to_write_the_yaml(tmp_path: Path, names: str, place: str) -> None:
    write(tmp_path / "list.txt", "./images/a.png\nimages/b.png\n")
    assert len(trained_on(yolo(tmp_path, names=names, place=place))) == 2


def test_roboflows_yolo_folders(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        image(tmp_path / part / "images" / "a.jpg")
        write(tmp_path / part / "labels" / "a.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5")
    write(
        tmp_path / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: ['x']\nnc: 1\n",
    )
    converted = convert_data(tmp_path, tmp_path / "out")
    assert set(converted.files) == {"train", "val", "test"}
    assert read_coco(converted.files["val"], tmp_path).images[0].path == tmp_path / "valid/images/a.jpg"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"lines": "0 0.1 0.1 0.5 0.1 0.5 0.5\n7 0 0 1 0 1 1\n"},
            r"labels/a\.txt:2: class 7 is not among the 2 classes",
        ),
        ({"lines": "0 10 10 50 10 50 50\n"}, r"a\.txt:1: coordinate 10 is not in 0\.\.1"),
        ({"lines": "0 0.1 0.1 0.5\n"}, r"a\.txt:1: 3 coordinates"),
        ({"lines": "0 0.1 0.1 0.5 0.5 0.5\n"}, r"a\.txt:1: 5 coordinates"),
        ({"lines": "cat 0.1 0.1 0.5 0.5\n"}, r"a\.txt:1: 'cat 0\.1 0\.1 0\.5 0\.5' is not a class index"),
        ({"lines": "0 nan 0.1 0.5 0.5\n"}, "coordinate nan is not in 0"),
        ({"lines": ""}, "none of its 2 train images has a label file with instances"),
        ({"names": "nc: 3\nnames: [cat, dog]"}, "nc is 3, but there are 2 names"),
        ({"names": "names: {0: cat, 2: dog}"}, "without gaps"),
        ({"names": "names: [cat, cat]"}, "'cat' twice"),
        ({"names": ""}, "has no names"),
        ({"names": "names: [cat"}, "not valid YAML"),
        ({"place": "val: images"}, "has no train images"),
        ({"place": "train: elsewhere"}, "train is 'elsewhere'"),
    ],
)
def test_faults_of_yolo(tmp_path: Path, change: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        trained_on(yolo(tmp_path, **change))


# labelme


def shape(
    kind: str, points: list[list[float]], label: str = "cat", group: int | None = None, **more: Any
) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}, **more}


def labelme(folder: Path, shapes: list[dict[str, Any]], name: str = "a", **more: Any) -> Path:
    image(folder / f"{name}.png")
    content = {
        "version": "5.4.1",
        "shapes": shapes,
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }
    write(folder / f"{name}.json", json.dumps(content | more))
    return folder


POLYGON = shape("polygon", [[2, 3], [12, 3], [12, 9], [2, 9]])


def test_labelme_shapes(tmp_path: Path) -> None:
    mask = io.BytesIO()
    Image.fromarray(np.array([[1, 0], [1, 1]], bool)).save(mask, "PNG")
    shapes = [
        POLYGON,
        shape("rectangle", [[30, 20], [20, 10]], label="box"),
        shape("circle", [[40, 20], [45, 20]], label="disc"),
        shape("mask", [[50, 30], [51, 31]], label="dots", mask=base64.b64encode(mask.getvalue()).decode()),
        shape("point", [[1, 1]]),
        shape("polygon", [[0, 0], [9, 0], [9, 9]], label="__ignore__"),
    ]
    notes: list[str] = []
    data = trained_on(labelme(tmp_path, shapes), say=notes.append)
    assert data.classes == ("box", "cat", "disc", "dots")
    record = data.images[0]
    assert [data.classes[found.label] for found in record.instances] == ["cat", "box", "disc", "dots"]
    assert record.instances[0].box == (2, 3, 12, 9)
    assert record.instances[1].box == (20, 10, 30, 20)
    assert bitmap(record, 1)[10:20, 20:30].all()
    assert abs(int(bitmap(record, 2).sum()) - np.pi * 25) < 4
    assert np.argwhere(bitmap(record, 3)).tolist() == [[30, 50], [31, 50], [31, 51]]
    for part in ("type point", "__ignore__", "rectangles next to"):
        assert any(part in note for note in notes)


def test_shapes_of_a_group_are_one_object(tmp_path: Path) -> None:
    """Of the same label: a group that holds two labels is two objects."""
    halves = [shape("polygon", [[x, 5], [x + 4, 5], [x + 4, 9], [x, 9]], group=1) for x in (5, 30)]
    other = shape("polygon", [[50, 5], [54, 5], [54, 9]], label="dog", group=1)
    record = trained_on(labelme(tmp_path, [*halves, other, POLYGON, POLYGON])).images[0]
    assert [found.box for found in record.instances] == [(5, 5, 34, 9), (50, 5, 54, 9), (2, 3, 12, 9), (2, 3, 12, 9)]
    assert bitmap(record).sum() == 2 * 16


def test_rectangles_alone_are_boxes(tmp_path: Path) -> None:
    record = trained_on(labelme(tmp_path, [shape("rectangle", [[20, 10], [30, 50]])])).images[0]
    assert record.instances[0].segmentation is None
    assert record.instances[0].box == (20, 10, 30, 40)


def test_parts_empty_files_and_images_without_file(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        labelme(tmp_path / part, [POLYGON])
    labelme(tmp_path / "train", [], name="empty")
    image(tmp_path / "train" / "never_opened.png")
    notes: list[str] = []
    splits = prepare_splits(tmp_path, tmp_path / "out", say=notes.append)
    data = read_coco(splits.train_annotations, splits.train_images)
    assert [(record.path.name, len(record.instances)) for record in data.images] == [("a.png", 1), ("empty.png", 0)]
    assert any("image without JSON file" in note for note in notes)
    assert splits.val_annotations is not None


def test_the_order_of_labels_txt(tmp_path: Path) -> None:
    write(tmp_path / "labels.txt", "__ignore__\n_background_\nzebra\ncat\n")
    assert trained_on(labelme(tmp_path, [POLYGON])).classes == ("zebra", "cat")


@pytest.mark.parametrize(
    ("shapes", "more", "says"),
    [
        ([shape("polygon", [[1, 1], [2, 2]])], {}, r"a\.json: shape 1, a polygon, has 2 points but needs 3"),
        ([POLYGON, shape("polygon", [[1, 1, 1]] * 3)], {}, r"a\.json: shape 2: points must be pairs"),
        ([shape("spiral", [[1, 1]] * 3)], {}, "type 'spiral'"),
        ([shape("mask", [[1, 1], [2, 2]], mask="?")], {}, "its mask cannot be read"),
        ([{**POLYGON, "label": None}, POLYGON], {}, "shape 1 has no label"),
        ([POLYGON], {"imageHeight": 41}, r"at 60x41, but a\.png is 60x40"),
        ([], {}, "contain no instances"),
        ([POLYGON], {"imagePath": "gone.png", "name": "a"}, None),
    ],
)
def test_faults_of_labelme(
    tmp_path: Path, shapes: list[dict[str, Any]], more: dict[str, Any], says: str | None
) -> None:
    more.pop("name", None)
    folder = labelme(tmp_path, shapes, **more)
    if says is None:
        assert len(trained_on(folder)) == 1  # the image of the same name, as labelme itself would not find it
        (folder / "a.png").unlink()
        says = "its image 'gone.png' does not exist"
    with pytest.raises(DataError, match=says):
        trained_on(folder)


# Label maps


def rectangles(*places: tuple[int, slice, slice]) -> np.ndarray:
    values = np.zeros(SIZE, np.int64)
    for value, rows, columns in places:
        values[rows, columns] = value
    return values


TWO = rectangles((1, slice(0, 5), slice(0, 5)), (7, slice(10, 20), slice(3, 9)), (1, slice(30, 33), slice(50, 60)))


@pytest.mark.parametrize(("values", "kind"), [(TWO, np.uint8), (TWO * 300, np.uint16)])
def test_every_value_is_an_object(tmp_path: Path, values: np.ndarray, kind: Any) -> None:
    """Also where it is in two places."""
    image(tmp_path / "images" / "a.png")
    image(tmp_path / "images" / "b.png")
    map_file(tmp_path / "masks" / "a.png", values, kind)
    data = trained_on(tmp_path)
    assert data.classes == ("object",)
    record = data.images[0]
    assert np.array_equal(bitmap(record, 0), TWO == 1)
    assert np.array_equal(bitmap(record, 1), TWO == 7)
    assert [len(record.instances) for record in data.images] == [2, 0]


def test_every_color_is_an_object(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[TWO == 1] = (255, 0, 0)
    colors[TWO == 7] = (0, 255, 0)
    map_file(tmp_path / "masks" / "a.png", colors)
    assert len(trained_on(tmp_path).images[0].instances) == 2


def test_binary_masks_are_taken_apart(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png")
    map_file(tmp_path / "masks" / "a.png", (TWO > 0) * 255)
    notes: list[str] = []
    assert len(trained_on(tmp_path, say=notes.append).images[0].instances) == 3
    assert any("binary" in note for note in notes)


def test_classes_by_folder_and_parts(tmp_path: Path) -> None:
    for part in ("train", "val"):
        image(tmp_path / "images" / part / "a.jpg")
        map_file(tmp_path / "masks" / part / "dog" / "a.png", TWO)
        map_file(tmp_path / "masks" / part / "cat" / "a.png", (TWO == 7) * 2)
    splits = prepare_splits(tmp_path, tmp_path / "out")
    data = read_coco(splits.train_annotations, splits.train_images)
    assert data.classes == ("cat", "dog")
    assert [found.label for found in data.images[0].instances] == [0, 1, 1]
    assert splits.val_annotations is not None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (TWO[:39], r"masks/a\.png is 60x39, but its image 60x40"),
        (TWO * 0, "no label map of a train image contains an instance"),
        (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 2000, None),
    ],
)
def test_faults_of_label_maps(tmp_path: Path, values: np.ndarray, says: str | None) -> None:
    image(tmp_path / "images" / "a.png")
    map_file(tmp_path / "masks" / "a.png", values, np.uint16)
    if says is None:
        assert len(trained_on(tmp_path).images[0].instances) == 1999
        return
    with pytest.raises(DataError, match=says):
        trained_on(tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_runs_of_every_value(height: int, width: int, values: int, seed: int) -> None:
    held = np.random.default_rng(seed).integers(0, values, (height, width))
    runs = runs_by_value(held)
    assert set(runs) == set(np.unique(held).tolist())
    for value, counts in runs.items():
        flat = np.repeat(np.arange(len(counts)) % 2, counts)
        assert np.array_equal(flat.reshape(width, height).T == 1, held == value)


# Any layout


def test_unknown_layouts_list_the_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)none of the known layouts.*YOLO.*label maps.*labelme"):
        prepare_splits(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def coco(folder: Path, count: int, **more: Any) -> Path:
    images = [
        {"id": n, "file_name": image(folder / "train" / f"{n}.png").name, "height": SIZE[0], "width": SIZE[1], **more}
        for n in range(count)
    ]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5]} for n in range(count)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    write(folder / "annotations" / "instances_train.json", json.dumps(content))
    return folder


def test_a_share_is_set_apart_by_name_and_only_when_asked(tmp_path: Path) -> None:
    notes: list[str] = []
    splits = prepare_splits(coco(tmp_path, 40), tmp_path / "out", say=notes.append)
    assert splits.val_annotations is None
    assert any("--val-share" in note for note in notes)
    divided = prepare_splits(tmp_path, tmp_path / "out", val_share=0.25)
    assert divided.val_annotations is not None
    train, val = (read_coco(file, tmp_path / "train") for file in (divided.train_annotations, divided.val_annotations))
    assert len(train) + len(val) == 40
    assert 4 <= len(val) <= 17
    assert not {record.path for record in train.images} & {record.path for record in val.images}
    assert all(len(record.instances) == 1 for record in (*train.images, *val.images))
    with pytest.raises(DataError, match="--val-share has no effect: remove it"):
        prepare_splits(yolo_with_val(tmp_path / "yolo"), tmp_path / "out", val_share=0.2)


def yolo_with_val(folder: Path) -> Path:
    return yolo(folder, place="train: images\nval: images")


def test_groups_stay_together(tmp_path: Path) -> None:
    splits = prepare_splits(coco(tmp_path, 10, group="one film"), tmp_path / "out")
    with pytest.raises(DataError, match="leaves no image for"):
        split_off(splits, 0.5, tmp_path / "out")


@pytest.mark.parametrize("share", [0.0, 1.0, 2.0, -1.0])
def test_shares_that_are_none(tmp_path: Path, share: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        prepare_splits(coco(tmp_path, 3), tmp_path / "out", val_share=share)


@pytest.mark.parametrize("make", [yolo, lambda folder: labelme(folder, [POLYGON])])
def test_images_are_neither_copied_nor_changed(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path / "data")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    prepare_splits(folder, tmp_path / "out")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".json"}
