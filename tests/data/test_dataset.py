"""Datasets built in Python: what each constructor reads, and that a dataset written as COCO is read back unchanged."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks

import htc
import htc.demo
from htc.data.dataset import Polygons, RunLengths
from htc.data.ground_truth import annotated_image, check_images
from htc.data.mask_encodings import decode_mask
from htc.data.written import xywh_of
from htc.errors import DataError

NUCLEI = Path(htc.demo.__file__).parent / "nuclei"
SIZE = (40, 50)


def noise(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def mask(y1: int, y2: int, x1: int, x2: int) -> np.ndarray:
    found = np.zeros(SIZE, bool)
    found[y1:y2, x1:x2] = True
    return found


MASKS = np.stack([mask(5, 15, 6, 20), mask(10, 30, 30, 44)])
OUTLINE = [[6, 5, 20, 5, 20, 15, 6, 15]]


def dense(dataset: htc.Dataset, image: int = 0) -> np.ndarray:
    """(N, H, W)"""
    found = np.zeros((len(dataset.images[image].instances), *SIZE), bool)
    for canvas, instance in zip(found, dataset.images[image].instances, strict=True):
        assert instance.segmentation is not None
        crop = decode_mask(instance.segmentation, *SIZE)
        canvas[crop.y : crop.y + crop.bitmap.shape[0], crop.x : crop.x + crop.bitmap.shape[1]] = crop.bitmap > 0
    return found


def test_importing_it_needs_no_torch() -> None:
    probe = "import sys, htc; htc.Dataset; print([name for name in ('torch', 'cv2') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "masks",
    [
        MASKS,
        list(MASKS),
        MASKS.astype(np.uint8) * 255,
        [OUTLINE, MASKS[1]],
        [[np.array(OUTLINE[0]).reshape(-1, 2)], MASKS[1]],
        [coco_masks.encode(np.asfortranarray(one.astype(np.uint8))) for one in MASKS],
        [coco_masks.encode(np.asfortranarray(MASKS[0].astype(np.uint8))), MASKS[1]],
    ],
    ids=["array", "bitmaps", "bytes", "polygon", "points", "run lengths", "mixed"],
)
def test_masks_of_every_kind_are_the_same_pixels(masks: Any) -> None:
    dataset = htc.Dataset.from_records([{"image": noise(0), "labels": ["dog", "cat"], "masks": masks}])
    assert np.array_equal(dense(dataset), MASKS)
    assert [one.box for one in dataset.images[0].instances] == [(6, 5, 20, 15), (30, 10, 44, 30)]
    assert [dataset.classes[one.label] for one in dataset.images[0].instances] == ["dog", "cat"]


def test_records_with_everything(tmp_path: Path) -> None:
    Image.fromarray(noise(0)).save(tmp_path / "a.png")
    boxes = [[1.25, 2, 30.5, 33.125], [3, 4, 20, 30], [0, 0, 9, 9]]
    records = [
        {"image": tmp_path / "a.png", "labels": np.array([2, 0, 0]), "boxes": np.array(boxes, np.float32)}
        | {"masks": [None, OUTLINE, MASKS[0]], "crowd": [0, 0, 1], "id": "first", "group": 7},
        {"image": Image.fromarray(noise(1)), "labels": []},
    ]
    dataset = htc.Dataset.from_records(records, classes=["cat", "dog", "horse"])
    assert repr(dataset) == "Dataset(2 images, 3 instances, 3 classes: cat, dog, horse)"
    assert len(dataset) == 2
    first, second = dataset
    assert (first.id, first.path, first.group, first.pixels) == ("first", tmp_path / "a.png", 7, None)
    assert [one.box for one in first.instances] == [tuple(box) for box in boxes]
    assert [(one.label, one.crowd) for one in first.instances] == [(2, False), (0, False), (0, True)]
    assert [type(one.segmentation) for one in first.instances] == [type(None), Polygons, RunLengths]
    assert (second.id, second.instances) == (2, ())
    assert np.array_equal(annotated_image(second), noise(1))
    check_images(dataset)


def test_long_lists_of_classes_stay_on_one_line() -> None:
    dataset = htc.Dataset.from_records([{"image": noise(0), "labels": []}], classes=[f"c{n}" for n in range(80)])
    assert repr(dataset) == "Dataset(1 image, 0 instances, 80 classes: c0, c1, c2, c3, c4, ...)"


def test_equality_is_that_of_the_content() -> None:
    def made(seed: int = 0, masks: Any = MASKS) -> htc.Dataset:
        return htc.Dataset.from_records([{"image": noise(seed), "labels": ["dog", "cat"], "masks": masks}])

    assert made() == made()
    assert made() != made(seed=1)
    assert made() != made(masks=[OUTLINE, MASKS[1]])
    assert made() != made(masks=MASKS[::-1])
    assert made(masks=[OUTLINE, MASKS[1]]) == made(masks=[OUTLINE, MASKS[1]])
    assert made() != replace(made(), classes=("cat", "fox"))


def test_saved_and_read_again(tmp_path: Path) -> None:
    Image.fromarray(noise(0)).save(tmp_path / "a.png")
    records = [
        {"image": tmp_path / "a.png", "labels": ["dog", "cat"], "boxes": [[1.1, 2.3, 30.7, 33.3], [3, 4, 20, 30]]}
        | {"masks": [None, OUTLINE], "crowd": [True, False], "id": 5, "group": "film"},
        {"image": noise(1), "labels": ["dog", "cat"], "masks": MASKS},
    ]
    dataset = htc.Dataset.from_records(records)
    annotations, images = dataset.save(tmp_path / "out", split="validation")
    assert annotations == tmp_path / "out/annotations/instances_val.json"
    assert images == tmp_path
    again = htc.Dataset.from_coco(annotations, images)
    assert np.array_equal(annotated_image(again.images[1]), noise(1))
    assert again.images[1].path == tmp_path / "out/val/000002.png"
    assert again.images[0] == replace(dataset.images[0], instances=again.images[0].instances)
    for record, other in zip(dataset, again, strict=True):
        assert [replace(one, area=None) for one in other.instances] == list(record.instances)
    assert [one.area for one in again.images[1].instances] == [140, 280]
    assert htc.Dataset.from_coco(*again.save(tmp_path / "again")) == again
    assert json.loads(annotations.read_text())["images"][0] == {
        **{"id": 5, "file_name": "a.png", "height": 40, "width": 50, "group": "film"}
    }


def test_images_in_memory_alone_make_a_folder_to_train_on(tmp_path: Path) -> None:
    dataset = htc.Dataset.from_records([{"image": noise(1), "labels": ["dog", "cat"], "masks": MASKS}])
    dataset.save(tmp_path)
    assert htc.Dataset.from_folder(tmp_path).to_coco() == dataset.to_coco()


def test_bundled_nuclei_are_unchanged_by_writing(tmp_path: Path) -> None:
    val = htc.Dataset.from_folder(NUCLEI, split="val")
    assert repr(val) == "Dataset(30 images, 1499 instances, 1 class: nucleus)"
    annotations, images = val.save(tmp_path)
    assert images == NUCLEI / "val"
    assert htc.Dataset.from_coco(annotations, images) == val
    theirs = json.loads((NUCLEI / "annotations/instances_val.json").read_text())["annotations"]
    ours = json.loads(annotations.read_text())["annotations"]
    assert [one["area"] for one in ours] == [one["area"] for one in theirs]


@given(st.tuples(*[st.floats(0, 5000)] * 2), st.tuples(*[st.floats(0, 5000)] * 2))
def test_boxes_are_written_to_the_last_bit(a: tuple[float, float], b: tuple[float, float]) -> None:
    box = (min(a), min(b), max(a), max(b))
    x, y, width, height = xywh_of(box)
    assert (x, y, x + width, y + height) == box
    assert width >= 0
    assert height >= 0


def test_file_names_never_leave_the_folder(tmp_path: Path) -> None:
    for name in ("one", "two/three"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(noise(0)).save(tmp_path / name / "a.png")
    images = [tmp_path / "one/a.png", tmp_path / "one/../two/three/a.png"]
    dataset = htc.Dataset.from_records([{"image": str(path), "labels": []} for path in images], classes=["cat"])
    assert [one["file_name"] for one in dataset.to_coco()["images"]] == ["one/a.png", "two/three/a.png"]


def yolo(folder: Path) -> None:
    for part in ("train", "test"):
        (folder / "images" / part).mkdir(parents=True)
        (folder / "labels" / part).mkdir(parents=True)
        Image.fromarray(noise(0)).save(folder / f"images/{part}/{part}.png")
        (folder / f"labels/{part}/{part}.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (folder / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\ntest: images/test\n")


def test_a_split_of_a_folder_that_is_not_coco(tmp_path: Path) -> None:
    yolo(tmp_path)
    found = htc.Dataset.from_folder(tmp_path, split="test")
    assert repr(found) == "Dataset(1 image, 1 instance, 2 classes: cat, dog)"
    assert found.images[0].path == tmp_path / "images/test/test.png"
    assert {one.name for one in tmp_path.iterdir()} == {"images", "labels", "data.yaml"}
    with pytest.raises(DataError, match="has no split 'val'; it has train, test"):
        htc.Dataset.from_folder(tmp_path, split="valid")


@pytest.mark.parametrize(
    ("split", "message"),
    [("test", "nuclei has no split 'test'; it has train, val"), ("tset", "no split 'tset'; did you mean 'test'")],
)
def test_splits_that_are_not_there(split: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        htc.Dataset.from_folder(NUCLEI, split=split)


def test_unknown_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the known layouts"):
        htc.Dataset.from_folder(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        htc.Dataset.from_folder(tmp_path / "absent")


def theirs(folder: Path, detections: supervision.Detections) -> supervision.DetectionDataset:
    path = str(folder / "a.png")
    cv2.imwrite(path, noise(0)[:, :, ::-1])
    return supervision.DetectionDataset(["cat", "dog"], [path], {path: detections})


@pytest.mark.parametrize("compact", [False, True])
def test_supervision_with_masks(tmp_path: Path, compact: bool) -> None:
    xyxy = np.array([[6, 5, 20, 15], [30.5, 10, 44, 30], [1, 1, 9, 9]])
    masks: Any = np.stack([*MASKS, np.zeros(SIZE, bool)])
    if compact:
        masks = supervision.detection.compact_mask.CompactMask.from_dense(masks, xyxy, SIZE)
    found = supervision.Detections(
        xyxy, mask=masks, class_id=np.array([1, 0, 1]), data={"iscrowd": np.array([0, 1, 0])}
    )
    dataset = htc.Dataset.from_supervision(theirs(tmp_path, found))
    assert repr(dataset) == "Dataset(1 image, 3 instances, 2 classes: cat, dog)"
    instances = dataset.images[0].instances
    assert [one.box for one in instances] == [tuple(box) for box in xyxy.tolist()]
    assert [(one.label, one.crowd) for one in instances] == [(1, False), (0, True), (1, False)]
    assert instances[2].segmentation is None
    first = replace(dataset, images=(replace(dataset.images[0], instances=instances[:2]),))
    assert np.array_equal(dense(first)[0], MASKS[0])
    assert np.array_equal(annotated_image(dataset.images[0]), noise(0))


def test_supervision_without_masks_or_detections(tmp_path: Path) -> None:
    boxes = supervision.Detections(np.array([[6.0, 5, 20, 15]]), class_id=np.array([1]))
    dataset = htc.Dataset.from_supervision(theirs(tmp_path, boxes))
    assert [one.segmentation for one in dataset.images[0].instances] == [None]
    empty = htc.Dataset.from_supervision(theirs(tmp_path, supervision.Detections.empty()))
    assert repr(empty) == "Dataset(1 image, 0 instances, 2 classes: cat, dog)"


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_supervision_images_in_memory_are_bgr() -> None:
    found = supervision.DetectionDataset(
        ["cat"], {"here.png": noise(0)[:, :, ::-1]}, {"here.png": supervision.Detections.empty()}
    )
    assert np.array_equal(annotated_image(htc.Dataset.from_supervision(found).images[0]), noise(0))


def test_supervision_as_its_own_reader_of_coco_gives_it() -> None:
    found = supervision.DetectionDataset.from_coco(
        str(NUCLEI / "val"), str(NUCLEI / "annotations/instances_val.json"), force_masks=True
    )
    dataset, ours = htc.Dataset.from_supervision(found), htc.Dataset.from_folder(NUCLEI, "val")
    assert dataset.classes == ours.classes
    boxes = {record.path: [one.box for one in record.instances] for record in dataset}
    assert boxes == {record.path: [one.box for one in record.instances] for record in ours}


def test_supervision_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.png: its detections have no class_id"):
        htc.Dataset.from_supervision(theirs(tmp_path, supervision.Detections(np.array([[6.0, 5, 20, 15]]))))
    found = theirs(tmp_path, supervision.Detections.empty())
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"from_supervision: records\[0\] .*a.png: no such file"):
        htc.Dataset.from_supervision(found)
