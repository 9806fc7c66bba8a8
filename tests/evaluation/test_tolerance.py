"""Annotations and results as tools write them: what is evaluated, and what is refused."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from htc.data.mask_encodings import read_counts, valid_counts
from htc.errors import DataError
from htc.evaluation.coco import coco_metrics
from htc.evaluation.comparison import check_masks, checked_results, compare
from htc.evaluation.evaluate import evaluate
from htc.evaluation.files import read_annotations

SIZE = 64


def rle(box: tuple[int, int, int, int]) -> dict[str, Any]:
    mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
    mask[box[1] : box[3], box[0] : box[2]] = 1
    runs: Any = coco_masks.encode(mask)
    return {"size": [SIZE, SIZE], "counts": runs["counts"].decode()}


def annotation(number: int, box: tuple[int, int, int, int], /, **fields: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    record = {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "segmentation": rle(box),
        **fields,
    }
    return {key: value for key, value in record.items() if value is not ...}


def result(box: tuple[int, int, int, int], score: float = 0.9, **fields: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    found = {"image_id": 1, "category_id": 1, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    record = {**found, "segmentation": rle(box), **fields}
    return {key: value for key, value in record.items() if value is not ...}


def truth(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE, "width": SIZE}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": list(annotations),
    }


FIRST, SECOND = (4, 4, 24, 24), (34, 34, 60, 60)


def average_precision(content: dict[str, Any], *results: dict[str, Any]) -> tuple[float, float | None]:
    metrics = coco_metrics(content, list(results))
    return metrics["bbox"]["AP"], metrics["segm"]["AP"] if "segm" in metrics else None


@pytest.mark.parametrize("marked", [{"iscrowd": 1}, {"ignore": 1}, {"ignore": True}, {"ignore": "1"}, {"iscrowd": "1"}])
def test_what_is_ignored_is_not_missed(marked: dict[str, Any]) -> None:
    content = truth(annotation(1, FIRST), annotation(2, SECOND, **marked))
    assert average_precision(content, result(FIRST)) == (1, 1)
    assert average_precision(content, result(FIRST), result((36, 36, 56, 56), 0.95)) == (1, 1)
    unmarked = truth(annotation(1, FIRST), annotation(2, SECOND, ignore=0))
    assert max(value or 0 for value in average_precision(unmarked, result(FIRST))) < 0.6


@pytest.mark.parametrize(
    "fields",
    [
        {"iscrowd": None},
        {"iscrowd": ...},
        {"id": None},
        {"id": ...},
        {"area": None},
        {"area": ...},
        {"area": "large"},
        {"bbox": None},
        {"bbox": ...},
        {"bbox": []},
        {"image_id": "1"},
        {"image_id": 1.0},
        {"category_id": "1"},
        {"category_id": 1.0},
        {"attributes": {"occluded": False}},
        {"segmentation": {**rle(FIRST), "counts": str(rle(FIRST)["counts"].encode())}},
        {"segmentation": {**rle(FIRST), "counts": list(rle(FIRST)["counts"].encode())}},
        {"segmentation": {**rle(FIRST), "counts": [float(n) for n in read_counts(rle(FIRST)["counts"].encode())]}},
        {"segmentation": {**rle(FIRST), "size": ["64", "64"]}},
        {"segmentation": {**rle(FIRST), "size": [64.0, 64.0]}},
        {"segmentation": [[4, 4, 24, 4, 24, 24, 4, 24], []]},
    ],
)
def test_what_is_understood_is_evaluated(fields: dict[str, Any]) -> None:
    content = truth(annotation(1, FIRST, **fields), annotation(2, SECOND))
    assert average_precision(content, result(FIRST), result(SECOND)) == (1, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"bbox": [1, 2, 3]},
        {"bbox": ["4", "4", "20", "20"]},
        {"bbox": [4, 4, -20, 20]},
        {"iscrowd": 2},
        {"ignore": "x"},
        {"image_id": True},
        {"category_id": "one"},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [[1, 2]]},
        {"segmentation": [[1, 2, 3, 4, 5]]},
        {"segmentation": {"size": [32, 64], "counts": rle(FIRST)["counts"]}},
        {"segmentation": {"size": [SIZE, SIZE], "counts": "\x01"}},
        {"segmentation": {"size": [SIZE, SIZE], "counts": [1, 2]}},
        {"segmentation": "a.png"},
        {"bbox": None, "segmentation": None},
    ],
)
def test_damaged_annotations_are_refused_with_their_id_and_image(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"annotation 17 \(image (1, a\.png|True)\)|annotation 17 "):
        coco_metrics(truth(annotation(17, FIRST, **fields)), [])


def test_instances_without_a_mask_are_ignored_for_masks_alone() -> None:
    for missing in (None, ..., [], {}, [[]]):
        content = truth(annotation(1, FIRST), annotation(2, SECOND, segmentation=missing))
        assert average_precision(content, result(FIRST), result(SECOND, 0.95)) == (1, 1)
        boxes, masks = average_precision(content, result(FIRST))
        assert boxes < 0.6
        assert masks == 1
        assert compare(content, [result(FIRST)]).boxes_only == {2}
    without = truth(*(annotation(number, FIRST, segmentation=None) for number in (1, 2)))
    assert average_precision(without, result(FIRST))[1] is None


def test_diagnostics_with_an_instance_without_a_mask(tmp_path: Path) -> None:
    content = truth(annotation(1, FIRST), annotation(2, SECOND, segmentation=None))
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps([result(FIRST), result(SECOND)]))
    metrics = evaluate(
        annotations=tmp_path / "truth.json", results=tmp_path / "results.json", diagnostics=True, progress=False
    )
    assert metrics.mask is not None
    assert metrics.mask.ap == 1


def test_ids_of_results_may_be_text_or_float() -> None:
    content = truth(annotation(1, FIRST))
    for image, category in (("1", 1), (1.0, "1"), (1, 1.0)):
        given = result(FIRST, image_id=image, category_id=category)
        assert average_precision(content, given) == (1, 1)
        (checked,) = checked_results(read_annotations(content), [given])
        assert (checked["image_id"], checked["category_id"]) == (1, 1)
        assert type(checked["category_id"]) is int
    texts = truth(annotation(1, FIRST, image_id="a"))
    texts["images"][0]["id"] = "a"
    assert average_precision(texts, result(FIRST, image_id="a")) == (1, 1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"bbox": [16, 16, 32]}, r"result 1 \(image 1\): bbox"),
        ({"bbox": ["16", "16", "32", "32"]}, r"result 1 \(image 1\): bbox"),
        ({"bbox": [16, 16, 32, float("nan")]}, r"result 1 \(image 1\): bbox"),
        ({"bbox": ..., "segmentation": ...}, "result 1: bbox and segmentation missing"),
        ({"bbox": None, "segmentation": None}, "result 1: bbox and segmentation missing"),
        ({"score": "0.9"}, "result 1: score '0.9' is not a finite number"),
        ({"score": None}, "result 1: score None is not a finite number"),
        ({"image_id": [1]}, r"result 1: image_id \[1\]"),
        ({"image_id": 9}, "result 1: image_id 9"),
        ({"category_id": {}}, "result 1: category_id {}"),
        ({"segmentation": {"size": [32, 64], "counts": "0"}}, r"result 1 \(image 1\): its run-length size"),
        ({"segmentation": {"size": [0, 0], "counts": "0"}}, r"result 1 \(image 1\): its run-length size"),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": "0"}}, r"result 1 \(image 1\): its runs cover 0 pixels"),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": "\x01"}}, r"result 1 \(image 1\): its run-length text"),
        ({"segmentation": {"size": [SIZE, SIZE], "counts": None}}, r"result 1 \(image 1\): its run-length counts"),
        ({"segmentation": [[1, 2, 3]]}, r"result 1 \(image 1\): polygon 1"),
        ({"segmentation": "x"}, r"result 1 \(image 1\): its segmentation is 'x'"),
    ],
)
def test_damaged_results_are_refused_with_their_index(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(truth(annotation(1, FIRST))))
    results = [result(FIRST), result(SECOND, **fields)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match=says):
        evaluate(annotations=tmp_path / "truth.json", results=tmp_path / "results.json", progress=False)


def test_all_texts_are_checked_as_each_of_them() -> None:
    dice, texts, pixels = random.Random(4), [], []
    for _ in range(1200):
        height, width = dice.randint(1, 40), dice.randint(1, 40)
        mask = np.random.default_rng(dice.random().__hash__() & 0xFFFF).random((height, width)) < dice.random()
        encoded: Any = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = bytearray(encoded["counts"])
        for _ in range(dice.choice((0, 0, 1, 2))):
            text[dice.randrange(len(text))] = dice.randint(40, 120)
        texts.append(bytes(text[: dice.choice((len(text), len(text), len(text) // 2))]))
        pixels.append(height * width)

    def alone(text: bytes, count: int) -> bool:
        try:
            runs = read_counts(text)
        except ValueError:
            return False
        return bool((runs >= 0).all()) and int(runs.sum()) == count

    expected = [alone(text, count) for text, count in zip(texts, pixels, strict=True)]
    assert 0.2 < np.mean(expected) < 0.8
    assert valid_counts(texts, np.array(pixels)).tolist() == expected
    assert valid_counts([], np.zeros(0, np.int64)).tolist() == []


def test_sound_masks_pass() -> None:
    content = read_annotations(truth(annotation(1, FIRST)))
    polygon = result(FIRST, segmentation=[[4, 4, 24, 4, 24, 24, 4, 24]])
    listed = result(FIRST, segmentation={"size": [SIZE, SIZE], "counts": [SIZE * SIZE]})
    check_masks(content, [result(FIRST), result(SECOND), polygon, listed, result(FIRST, segmentation=...)])
