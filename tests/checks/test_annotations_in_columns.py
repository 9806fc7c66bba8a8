"""The doctor finds the same in columns, where it looks at suspects only, as in every annotation one by one."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from htc.checks.balance import statistics
from htc.checks.examine import fast_findings
from htc.config import Input
from htc.data.annotation_file import KIND, annotation_file, read_annotation_file
from htc.files import read_json

SIZES = ((120, 160), (90, 64), (40, 40))
NUMBERS = (0, 0.5, 1, 2, 2.5, 3.9, 4, 7.25, 20, 33, 80, 160.5, 161.5)


def contents(seed: int) -> dict[str, Any]:
    """A file that can be read strictly, most of whose annotations are doubtful in some way."""
    dice = random.Random(seed)
    images = [
        {"id": number + 3, "file_name": f"{number}.png", "height": height, "width": width}
        for number, (height, width) in enumerate(dice.choices(SIZES, k=dice.randint(1, 6)))
    ]
    annotations: list[dict[str, Any]] = []
    for number in range(dice.randint(0, 25)):
        image = dice.choice(images)
        if annotations and dice.random() < 0.15:
            twin = dice.choice(annotations)
            annotations.append({**twin, "id": number, "category_id": dice.choice((twin["category_id"], 1))})
            continue
        annotations.append(annotation(number, image, dice))
    names = ("cat", "dog", "Cat", "bird")
    categories = [{"id": 2 * number + 1, "name": name} for number, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def annotation(number: int, image: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    height, width = image["height"], image["width"]
    rings = [ring(dice, height, width) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
    points = np.array([value for one in rings for value in one]).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    record: dict[str, Any] = {
        "id": number,
        "image_id": image["id"],
        "category_id": dice.choice((1, 3, 5)),
        "bbox": [float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])],
        "segmentation": rings,
    }
    if dice.random() < 0.3:
        record["bbox"] = [round(value + dice.choice((0, 0.4, 1, 9)), dice.choice((0, 2))) for value in record["bbox"]]
    if dice.random() < 0.1:
        record["bbox"] = [dice.choice(NUMBERS) * dice.choice((1, -1)), 0, dice.choice(NUMBERS), dice.choice(NUMBERS)]
    kind = dice.random()
    if kind < 0.15:
        record["segmentation"] = dice.choice(([], rings[:0]))
    elif kind < 0.2:
        del record["segmentation"]
    elif kind < 0.35:
        record["segmentation"] = runs(dice, height, width)
    for name, chance in (("iscrowd", 0.7), ("ignore", 0.1)):
        if dice.random() < chance:
            record[name] = int(dice.random() < 0.2)
    if dice.random() < 0.8:
        record["area"] = abs(area(points)) * dice.choice((1, 1, 1, 1.2, 0.5, -1))
    return record


def ring(dice: random.Random, height: int, width: int) -> list[float]:
    kind = dice.random()
    if kind < 0.2:  # arbitrary points: outside, on a line, tiny, between 0 and 1
        scale = dice.choice((1, 0.9, 3, width, 1.3 * width))
        return [round(dice.uniform(-0.05, 1) * scale, dice.choice((0, 1, 3))) for _ in range(2 * dice.randint(3, 6))]
    count, turn = dice.randint(3, 12), dice.choice((1, -1))
    radius, x, y = dice.uniform(1, 25), dice.uniform(10, width - 10), dice.uniform(10, height - 10)
    angles = [turn * 2 * math.pi * step / count for step in range(count)]
    digits = dice.choice((0, 2, 15))
    ring = [value for a in angles for value in (x + radius * math.cos(a), y + radius * math.sin(a))]
    limits = (width, height)
    return [round(min(max(value, 0), limits[at % 2]), digits) for at, value in enumerate(ring)]


def area(points: np.ndarray) -> float:
    x, y = points.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def runs(dice: random.Random, height: int, width: int) -> dict[str, Any]:
    cuts = sorted(dice.sample(range(height * width + 1), dice.choice((0, 1, 2, 2, 5))))
    counts = np.diff([0, *cuts, height * width]).tolist()
    return {"size": [height, width], "counts": counts}


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_findings_and_statistics_are_equal(tmp_path: Path, start: int) -> None:
    path, codes = tmp_path / "annotations.json", set()
    for seed in range(start, start + 50):
        path.write_text(json.dumps(contents(seed)))
        fast = read_annotation_file(path, tmp_path, "train")
        assert fast.columns is not None
        slow = annotation_file(read_json(path, KIND), path, tmp_path, "train")
        findings = list(fast_findings(slow, Input(), 12))
        assert list(fast_findings(fast, Input(), 12)) == findings
        codes |= {finding.code for finding in findings}
        one, other = statistics(fast), statistics(slow)
        for name in ("sizes", "boxes", "labels", "images"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert one.classes == other.classes
    assert len(codes) > 20, codes


def test_whole_numbers_are_found(tmp_path: Path) -> None:
    """Boxes of integers for polygons with fractions."""
    content = contents(3)
    image = content["images"][0]
    content["annotations"] = [
        {
            "id": number,
            "image_id": image["id"],
            "category_id": 1,
            "bbox": [5, 5, 20, 20],
            "segmentation": [[5.3, 5.2, 25.4, 5.3, 25.1, 24.8, 5.2, 25.2]],
            "area": 395,
            "iscrowd": 0,
        }
        for number in range(3)
    ]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    fast = read_annotation_file(path, tmp_path)
    found = [finding.code for finding in fast_findings(fast, Input(), 12)]
    assert "box-whole-numbers" in found
    content["annotations"][1]["bbox"][0] = 5.25
    path.write_text(json.dumps(content))
    assert "box-whole-numbers" not in [
        one.code for one in fast_findings(read_annotation_file(path, tmp_path), Input(), 12)
    ]
