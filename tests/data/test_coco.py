"""COCO files: what is read, and that everything unusable is named before it is used."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks

from htc.data.coco import find_splits, read_coco
from htc.data.dataset import Polygons, RunLengths
from htc.data.mask_encodings import decode_mask, read_counts
from htc.errors import DataError

SQUARE = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]


def content() -> dict[str, Any]:
    """Two images, the second without objects; ids with gaps, image id 0, no info, no licences."""
    return {
        "images": [
            {"id": 0, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 7, "file_name": "b.png", "height": 8, "width": 9},
        ],
        "annotations": [
            {
                "id": 5,
                "image_id": 0,
                "category_id": 90,
                "bbox": [2, 3, 10, 6],
                "area": 60,
                "iscrowd": 0,
                "segmentation": SQUARE,
            },
            {
                "id": 9,
                "image_id": 0,
                "category_id": 3,
                "bbox": [0, 0, 30, 20],
                "iscrowd": 1,
                "segmentation": {"size": [20, 30], "counts": [0, 600]},
            },
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
    }


def write(folder: Path, data: Any) -> Path:
    for name, size in (("a.png", (30, 20)), ("b.png", (9, 8))):
        Image.new("RGB", size).save(folder / name)
    path = folder / "instances.json"
    path.write_text(json.dumps(data))
    return path


def test_records(tmp_path: Path) -> None:
    data = read_coco(write(tmp_path, content()), tmp_path)
    assert data.classes == ("car", "toothbrush")
    assert data.category_ids == (3, 90)
    assert [record.id for record in data.images] == [0, 7]
    assert data.images[0].path == tmp_path / "a.png"
    assert (data.images[1].height, data.images[1].width, data.images[1].instances) == (8, 9, ())
    square, crowd = data.images[0].instances
    assert (square.id, square.label, square.box, square.crowd) == (5, 1, (2, 3, 12, 9), False)
    assert (crowd.label, crowd.crowd) == (0, True)
    assert len(data) == 2


def test_crowd_comes_from_iscrowd_not_from_the_encoding(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["iscrowd"] = 1
    data["annotations"][1]["iscrowd"] = 0
    assert [instance.crowd for instance in read_coco(write(tmp_path, data), tmp_path).images[0].instances] == [
        True,
        False,
    ]


def test_no_objects_at_all(tmp_path: Path) -> None:
    data = content() | {"annotations": []}
    assert [record.instances for record in read_coco(write(tmp_path, data), tmp_path).images] == [(), ()]


@pytest.mark.parametrize("segmentation", [None, []])
def test_boxes_without_masks(tmp_path: Path, segmentation: Any) -> None:
    data = content()
    data["annotations"][0]["segmentation"] = segmentation
    assert read_coco(write(tmp_path, data), tmp_path).images[0].instances[0].segmentation is None


def test_a_missing_box_is_the_masks(tmp_path: Path) -> None:
    data = content()
    del data["annotations"][0]["bbox"]
    assert read_coco(write(tmp_path, data), tmp_path).images[0].instances[0].box == (2, 3, 12, 9)


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [([2, 3, 10, 0], "less than one"), ([2, 3, 0.5, 9], "less than one"), ([40, 3, 5, 5], "outside the image")],
)
def test_objects_that_teach_nothing_are_dropped_and_named(tmp_path: Path, bbox: list[float], reason: str) -> None:
    """COCO's own train2017 has such boxes: they must not stop a run."""
    data = content()
    data["annotations"][0]["bbox"] = bbox
    found = read_coco(write(tmp_path, data), tmp_path)
    assert [instance.id for instance in found.images[0].instances] == [9]
    assert len(found.dropped) == 1
    assert reason in found.dropped[0]
    assert "annotation 5" in found.dropped[0]


def change(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Sets one value deep in the file."""

    def apply(data: dict[str, Any]) -> None:
        place: Any = data
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return apply


FIRST = ("annotations", 0)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (change("images", 0, "file_name", to="gone.jpg"), r"1 of 2 images not found in .*gone\.jpg"),
        (change("images", 1, "id", to=0), "image id 0 occurs twice"),
        (change("images", 0, "height", to=None), "height and width are None"),
        (change("images", 0, "file_name", to=None), "its file_name is None"),
        (change("images", to=[]), "has no images"),
        (change("images", 0, "id", to=None), "an id must be an integer or a string"),
        (change("categories", to=[]), "has no categories"),
        (change("categories", 1, "id", to=90), "category id 90 occurs twice"),
        (change("categories", 1, "name", to="toothbrush"), "'toothbrush' occurs twice"),
        (change("categories", 1, "id", to="c3"), "it needs an integer and a name"),
        (change(*FIRST, to=17), r"annotations\[0\] is not a JSON object"),
        (change(*FIRST, "id", to=9), "annotation id 9 occurs twice"),
        (change(*FIRST, "image_id", to=3), r"annotation 5 \(image 3\): its image_id 3 is not among the images"),
        (change(*FIRST, "category_id", to=4), "category_id 4 is not among"),
        (change(*FIRST, "iscrowd", to=2), "iscrowd is 2"),
        (change(*FIRST, "bbox", to=[2, 3, -4, 5]), "negative size"),
        (change(*FIRST, "bbox", to=[2, 3, 4]), "four numbers"),
        (change(*FIRST, "bbox", to=[2, 3, 4, float("nan")]), "four numbers"),
        (change(*FIRST, "segmentation", to=[[1, 2, 3, 4]]), "polygon 1 has 4 numbers"),
        (change(*FIRST, "segmentation", to=[[1, 2, 3, 4, 5, 6, 7]]), "polygon 1 has 7 numbers"),
        (change(*FIRST, "segmentation", to=[*SQUARE, [1.0]]), "polygon 2 has 1 numbers"),
        (change(*FIRST, "segmentation", to=SQUARE[0]), "another pair of brackets"),
        (change(*FIRST, "segmentation", to=[[1, 2, 3, 4, 5, "6"]]), "polygon 1 is not a list of finite numbers"),
        (change(*FIRST, "segmentation", to=[[1, 2, 3, 4, 5e7, 6]]), "far outside"),
        (change(*FIRST, "segmentation", to="mask.png"), "neither a list of polygons nor"),
        (change(*FIRST, "segmentation", to={"size": [30, 20], "counts": [600]}), r"\[height, width\] is \[20, 30\]"),
        (
            change(*FIRST, "segmentation", to={"size": [20, 30], "counts": [5, 6]}),
            "cover 11 pixels, the image has 600",
        ),
        (change(*FIRST, "segmentation", to={"size": [20, 30], "counts": [700, -100]}), "encode the mask again"),
        (change(*FIRST, "segmentation", to={"size": [20, 30], "counts": "~~~ü"}), "text is damaged"),
        (change(*FIRST, "segmentation", to={"size": [20, 30], "counts": "o" * 40}), "text is damaged"),
        (change(*FIRST, "segmentation", to={"size": [20, 30], "counts": 4}), "neither a string nor a list"),
    ],
)
def test_faults_are_named(tmp_path: Path, fault: Callable[[dict[str, Any]], None], says: str) -> None:
    data = content()
    fault(data)
    path = write(tmp_path, data)
    with pytest.raises(DataError, match=says) as error:
        read_coco(path, tmp_path)
    assert str(path) in str(error.value)


def test_a_box_or_a_mask_there_must_be(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0] = {"id": 5, "image_id": 0, "category_id": 3}
    with pytest.raises(DataError, match="neither bbox nor segmentation"):
        read_coco(write(tmp_path, data), tmp_path)


def test_many_faults_are_one_short_message(tmp_path: Path) -> None:
    data = content()
    data["annotations"] = [{**data["annotations"][0], "id": id, "category_id": 1} for id in range(20)]
    with pytest.raises(DataError, match=r"20 faults:(.|\n)*and 15 more") as error:
        read_coco(write(tmp_path, data), tmp_path)
    assert len(str(error.value).splitlines()) == 7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ('{"images": [', "not valid JSON"),
        ("[]", "like a result file"),
        ("{}", "no list of images and annotations and categories"),
        ("3", "not a COCO instance file"),
        ('{"images": [], "annotations": 1.5, "categories": []}', "no list of annotations"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_coco(path, tmp_path)


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(DataError, match="is a folder"):
        read_coco(tmp_path, tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_coco(write(tmp_path, content()), tmp_path / "none")


def test_folders_in_file_names(tmp_path: Path) -> None:
    """`file_name` may hold a folder that exists below the image folder, or one that is the image folder itself."""
    data = content()
    data["images"][0]["file_name"] = "sub/c.png"
    data["images"][1]["file_name"] = "elsewhere/b.png"
    path = write(tmp_path, data)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "sub" / "c.png")
    assert [record.path for record in read_coco(path, tmp_path).images] == [tmp_path / "sub/c.png", tmp_path / "b.png"]
    assert len(read_coco(path, None)) == 2


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["annotations/instances_train.json", "annotations/instances_val.json"], ("train", "val")),
        (["annotations/instances_train2017.json", "annotations/instances_val2017.json"], ("train2017", "val2017")),
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"], ("train", "valid")),
        (["train/_annotations.coco.json"], ("train", None)),
    ],
)
def test_layouts(tmp_path: Path, files: list[str], found: tuple[str, str | None]) -> None:
    for name in (*files, *(f"{part}/x" for part in found if part)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    splits = find_splits(tmp_path)
    assert splits.train_annotations == tmp_path / files[0]
    assert splits.train_images == tmp_path / found[0]
    assert splits.val_images == (tmp_path / found[1] if found[1] else None)
    assert splits.val_annotations == (tmp_path / files[1] if found[1] else None)


@pytest.mark.parametrize(
    ("present", "says"),
    [([], "none of the known layouts"), (["instances_train.json"], "image folder .*train does not")],
)
def test_unknown_layouts(tmp_path: Path, present: list[str], says: str) -> None:
    (tmp_path / "annotations").mkdir()
    for name in present:
        (tmp_path / "annotations" / name).touch()
    with pytest.raises(DataError, match=says):
        find_splits(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_splits(tmp_path / "none")


def whole(segmentation: Polygons | RunLengths, height: int, width: int) -> np.ndarray:
    """The crop put back into the image."""
    crop = decode_mask(segmentation, height, width)
    canvas = np.zeros((height, width), np.uint8)
    canvas[crop.y : crop.y + crop.bitmap.shape[0], crop.x : crop.x + crop.bitmap.shape[1]] = crop.bitmap
    assert crop.bitmap.size == 0 or (crop.bitmap[[0, -1]].any(1).all() and crop.bitmap[:, [0, -1]].any(0).all())
    return canvas


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**31))
def test_both_run_length_forms_equal_the_mask(height: int, width: int, density: float, seed: int) -> None:
    mask = (np.random.default_rng(seed).uniform(size=(height, width)) < density).astype(np.uint8)
    compressed = coco_masks.encode(np.asfortranarray(mask))["counts"]
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    runs = np.diff([0, *edges, flat.size])
    assert np.array_equal(whole(RunLengths(compressed), height, width), mask)
    assert np.array_equal(whole(RunLengths(runs), height, width), mask)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 2**28), min_size=1, max_size=30)
)  # pycocotools reserves six characters a run: larger ones corrupt its memory
def test_long_runs(counts: list[int]) -> None:
    size = [1, sum(counts) + 1]
    text = coco_masks.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
    assert read_counts(text).tolist() == counts


coordinates = st.floats(-20, 60, allow_nan=False) | st.sampled_from([0.1, 0.3, 10.1, 29.9, 30.0, -0.5])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=8), min_size=1, max_size=3))
def test_polygons_equal_the_whole_images(rings: list[list[tuple[float, float]]]) -> None:
    """Rings inside, across and outside the image, as pycocotools draws them."""
    flat = [[value for point in ring for value in point] for ring in rings]
    expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(flat, 20, 30)))
    assert np.array_equal(whole(Polygons(tuple(np.array(ring) for ring in flat)), 20, 30), expected)
