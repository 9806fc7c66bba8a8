"""Pascal VOC, COCO panoptic, Cityscapes and VIA: a small example of each, its instances, and its faults by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from htc.data.dataset import Dataset
from htc.data.formats.converted import Converted
from htc.data.formats.recognize import is_known, read_other
from htc.data.formats.voc import voc_color
from htc.errors import DataError

SIZE = (48, 64)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE[1], SIZE[0])).save(path)
    return path


def save(path: Path, values: Any, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values))
    if palette:
        image.putpalette([color >> shift & 255 for color in map(voc_color, range(256)) for shift in (0, 8, 16)])
    image.save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def squares(*values: int, kind: Any = np.uint8, background: int = 0) -> np.ndarray:
    drawn = np.full(SIZE, background, kind)
    for value, x in zip(values, (2, 22, 42), strict=False):
        drawn[4:20, x : x + 16] = value
    return drawn


def read(folder: Path) -> Converted:
    data = read_other(folder)
    assert data is not None
    return data


def named(data: Converted, part: str = "train") -> list[list[str]]:
    return [[data.classes[one.category] for one in image.objects] for image in data.parts[part]]


# Pascal VOC


def voc(root: Path) -> Path:
    for number, stem in enumerate(("a", "b"), start=1):
        picture(root / "JPEGImages" / f"{stem}.jpg")
        objects = squares(*range(1, number + 2))
        objects[24:28] = 255
        save(root / "SegmentationObject" / f"{stem}.png", objects, palette=True)
        classes = squares(15, 8, 15)
        classes[24:28] = 255
        save(root / "SegmentationClass" / f"{stem}.png", classes, palette=True)
    picture(root / "JPEGImages" / "boxes_only.jpg")
    write(root / "ImageSets" / "Segmentation" / "train.txt", "a\n")
    write(root / "ImageSets" / "Segmentation" / "val.txt", "b\n")
    write(root / "ImageSets" / "Segmentation" / "trainval.txt", "a\nb\n")
    return root


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(tmp_path: Path, below: str) -> None:
    voc(tmp_path / below)
    data = read(tmp_path)
    assert data.kind == "Pascal VOC"
    assert len(data.classes) == 20
    assert named(data) == [["person", "cat"]]
    assert named(data, "val") == [["person", "cat", "person"]]
    dataset = Dataset.from_folder(tmp_path)
    assert [one.box for one in dataset.images[0].instances] == [(2, 4, 18, 20), (22, 4, 38, 20)]


def test_voc_colors_and_label_map_as_cvat_writes_them(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages" / "a.png")
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[4:20, 2:18], colors[4:20, 22:38] = (250, 50, 83), (51, 221, 255)
    save(tmp_path / "SegmentationClass" / "a.png", colors)
    colors[4:20, 2:18], colors[4:20, 22:38], colors[0:2] = (128, 0, 0), (0, 128, 0), (224, 224, 192)
    save(tmp_path / "SegmentationObject" / "a.png", colors)
    write(tmp_path / "ImageSets" / "Segmentation" / "default.txt", "a\n")
    write(
        tmp_path / "labelmap.txt",
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncell:250,50,83::\ncore:51,221,255::\n",
    )
    data = read(tmp_path)
    assert data.classes == ("cell", "core")
    assert named(data) == [["cell", "core"]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: (root / "JPEGImages" / "a.jpg").unlink(), r"SegmentationObject/a\.png has no image"),
        (lambda root: (root / "SegmentationClass" / "a.png").unlink(), r"has no map of classes; add .*a\.png"),
        (lambda root: save(root / "SegmentationObject" / "a.png", squares(1)[:40]), r"a\.png is 64x40, but its image"),
        (lambda root: save(root / "SegmentationClass" / "a.png", squares(99), True), r"instance 1 has no known class"),
        (lambda root: write(root / "labelmap.txt", "cat:1,2::\n"), r"labelmap\.txt: 'cat:1,2::' is not"),
    ],
)
def test_faults_of_voc(tmp_path: Path, change: Callable[[Path], Any], says: str) -> None:
    change(voc(tmp_path))
    with pytest.raises(DataError, match=says):
        read(tmp_path)


XML = """<annotation><filename>a.jpg</filename><size><width>64</width><height>48</height></size>
<object><name>cat</name><difficult>0</difficult><bndbox><xmin>{low}</xmin><ymin>5</ymin><xmax>18</xmax><ymax>20</ymax>
</bndbox></object>
<object><name>dog</name><difficult>1</difficult><bndbox><xmin>3</xmin><ymin>5</ymin><xmax>99</xmax><ymax>20</ymax>
</bndbox>{more}</object></annotation>"""


@pytest.mark.parametrize("image", ["JPEGImages/a.jpg", "train/a.jpg", "a.jpg"])
@pytest.mark.parametrize(("low", "box"), [(3, (2.0, 4.0, 16.0, 16.0)), (0, (0.0, 5.0, 18.0, 15.0))])
def test_voc_boxes(tmp_path: Path, image: str, low: int, box: tuple[float, ...]) -> None:
    picture(tmp_path / image)
    write(tmp_path / image.replace("JPEGImages", "Annotations").replace(".jpg", ".xml"), XML.format(low=low, more=""))
    data = read(tmp_path)
    first, second = data.parts["train"][0].objects
    assert data.classes == ("cat", "dog")
    assert (first.box, first.crowd, first.segmentation) == (box, False, None)
    assert second.crowd
    assert any("difficult" in note for note in data.notes)


def test_voc_polygons_as_roboflow_writes_them(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.jpg")
    corners = "".join(f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate([(1, 2), (9, 2), (9, 8)], 1))
    write(tmp_path / "train" / "a.xml", XML.format(low=3, more=f"<polygon>{corners}</polygon>"))
    assert read(tmp_path).parts["train"][0].objects[1].segmentation == [[1, 2, 9, 2, 9, 8]]


def test_broken_xml(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", "<annotation>")
    with pytest.raises(DataError, match=r"a\.xml is not valid XML"):
        read(tmp_path)


# COCO panoptic


def panoptic(root: Path) -> Path:
    picture(root / "train2017" / "a.jpg")
    ids = squares(3, 300, 70000, kind=np.int64, background=9)
    save(root / "annotations/panoptic_train2017/a.png", np.stack([ids, ids >> 8, ids >> 16], -1).astype(np.uint8))
    segments = [(9, 5, 0), (3, 1, 0), (300, 1, 1), (70000, 2, 0)]
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {
                "image_id": 7,
                "file_name": "a.png",
                "segments_info": [{"id": id, "category_id": one, "iscrowd": crowd} for id, one, crowd in segments],
            }
        ],
        "categories": [
            {"id": 1, "name": "cat", "isthing": 1},
            {"id": 5, "name": "sky", "isthing": 0},
            {"id": 2, "name": "dog", "isthing": 1},
        ],
    }
    write(root / "annotations/panoptic_train2017.json", json.dumps(content))
    return root


def test_panoptic(tmp_path: Path) -> None:
    data = read(panoptic(tmp_path))
    assert data.classes == ("cat", "dog")
    assert named(data) == [["cat", "cat", "dog"]]
    assert [one.crowd for one in data.parts["train"][0].objects] == [False, True, False]
    assert any("--semantic-json" in note for note in data.notes)
    (record,) = Dataset.from_folder(tmp_path).images
    assert [one.box for one in record.instances] == [(2, 4, 18, 20), (22, 4, 38, 20), (42, 4, 58, 20)]


def test_panoptic_map_of_another_size(tmp_path: Path) -> None:
    panoptic(tmp_path)
    Image.new("RGB", (10, 10)).save(tmp_path / "train2017" / "a.jpg")
    with pytest.raises(DataError, match=r"a\.png is 64x48, but its image 10x10"):
        read(tmp_path)


# Cityscapes


def test_cityscapes(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        name = "ulm/ulm_000000_000019_{kind}.png"
        picture(tmp_path / "leftImg8bit" / part / name.format(kind="leftImg8bit"))
        save(
            tmp_path / "gtFine" / part / name.format(kind="gtFine_instanceIds"),
            squares(26001, 24, 24000, kind=np.int32, background=7).astype(np.uint16),
        )
    picture(tmp_path / "leftImg8bit" / "train" / "ulm" / "ulm_1_leftImg8bit.png")
    data = read(tmp_path)
    assert set(data.parts) == {"train", "val"}
    assert sorted(named(data)[0]) == ["car", "person", "person"]
    assert [one.crowd for one in data.parts["train"][0].objects] == [True, False, False]
    for part in ("test images are left out", "ulm_1_leftImg8bit.png"):
        assert any(part in note for note in data.notes)


# VIA


POLYGON = {"name": "polygon", "all_points_x": [2, 18, 18, 2], "all_points_y": [4, 4, 20, 20]}
RECTANGLE = {"name": "rect", "x": 2, "y": 4, "width": 16, "height": 16}
ELLIPSE = {"name": "ellipse", "cx": 10, "cy": 12, "rx": 8, "ry": 8}
SHAPES = [POLYGON, RECTANGLE, ELLIPSE, {"name": "circle", "cx": 10, "cy": 12, "r": 8}]


def via(folder: Path, shapes: list[dict[str, Any]], attributes: dict[str, Any], version: str) -> Path:
    picture(folder / "a.jpg")
    regions: Any = [{"shape_attributes": shape, "region_attributes": attributes} for shape in shapes]
    if version == "csv":
        head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        quoted = lambda value: '"' + json.dumps(value).replace('"', '""') + '"'  # noqa: E731
        rows = [f'a.jpg,1,"{{}}",4,{n},{quoted(shape)},{quoted(attributes)}\n' for n, shape in enumerate(shapes)]
        write(folder / "via_export_csv.csv", head + "".join(rows))
        return folder
    if version == "1":
        regions = dict(enumerate(regions))
    entries: Any = {"a.jpg1": {"filename": "a.jpg", "size": 1, "regions": regions, "file_attributes": {}}}
    if version == "project":
        entries = {"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}}
    write(folder / "via_region_data.json", json.dumps(entries))
    return folder


@pytest.mark.parametrize("version", ["1", "2", "project", "csv"])
def test_via(tmp_path: Path, version: str) -> None:
    data = read(via(tmp_path, SHAPES, {"name": "cell", "note": "x"}, version))
    assert named(data) == [["cell"] * 4]
    assert any("attribute 'name'" in note for note in data.notes)
    boxes = [one.box for one in Dataset.from_folder(tmp_path).images[0].instances]
    assert boxes == [(2, 4, 18, 20)] * 4


@pytest.mark.parametrize(
    ("attributes", "classes"),
    [
        ({"name": "cell"}, ("cell",)),
        ({"kind": {"cell": True, "core": False}}, ("cell",)),
        ({}, ("object",)),
        ({"name": ""}, ("object",)),
        ({"remark": "big", "Class": "core"}, ("core",)),
    ],
)
def test_classes_of_via(tmp_path: Path, attributes: dict[str, Any], classes: tuple[str, ...]) -> None:
    assert read(via(tmp_path, [POLYGON], attributes, "2")).classes == classes


def test_via_rectangles_are_boxes_and_points_are_skipped(tmp_path: Path) -> None:
    data = read(via(tmp_path, [RECTANGLE, {"name": "point", "cx": 1, "cy": 1}], {"name": "cell"}, "2"))
    assert [(one.box, one.segmentation) for one in data.parts["train"][0].objects] == [((2, 4, 16, 16), None)]
    assert any("type point" in note for note in data.notes)


def test_via_3(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    content = {
        "project": {"pid": "x", "vid_list": ["1"]},
        "attribute": {"1": {"aname": "class", "type": 4, "options": {"0": "cell", "1": "core"}}},
        "file": {"1": {"fid": "1", "fname": "a.jpg", "src": ""}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {
            "m1": {"vid": "1", "z": [], "xy": [7, 2, 4, 18, 4, 18, 20, 2, 20], "av": {"1": "1"}},
            "m2": {"vid": "1", "z": [], "xy": [2, 2, 4, 16, 16], "av": {"1": "0"}},
            "m3": {"vid": "1", "z": [1.5], "xy": [], "av": {}},
        },
    }
    write(tmp_path / "project.json", json.dumps(content))
    assert named(read(tmp_path)) == [["core", "cell"]]


@pytest.mark.parametrize(
    ("shape", "attributes", "says"),
    [
        ({"name": "polygon", "all_points_x": [1], "all_points_y": [1]}, {"name": "x"}, r"region 2 .*shape is damaged"),
        ({"name": "spiral"}, {"name": "x"}, "a shape of type 'spiral'"),
    ],
)
def test_faults_of_via(tmp_path: Path, shape: dict[str, Any], attributes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(via(tmp_path, [POLYGON, shape], attributes, "2"))


def test_via_region_without_a_class(tmp_path: Path) -> None:
    via(tmp_path, [POLYGON, RECTANGLE], {"name": "x"}, "2")
    file = tmp_path / "via_region_data.json"
    content = json.loads(file.read_text())
    content["a.jpg1"]["regions"][1]["region_attributes"] = {"name": ""}
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"region 2 of a\.jpg has no name"):
        read(tmp_path)


def test_via_without_its_image(tmp_path: Path) -> None:
    via(tmp_path, [POLYGON], {"name": "x"}, "2")
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"its image 'a\.jpg' does not exist"):
        read(tmp_path)


def test_other_json_and_xml_files_are_no_data(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    write(tmp_path / "settings.json", "{}")
    assert not is_known(tmp_path)
