"""LVIS: classes that are not annotated in every image, against a plain implementation of its rules."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from htc.cli.app import run
from htc.data.coco import read_coco
from htc.data.dataset import Dataset
from htc.evaluation.coco import coco_metrics
from htc.evaluation.comparison import compare
from htc.evaluation.matching import confusion_matrix, matched_images
from htc.metrics import Metrics

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
CLASSES = 6
SIZE = 100


def scene(seed: int, images: int = 12) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results of boxes, where each image has instances of few classes and verifies a few others."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    records = []
    for image in range(1, images + 1):
        present = set(rng.choice(CLASSES, 2, replace=False) + 1)
        others = sorted(set(range(1, CLASSES + 1)) - present)
        records.append(
            {
                "id": image,
                "height": SIZE,
                "width": SIZE,
                "coco_url": f"http://images.example/train2017/{image:012}.jpg",
                "neg_category_ids": [int(one) for one in rng.choice(others, 2, replace=False)],
                "not_exhaustive_category_ids": [int(one) for one in present if rng.random() < 0.5],
            }
        )
        for category in present:
            for _ in range(rng.integers(1, 4)):
                x, y, w, h = (*rng.integers(0, 60, 2).tolist(), *rng.integers(10, 40, 2).tolist())
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": int(category),
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "segmentation": [corners],
                    }
                )
                if rng.random() < 0.8:
                    dx, dy = rng.integers(-6, 7, 2).tolist()
                    results.append(result(rng, image, int(category), [x + dx, y + dy, w, h]))
        for _ in range(8):
            box = [*rng.integers(0, 60, 2).tolist(), *rng.integers(10, 40, 2).tolist()]
            results.append(result(rng, image, int(rng.integers(1, CLASSES + 1)), box))
    categories = [{"id": k, "name": f"class {k}", "frequency": "rcf"[k % 3]} for k in range(1, CLASSES + 1)]
    return {"images": records, "annotations": annotations, "categories": categories}, results


def result(rng: np.random.Generator, image: int, category: int, box: list[float]) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": round(float(rng.random()), 6)}


def overlap(one: list[float], other: list[float]) -> float:
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def plain_ap(truth: dict[str, Any], results: list[dict[str, Any]], most: int) -> dict[int, float]:
    """AP of each class by the rules of Gupta et al. 2019, section 4.2."""
    kept: list[dict[str, Any]] = []
    images = {image["id"]: image for image in truth["images"]}
    for image in images:
        own = sorted((one for one in results if one["image_id"] == image), key=lambda one: -one["score"])
        kept += own[:most]
    aps = {}
    for category in (one["id"] for one in truth["categories"]):
        objects = {image: [] for image in images}
        for one in truth["annotations"]:
            if one["category_id"] == category:
                objects[one["image_id"]].append(one["bbox"])
        total = sum(map(len, objects.values()))
        if not total:
            continue
        means = []
        for threshold in THRESHOLDS:
            free = {image: [True] * len(boxes) for image, boxes in objects.items()}
            hits = []
            for one in sorted((r for r in kept if r["category_id"] == category), key=lambda one: -one["score"]):
                image = one["image_id"]
                if not objects[image] and category not in images[image]["neg_category_ids"]:
                    continue
                ious = [
                    overlap(one["bbox"], box) if ok else 0.0
                    for box, ok in zip(objects[image], free[image], strict=True)
                ]
                best = int(np.argmax(ious)) if ious else -1
                if best >= 0 and ious[best] >= threshold:
                    free[image][best] = False
                    hits.append(1)
                elif category not in images[image]["not_exhaustive_category_ids"]:
                    hits.append(0)
            found = np.cumsum(hits)
            precision = found / np.arange(1, len(hits) + 1)
            precision = np.maximum.accumulate(precision[::-1])[::-1] if len(hits) else precision
            at = np.searchsorted(found / total, RECALLS)
            means.append(np.append(precision, 0.0)[np.minimum(at, len(hits))].mean())
        aps[category] = float(np.mean(means))
    return aps


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [300, 5])
def test_ap_of_boxes(seed: int, most: int) -> None:
    truth, results = scene(seed)
    expected = plain_ap(truth, results, most)
    metrics = coco_metrics(truth, results, most)
    for category, value in expected.items():
        assert metrics["per_class"][f"class {category}"]["bbox"] == pytest.approx(value, abs=1e-9)
    assert metrics["bbox"]["AP"] == pytest.approx(np.mean(list(expected.values())))
    for name, letter in {"APr": "r", "APc": "c", "APf": "f"}.items():
        own = [expected[one["id"]] for one in truth["categories"] if one["frequency"] == letter]
        assert metrics["bbox"][name] == pytest.approx(np.mean(own))


def test_rules_change_the_value() -> None:
    truth, results = scene(0)
    plain = {**truth, "images": [{k: v for k, v in one.items() if "category" not in k} for one in truth["images"]]}
    assert coco_metrics(plain, results, 300)["bbox"]["AP"] < coco_metrics(truth, results, 300)["bbox"]["AP"]
    assert "APr" not in coco_metrics(plain, results, 300)["bbox"]


def test_masks_and_matches_follow_the_rules() -> None:
    truth, results = scene(1)
    exact = [
        {
            "image_id": one["image_id"],
            "category_id": one["category_id"],
            "score": 0.9,
            "segmentation": mask(one["bbox"]),
        }
        for one in truth["annotations"]
    ]
    assert coco_metrics(truth, exact, 300)["segm"]["AP"] == pytest.approx(1.0)
    comparison = compare(truth, results, 300)
    for image in matched_images(comparison, 300):
        assert (image.ignored == (image.doubtful & (image.match < 0))).all()
    counted = confusion_matrix(matched_images(comparison, 300), CLASSES, 0.0)
    verified = sum(one["category_id"] in truth["images"][one["image_id"] - 1]["neg_category_ids"] for one in results)
    assert 0 < counted[CLASSES].sum() < len(results)
    assert len(comparison.results) < len(results)
    assert verified


def mask(box: list[int]) -> dict[str, Any]:
    x, y, w, h = box
    drawn = np.zeros((SIZE, SIZE), np.uint8)
    drawn[y : y + h, x : x + w] = 1
    flat = np.concatenate(([0], drawn.flatten(order="F"), [0]))
    edges = np.flatnonzero(np.diff(flat))
    return {"size": [SIZE, SIZE], "counts": np.diff(np.concatenate(([0], edges, [SIZE * SIZE]))).tolist()}


def test_command_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, results = scene(2)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments = ["--annotations", tmp_path / "truth.json", "--results", tmp_path / "results.json"]
    assert run(["evaluate", *map(str, arguments), "--json", str(tmp_path / "m.json")]) == 0
    content = json.loads((tmp_path / "m.json").read_text())
    assert "AR@300" in content["bbox"]
    assert "APr" in capsys.readouterr().out
    box = Metrics(content).box
    assert (box.ap_rare, box.ap_common, box.ap_frequent) == tuple(
        content["bbox"][name] for name in ("APr", "APc", "APf")
    )


@pytest.mark.parametrize("named", [False])
def test_files_keep_the_rules(tmp_path: Path, named: bool) -> None:
    """Also if images have file names, so that the fast reader takes the file."""
    truth, results = scene(4)
    if named:
        truth["images"] = [{**one, "file_name": f"{one['id']}.jpg"} for one in truth["images"]]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert coco_metrics(tmp_path / "truth.json", results, 300) == coco_metrics(truth, results, 300)


def test_images_are_found_by_their_url(tmp_path: Path) -> None:
    from PIL import Image

    truth, _ = scene(3, images=2)
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for image in truth["images"]:
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "train2017" / f"{image['id']:012}.jpg")
    file = tmp_path / "annotations" / "lvis_v1_train.json"
    file.write_text(json.dumps(truth))
    assert [record.path.name for record in read_coco(file, tmp_path).images] == ["000000000001.jpg", "000000000002.jpg"]
    assert len(Dataset.from_folder(tmp_path)) == 2
