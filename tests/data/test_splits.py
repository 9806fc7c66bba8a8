"""A folder, a dataset, or datasets by split: wherever data is taken, all of them give COCO files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import htc
import htc.demo
from htc.data.coco import read_coco
from htc.data.formats.layouts import locate_split, locate_splits
from htc.data.semantic_maps import SemanticMaps
from htc.errors import DataError

NUCLEI = Path(htc.demo.__file__).parent / "nuclei"


def made(labels: tuple[str, ...], count: int = 1, classes: list[str] | None = None) -> htc.Dataset:
    """`count` images in memory, with one box for each of the labels."""
    return htc.Dataset.from_records(
        [
            {
                "image": np.full((40, 50, 3), n, np.uint8),
                "labels": list(labels),
                "boxes": [[5, 5, 20, 20]] * len(labels),
            }
            for n in range(count)
        ],
        classes,
    )


def names(dataset: htc.Dataset) -> list[list[str]]:
    return [[dataset.classes[one.label] for one in record.instances] for record in dataset]


def test_a_dataset_is_training_data(tmp_path: Path) -> None:
    told: list[str] = []
    dataset = made(("cat", "dog"))
    splits = locate_splits(data=dataset, converted=tmp_path, say=told.append)
    assert (splits.val_annotations, splits.val_images) == (None, None)
    assert splits.train_annotations == tmp_path / "annotations/instances_train.json"
    assert splits.train_images == tmp_path / "train"
    assert read_coco(splits.train_annotations, splits.train_images).to_coco()["images"] == dataset.to_coco()["images"]
    assert told[0].startswith("train: Dataset(1 image, 2 instances, 2 classes: cat, dog), written as COCO")


def test_writing_again_writes_the_same(tmp_path: Path) -> None:
    def content() -> dict[Path, bytes]:
        locate_splits(data=made(("cat",), 3), converted=tmp_path)
        return {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    first = content()
    assert len(first) == 4
    assert content() == first


def test_a_share_of_a_dataset_for_validation(tmp_path: Path) -> None:
    splits = locate_splits(data=made(("cat",), 20), val_share=0.3, converted=tmp_path)
    assert splits.val_annotations is not None
    train, val = (
        read_coco(annotations, splits.train_images)
        for annotations in (splits.train_annotations, splits.val_annotations)
    )
    assert len(train) + len(val) == 20
    assert 1 <= len(val) < 15
    assert splits.val_images == splits.train_images


def test_datasets_by_split_have_the_classes_of_the_first(tmp_path: Path) -> None:
    splits = locate_splits(
        data={"train": made(("cat", "dog", "fox")), "valid": made(("fox", "cat"))}, converted=tmp_path
    )
    assert splits.val_annotations is not None
    val = read_coco(splits.val_annotations, splits.val_images)
    assert val.classes == ("cat", "dog", "fox")
    assert names(val) == [["fox", "cat"]]
    with pytest.raises(DataError, match=r"data has a validation split .* remove it"):
        locate_splits(data={"train": made(("cat",)), "val": made(("cat",))}, val_share=0.2, converted=tmp_path)


def test_classes_that_the_training_does_not_have_stay(tmp_path: Path) -> None:
    val = locate_split({"train": made(("cat",)), "val": made(("ant", "cat"))}, "val", tmp_path)
    assert read_coco(*val).classes == ("ant", "cat")


def test_one_split_for_an_evaluation(tmp_path: Path) -> None:
    both = {"train": made(("cat", "dog")), "test": made(("dog",))}
    assert names(read_coco(*locate_split(both, "test", tmp_path))) == [["dog"]]
    assert names(read_coco(*locate_split(made(("cat",)), "validation", tmp_path))) == [["cat"]]
    with pytest.raises(DataError, match="data has no split 'val'; it has train, test"):
        locate_split(both, "val", tmp_path)


@pytest.mark.parametrize("data", [NUCLEI, str(NUCLEI)])
def test_one_split_of_a_folder_of_coco_writes_nothing(data: Any, tmp_path: Path) -> None:
    expected = (NUCLEI / "annotations/instances_val.json", NUCLEI / "val")
    assert locate_split(data, "val", tmp_path) == expected
    assert not any(tmp_path.iterdir())
    with pytest.raises(DataError, match="has no split 'test'; it has train, val"):
        locate_split(data, "test", tmp_path)


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_test.json", "test"),
        ("annotations/instances_test2017.json", "test2017"),
        ("test/_annotations.coco.json", "test"),
    ],
)
def test_test_splits_of_coco_without_any_other(annotations: str, images: str, tmp_path: Path) -> None:
    (tmp_path / images).mkdir()
    (tmp_path / annotations).parent.mkdir(exist_ok=True)
    (tmp_path / annotations).write_text("{}")
    assert locate_split(tmp_path, "test") == (tmp_path / annotations, tmp_path / images)


def test_one_split_of_another_layout(tmp_path: Path) -> None:
    folder = tmp_path / "yolo"
    for part in ("train", "val"):
        (folder / "labels" / part).mkdir(parents=True)
        made(("cat",)).save(tmp_path / "saved", split=part)
        (folder / "images").mkdir(exist_ok=True)
        (tmp_path / "saved" / part).rename(folder / "images" / part)
        (folder / f"labels/{part}/000001.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (folder / "data.yaml").write_text("names: [cat]\ntrain: images/train\nval: images/val\n")
    told: list[str] = []
    annotations, images = locate_split(folder, "val", tmp_path / "out", told.append)
    assert [record.path.name for record in read_coco(annotations, images)] == ["000001.png"]
    assert "val: 1 images with 1 instances" in told[0]
    assert [path.name for path in (tmp_path / "out/annotations").iterdir()] == ["instances_val.json"]


def test_a_place_of_its_own_for_each_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [
        locate_split(made(labels, count), "val")[0] for labels, count in ((("cat",), 1), (("dog",), 1), (("cat",), 2))
    ]
    assert len(set(files)) == 3
    assert locate_split(made(("cat",), 1), "val")[0] == files[0]
    assert files[0].parts[:2] == ("runs", "data")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "empty dictionary"),
        (lambda: {"trian": made(("cat",))}, "no split 'trian'; did you mean 'train'"),
        (lambda: {"val": made(("cat",))}, "data has no split 'train'; it has val"),
        (lambda: {"val": made(("cat",)), "valid": made(("cat",))}, "two datasets for the split 'val'"),
    ],
)
def test_what_is_no_data(data: Any, message: str, tmp_path: Path) -> None:
    given = data() if isinstance(data, Callable) else data  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        locate_splits(data=given, converted=tmp_path)


def test_other_types_are_refused_with_what_is_taken() -> None:
    # In a process of its own: the types of all arguments are checked in this one.
    code = """
from htc.data.formats.layouts import locate_splits
from htc.errors import DataError
for data in (5, {"train": "folder"}):
    try:
        locate_splits(data=data)
    except DataError as error:
        print(error)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [
        'data is of type int; give a folder, an htc.Dataset, or {"train": Dataset, "val": Dataset}',
        "data['train'] is of type str; pass an htc.Dataset",
    ]


def test_semantic_maps_are_not_lost_silently(tmp_path: Path) -> None:
    mapped = htc.Dataset(Path("a"), ("cat",), (1,), made(("cat",)).images, semantic_maps=SemanticMaps(tmp_path))
    with pytest.raises(DataError, match="has semantic maps, which a COCO file cannot store; pass them as semantic="):
        locate_splits(data=mapped, converted=tmp_path)


@pytest.mark.parametrize("change", [str, float, lambda id: id], ids=["text", "float", "integer"])
def test_ids_of_another_type_stay_with_their_images(change: Callable[[int], Any], tmp_path: Path) -> None:
    """In both halves of a split, for ids of the annotations or of the images."""
    annotations, images = made(("cat", "dog"), 12).save(tmp_path / "data")
    content = json.loads(annotations.read_text())
    for one in content["annotations"]:
        one["image_id"] = change(one["image_id"])
    annotations.write_text(json.dumps(content))
    (tmp_path / "data" / "out").mkdir()
    splits = locate_splits(data=tmp_path / "data", val_share=0.4, converted=tmp_path / "data" / "out")
    assert splits.val_annotations is not None
    parts = [read_coco(file, images) for file in (splits.train_annotations, splits.val_annotations)]
    assert all(len(record.instances) == 2 for part in parts for record in part)
    assert sum(map(len, parts)) == 12
    assert min(map(len, parts)) > 0
