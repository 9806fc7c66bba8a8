"""Columns: the strict reader against the tolerant one, the cache, and the sequence of records."""

import copy
import json
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from htc.benchmark.annotation_reading import write_annotations
from htc.data import columns_cache, strict_coco
from htc.data.annotation_file import KIND, annotation_file, read_annotation_file
from htc.data.coco import dataset_of, ground_truth_of, read_coco
from htc.data.columns import INSTANCE_FIELDS, RECORD_FIELDS, ColumnImages, table_of
from htc.data.columns_cache import MappedColumns, map_columns, read_columns
from htc.data.dataset import Dataset, ImageRecord, Instance, Polygons, RunLengths
from htc.data.mask_encodings import decode_mask
from htc.errors import DataError, OutputError
from htc.evaluation.comparison import Comparison, compare
from htc.files import read_json

SHARED = next(
    (folder / "shared" for folder in Path(__file__).resolve().parents if (folder / "shared/data").is_dir()),
    Path("shared"),
)
BUNDLED = Path(__file__).parents[2] / "src/htc/demo/nuclei/annotations"
IMAGES = 25
"""Images of a file that are compared."""
FILES = sorted([*BUNDLED.glob("*.json"), *SHARED.glob("data/*/annotations/*.json")])


def tolerant(path: Path, *, holes: bool = True) -> Dataset | str:
    """What the tolerant reader gives: the dataset, or the message."""
    try:
        return dataset_of(annotation_file(read_json(path, KIND), path, holes=holes))
    except DataError as error:
        return str(error)


def plain_comparison(content: Any) -> Comparison:
    """A comparison with no results whose masks are text."""
    compared = compare(content, [])
    masks = [
        {**mask, "counts": mask["counts"].decode() if isinstance(mask["counts"], bytes) else mask["counts"]}
        for mask in compared.object_masks or []
    ]
    return replace(compared, object_masks=masks)


def assert_agreement(path: Path) -> bool:
    """Whether the strict reader accepts the file; then both readers must give the same."""
    columns = strict_coco.read_strictly(path.read_bytes())
    if columns is None:
        return False
    slow = tolerant(path)
    fast = read_annotation_file(path, None)
    assert fast.columns is not None
    assert isinstance(slow, Dataset), f"the strict reader accepts what the tolerant one refuses: {slow}"
    dataset = dataset_of(fast)
    assert dataset == slow
    assert dataset_of(replace(fast, holes=False)) == tolerant(path, holes=False)
    assert dataset.dropped == slow.dropped
    assert_equal_columns(dataset.images, slow.images)
    content = annotation_file(read_json(path, KIND), path)
    assert len(fast.annotations) == len(content.annotations)
    for own, other in zip(fast.annotations, content.annotations, strict=True):
        assert (own.position, own.id, own.image.id, own.box) == (other.position, other.id, other.image.id, other.box)
        assert (own.category, own.crowd) == (other.category, other.crowd)
        assert own.outline == other.outline
        assert own.record == {key: value for key, value in other.record.items() if key in own.record}
    truth, expected = ground_truth_of(fast), ground_truth_of(content)
    assert plain_comparison(truth) == plain_comparison(expected)
    return True


def assert_equal_columns(first: Sequence[ImageRecord], second: Sequence[ImageRecord]) -> None:
    """The usable instances of both in the same buffers."""
    assert isinstance(first, ColumnImages)
    assert isinstance(second, ColumnImages)
    one, other = first.columns, second.columns
    np.testing.assert_array_equal(one.image_ids, other.image_ids)
    np.testing.assert_array_equal(one.sizes, other.sizes)
    np.testing.assert_array_equal(one.order_starts, other.order_starts)
    for name in ("ids", "owners", "labels", "areas"):
        np.testing.assert_array_equal(getattr(one, name)[one.order], getattr(other, name)[other.order])
    np.testing.assert_array_equal(one.clipped[one.order], other.clipped[other.order])
    np.testing.assert_array_equal(one.crowd[one.order], other.crowd[other.order])
    assert one.classes == other.classes


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A generated file that counts as large, and a cache of its own."""
    monkeypatch.setattr(columns_cache, "SMALLEST", 0)
    monkeypatch.setattr(strict_coco, "CHUNK", 20_000)
    monkeypatch.setenv("HTC_ANNOTATION_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "large.json"
    write_annotations(path, 860)
    return path


def entries(path: Path) -> list[Path]:
    return sorted((path.parent / "cache").glob("*.columns"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parents[1].name}/{path.name}")
def test_both_readers_agree_on_real_files(path: Path, tmp_path: Path) -> None:
    content = json.loads(path.read_text())
    content["images"] = content["images"][:IMAGES]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in ids]
    part = tmp_path / "part.json"
    part.write_text(json.dumps(content))
    accepted = assert_agreement(part)
    assert accepted or "panoptic" in path.name, f"{path} should be read strictly"


def test_both_readers_agree_on_a_generated_file(large: Path) -> None:
    assert assert_agreement(large)


PLAIN: dict[str, Any] = {
    "images": [
        {"id": 5, "file_name": "a.png", "height": 20, "width": 30, "license": 1, "date_captured": None},
        {"id": 3, "file_name": "sub/b.png", "height": 40, "width": 50},
        {"id": 9, "file_name": "c.png", "height": 8, "width": 9, "group": "night", "extra": [1, {"x": 2}]},
    ],
    "annotations": [
        {"id": 4, "image_id": 3, "category_id": 7, "bbox": [1, 2.5, 10, 11.25], "area": 99, "iscrowd": 0,
         "segmentation": [[1, 2.5, 11, 2.5, 11, 13.75], [20.1, 20.2, 30.3, 20.4, 30.5, 30.6, 20.7, 30.8]]},
        {"id": 1, "image_id": 5, "category_id": 2, "bbox": [-1, 2, 5, 30], "segmentation": []},
        {"id": 2, "image_id": 5, "category_id": 2, "bbox": [3, 3, 0.5, 4], "area": 2.0},
        {"id": 8, "image_id": 3, "category_id": 2, "bbox": [0, 0, 50, 40], "area": 2000, "iscrowd": 1,
         "segmentation": {"counts": [0, 2000], "size": [40, 50]}},
        {"id": 0, "image_id": 5, "category_id": 7, "bbox": [40, 2, 5, 5], "iscrowd": 0, "ignore": 0,
         "segmentation": {"size": [20, 30], "counts": "PSTb0"}, "attributes": {"occluded": False, "l": [{}, {}]}},
        {"id": 12, "image_id": 3, "category_id": 2, "bbox": [2, 2, 30, 30], "area": 500, "ignore": 0,
         "segmentation": [[2, 2, 32, 2, 32, 32, 2, 32], [10, 10, 10, 20, 20, 20, 20, 10], [33, 33, 40, 33, 40, 39]]},
        {"id": 13, "image_id": 3, "category_id": 2, "bbox": [4, 4, 9, 9], "area": 81, "ignore": 1,
         "segmentation": [[4, 4, 13, 4, 13, 13, 4, 13]]},
    ],
    "categories": [{"id": 7, "name": "b", "supercategory": "x"}, {"id": 2, "name": "a"}],
}  # fmt: skip


def plain() -> dict[str, Any]:
    content = copy.deepcopy(PLAIN)
    content["annotations"][4]["segmentation"]["counts"] = "hb0"  # 600 pixels of background
    return content


def test_the_plain_form_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(plain()))
    assert assert_agreement(path)
    dataset = dataset_of(read_annotation_file(path, None))
    assert [record.group for record in dataset] == [None, None, "night"]
    assert len(dataset.dropped) == 2
    crowds = {instance.id: instance.crowd for instance in dataset.images[1].instances}
    assert crowds == {4: False, 8: True, 12: False, 13: True}
    masks = {instance.id: instance.segmentation for instance in dataset.images[1].instances}
    assert isinstance(masks[12], RunLengths)  # without its hole
    assert isinstance(masks[4], Polygons)
    assert dataset.images[1].instances[0].area == 99


def test_holes_and_ignored_instances_are_equal_in_both_readers(tmp_path: Path) -> None:
    content, path = plain(), tmp_path / "plain.json"
    outer, hole = [2, 2, 32, 2, 32, 32, 2, 32], [10, 10, 10, 24, 24, 24, 24, 10]
    content["annotations"][0]["segmentation"] = [outer, hole, [40, 2, 45, 2, 45, 9]]
    content["annotations"][4]["ignore"] = 1
    path.write_text(json.dumps(content))
    assert assert_agreement(path)
    file = read_annotation_file(path, None)
    assert file.columns is not None
    assert isinstance(dataset_of(file).images[1].instances[0].segmentation, RunLengths)
    assert isinstance(dataset_of(replace(file, holes=False)).images[1].instances[0].segmentation, Polygons)
    assert [one["iscrowd"] for one in ground_truth_of(file)["annotations"] if one["id"] == 0] == [1]
    mask = decode_mask(RunLengths(ground_truth_of(file)["annotations"][0]["segmentation"]["counts"].encode()), 40, 50)
    assert mask.bitmap.sum() == 30 * 30 + 17  # filled, as the COCO tools do


def test_fields_of_lvis_are_kept(tmp_path: Path) -> None:
    content, path = plain(), tmp_path / "lvis.json"
    for image in content["images"]:
        name = image.pop("file_name")
        image |= {"coco_url": f"http://images.example.org/train2017/{name}", "neg_category_ids": [7]}
    for category in content["categories"]:
        category["frequency"] = "r"
    path.write_text(json.dumps(content))
    assert assert_agreement(path)
    file = read_annotation_file(path, None)
    assert [image.name for image in file.images] == ["train2017/a.png", "sub/b.png", "train2017/c.png"]
    truth = ground_truth_of(file)
    assert truth["images"][0]["neg_category_ids"] == [7]
    assert truth["categories"][0]["frequency"] == "r"


CHANGES: tuple[Callable[[dict[str, Any], random.Random], object], ...] = (
    lambda content, dice: _any(content, dice).update({_key(content, dice): _value(dice)}),
    lambda content, dice: _any(content, dice).pop(_key(content, dice), None),
    lambda content, dice: content["annotations"].append(copy.deepcopy(dice.choice(content["annotations"]))),
    lambda content, dice: content["images"].append({**dice.choice(content["images"]), "id": dice.randint(0, 12)}),
    lambda content, dice: content["annotations"].insert(0, _value(dice)),
    lambda content, dice: content.update({dice.choice(list(content)): _value(dice)}),
    lambda content, dice: _any(content, dice).update(
        segmentation=[[dice.uniform(-40, 99) for _ in range(dice.randint(2, 9))] for _ in range(dice.randint(0, 3))]
    ),
    lambda content, dice: _any(content, dice).update(bbox=[dice.uniform(-20, 60) for _ in range(4)]),
    lambda content, dice: _any(content, dice).update(
        segmentation={"size": [dice.choice((8, 20, 40)), dice.choice((9, 30, 50))], "counts": _value(dice)}
    ),
    lambda content, dice: _any(content, dice).update({_key(content, dice): _value(dice), "text": "}, {"}),
)  # fmt: skip


def _any(content: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    records = [one for name in ("images", "annotations", "categories") for one in _list(content.get(name))]
    return dice.choice([one for one in records if isinstance(one, dict)] or [{}])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _key(content: dict[str, Any], dice: random.Random) -> str:
    own = list(_any(content, dice))
    return dice.choice([*own, "iscrowd", "ignore", "score", "segmentation", "isCrowd"])


def _value(dice: random.Random) -> Any:
    values: list[Any] = [None, True, False, 0, 1, 2, 3, 5, 7, -1, 2.0, 1e300, 10**30, float("nan"), float("inf")]
    values += ["", "1", "a", "hb0", "b\u00e4r", "\ud800", [], [[]], {}, [0, 600], [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]]]
    values += [[[1, 2, 3, 4, 5, True]], [["1", 2, 3, 4, 5, 6]], [1, 2, 3, 4, 5, 6], [[0, 0, 9, 0, 9, 999]], "c.png"]
    return copy.deepcopy(dice.choice(values))


def test_both_readers_agree_on_mutations(tmp_path: Path) -> None:
    """Whatever the strict reader accepts, the tolerant one reads equally."""
    dice, path, accepted = random.Random(15), tmp_path / "mutated.json", 0
    for _ in range(600):
        content = plain()
        for change in dice.sample(CHANGES, dice.choice((1, 1, 2))):
            if not all(isinstance(content.get(name), list) and content[name] for name in PLAIN):
                break
            change(content, dice)
        text = json.dumps(content, indent=dice.choice((None, 1)), ensure_ascii=True)
        if dice.random() < 0.1:
            text = text.replace(dice.choice(text), dice.choice(("", " ", "}", "]", '"', "\x00")), 1)
        path.write_text(text)
        accepted += assert_agreement(path)
    assert 100 < accepted < 500


@pytest.mark.parametrize("ending", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_read_tolerantly(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(plain()), encoding=ending)
    assert strict_coco.read_strictly(path.read_bytes()) is None


def test_a_record_that_contains_the_border_of_records_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict_coco, "CHUNK", 1)
    path = tmp_path / "plain.json"
    path.write_text(json.dumps({**plain(), "annotations": plain()["annotations"][:4]}))
    assert assert_agreement(path)
    path.write_text(json.dumps(plain()))  # its last record contains a list of two objects
    assert strict_coco.read_strictly(path.read_bytes()) is None
    assert len(dataset_of(read_annotation_file(path, None)).images) == 3


def test_columns_represent_every_field() -> None:
    """A new field of a record must be added to the columns too."""
    assert {field.name for field in fields(ImageRecord)} == RECORD_FIELDS
    assert {field.name for field in fields(Instance)} == INSTANCE_FIELDS


def test_a_table_of_columns_equals_that_of_the_records(large: Path) -> None:
    images = dataset_of(read_annotation_file(large, None)).images
    for part in (images, images[3::4], images[:0]):
        for own, other in zip(table_of(part), table_of(tuple(part)), strict=True):
            np.testing.assert_array_equal(own, other)


def test_images_are_a_sequence(large: Path) -> None:
    images = dataset_of(read_annotation_file(large, None)).images
    as_tuple = tuple(images)
    assert images == as_tuple
    assert as_tuple == images
    index: Any = np.int64(3)
    assert images[index] == images[3] == as_tuple[3]
    assert images[-1] == as_tuple[-1]
    assert images[5:40:7] == as_tuple[5:40:7]
    assert tuple(images[5:40][-3:]) == as_tuple[37:40]
    assert images[:10] != as_tuple[:9]
    assert images[:10] != images[1:11]
    with pytest.raises(IndexError):
        images[len(images)]


def test_the_cache_gives_the_same_columns(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_columns(large)
    assert isinstance(first, MappedColumns)
    assert len(entries(large)) == 1
    monkeypatch.setattr(columns_cache, "read_strictly", None)  # not called again
    second = read_columns(large)
    assert second is not None
    fresh = strict_coco.read_strictly(large.read_bytes())
    assert fresh is not None
    for name in columns_cache.ARRAYS:
        np.testing.assert_array_equal(getattr(second, name), getattr(fresh, name))
        assert getattr(second, name).dtype == getattr(fresh, name).dtype
    assert ColumnImages(second, None) == ColumnImages(fresh, None)


def test_a_changed_file_is_read_again(large: Path) -> None:
    read_columns(large)
    content = json.loads(large.read_text())
    content["images"][0]["height"] += 1
    large.write_text(json.dumps(content))
    columns = read_columns(large)
    assert columns is not None
    assert columns.sizes[0, 0] == content["images"][0]["height"]
    assert len(entries(large)) == 2


def test_pickled_columns_are_mapped_again(large: Path) -> None:
    """Workers that are started by spawn receive a path, not the arrays."""
    images = dataset_of(read_annotation_file(large, None)).images
    text = pickle.dumps(images)
    assert len(text) < 2000
    assert pickle.loads(text) == images


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "header", "text"])
def test_a_damaged_entry_is_replaced(large: Path, damage: str) -> None:
    expected = ColumnImages(read_columns(large) or pytest.fail("declined"), None)[:5]
    expected = tuple(expected)
    (entry,) = entries(large)
    data = entry.read_bytes()
    middle = len(data) // 2
    damaged = {
        "cut": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "empty": b"",
        "header": data[:16] + b"x" + data[17:],
        "text": b"not an entry" * 100,
    }
    entry.unlink()  # mapped files are never changed in place
    entry.write_bytes(damaged[damage])
    columns = read_columns(large)
    assert columns is not None
    assert tuple(ColumnImages(columns, None)[:5]) == expected
    assert entry.read_bytes() == data


def test_an_entry_that_is_gone_is_reported(large: Path) -> None:
    columns = read_columns(large)
    (entry,) = entries(large)
    entry.unlink()
    assert columns is not None
    assert len(columns.instances(0)) == np.diff(columns.order_starts)[0]  # still mapped
    with pytest.raises(DataError, match="HTC_ANNOTATION_CACHE=off"):
        map_columns(entry)


def test_without_a_writable_cache_the_columns_are_in_memory(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HTC_ANNOTATION_CACHE", str(tmp_path / "file" / "folder"))
    columns = read_columns(large)
    assert columns is not None
    assert not isinstance(columns, MappedColumns)
    assert pickle.loads(pickle.dumps(ColumnImages(columns, None))) == ColumnImages(columns, None)


def test_a_full_disk_leaves_the_columns_in_memory(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path) -> None:
        raise OutputError("the disk is full")

    monkeypatch.setattr(columns_cache, "whole_file", full)
    columns = read_columns(large)
    assert columns is not None
    assert not isinstance(columns, MappedColumns)
    assert not entries(large)


@pytest.mark.parametrize("value", ["off", "OFF", "0"])
def test_the_cache_can_be_switched_off(large: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTC_ANNOTATION_CACHE", value)
    assert columns_cache.annotation_cache() is None
    assert read_columns(large) is not None
    assert not entries(large)


def test_the_cache_is_below_the_folder_of_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HTC_ANNOTATION_CACHE", raising=False)
    monkeypatch.setenv("HTC_CACHE", str(tmp_path))
    assert columns_cache.annotation_cache() == tmp_path / "annotations"


def test_small_files_are_not_cached(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_cache, "SMALLEST", large.stat().st_size + 1)
    assert read_columns(large) is not None
    assert not (large.parent / "cache").exists()


def test_old_entries_are_removed_and_new_ones_kept(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_columns(large)
    (first,) = entries(large)
    size = first.stat().st_size
    leftover = first.with_name(".x.columns.1.tmp")
    leftover.write_text("")
    for path, age in ((first, 100), (leftover, 2 * columns_cache.ABANDONED)):
        os.utime(path, (time.time() - age, time.time() - age))
    monkeypatch.setattr(columns_cache, "LIMIT", int(2.5 * size))
    for number in (1, 2):
        other = large.with_name(f"other{number}.json")
        write_annotations(other, 860, seed=number)
        read_columns(other)
        assert first.exists() == (number == 1)
    assert len(entries(large)) == 2
    assert not leftover.exists()


def test_processes_that_start_together_read_once(large: Path) -> None:
    """The first one reads, the others wait and map."""
    code = (
        "import sys; from pathlib import Path\n"
        "from htc.data import columns_cache as cache\n"
        "cache.SMALLEST, read = 0, cache.read_strictly\n"
        "cache.read_strictly = lambda content: (print('read'), read(content))[1]\n"
        "assert type(cache.read_columns(Path(sys.argv[1]))) is cache.MappedColumns"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(large)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert outputs.count("read\n") == 1


def test_records_in_columns_equal_the_records(large: Path) -> None:
    """Datasets of the tolerant reader are packed into the same columns."""
    slow = tolerant(large)
    assert isinstance(slow, Dataset)
    assert isinstance(slow.images, ColumnImages)
    columns = slow.images.columns
    unpacked = replace(slow, images=tuple(slow.images))
    assert unpacked == slow
    assert columns.coordinates.dtype == np.float64
    assert not isinstance(columns, MappedColumns)


def test_missing_images_are_reported(large: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with pytest.raises(DataError, match=r"118 of 118 images not found in .*000000000001.jpg, "):
        read_coco(large, folder)
