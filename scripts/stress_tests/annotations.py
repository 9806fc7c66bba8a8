"""Mutated annotation files through the doctor, the readers of training and evaluation, and the converters.

Each accepts or refuses a file with one of our errors, and what the doctor accepts, training and evaluation accept.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import htc
from htc.data.coco import read_coco
from htc.data.formats.layouts import convert_data
from htc.errors import HTCError
from htc.evaluation.coco import coco_metrics
from stress_tests.harness import Case, Stress
from stress_tests.samples import mutated, write_dataset

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.5, 1e308, 10**400, float("nan"), float("inf"), "", "1", "x", "\x00", "0.png"),
    *("..\\0.png", "/etc/passwd", "a" * 5000, [], {}, [[]], [1], [1, 2, 3, 4], [5.0, 5.0, 20, 20], ["a"] * 6),
    *([[10**400] * 6], [[5, 5, 20, 5, 20, 20]], [[5, 5, 20, 5, 20, 20], [1, 1]], {"counts": "", "size": [72, 80]}),
    *({"size": [72, 80], "counts": [5760]}, {"size": [72, 80], "counts": [10**30]}, {"size": [2**40, 2**40]}),
    *({"size": [72, 80], "counts": "~~~~"}, {"counts": [0, -5, 8], "size": [72, 80]}),
)
YOLO = "names: [disc, square]\ntrain: images/train\nval: images/val\n"
LINE = "0 0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8\n1 0.5 0.5 0.25 0.25\n"


def prepare(shared: Path) -> Case:
    """Write a dataset of COCO, YOLO and labelme; the case mutates one annotation file of a copy."""
    coco, yolo, labelme = shared / "coco", shared / "yolo", shared / "labelme"
    annotations = write_dataset(coco, "train", 3, 0)
    for part in ("train", "val"):
        shutil.copytree(coco / "train", yolo / "images" / part)
        (yolo / "labels" / part).mkdir(parents=True)
        for image in (yolo / "images" / part).iterdir():
            (yolo / "labels" / part / f"{image.stem}.txt").write_text(LINE)
    (yolo / "data.yaml").write_text(YOLO)
    shutil.copytree(coco / "train", labelme)
    points = [[5, 5], [30, 5], [30, 40]]
    shape = {"label": "disc", "points": points, "shape_type": "polygon", "group_id": None, "flags": {}}
    for image in sorted(labelme.glob("*.png")):
        content = {"version": "5", "imagePath": image.name, "imageHeight": 72, "imageWidth": 80, "shapes": [shape]}
        image.with_suffix(".json").write_text(json.dumps({**content, "imageData": None}))
    content = annotations.read_bytes()

    def case(_index: int, numbers: random.Random, folder: Path) -> str | None:
        if numbers.random() < 0.6:
            path = folder / "train.json"
            path.write_bytes(changed(content, numbers))
            return coco_outcome(path, coco / "train")
        source = numbers.choice((yolo, labelme))
        copy = folder / source.name
        shutil.copytree(source, copy)
        target = numbers.choice(sorted(path for path in copy.rglob("*") if path.suffix in (".json", ".txt", ".yaml")))
        target.write_bytes(changed(target.read_bytes(), numbers))
        return other_outcome(copy, folder / "converted")

    return case


def coco_outcome(path: Path, images: Path) -> str | None:
    """Read the file in every way; return what is wrong with the way in which it fails or succeeds."""
    report, refused = attempt(lambda: htc.doctor(path, images, progress=False))
    accepted = refused is None and report is not None and not report.counts["error"]
    for name, read in {
        "training": lambda: read_coco(path, images),
        "evaluation": lambda: coco_metrics(path, []),
    }.items():
        _, error = attempt(read)
        expected = "has no segmentation, but others have one" in (error or "")  # masks are evaluated if all have one
        if error is not None and accepted and not expected:
            return f"the doctor accepts the file, {name} refuses it: {error[:500]}"
        if error is not None and path.name not in error:
            return f"{name}: the message does not name the file: {error[:500]}"
    if refused is not None and path.name not in refused:
        return f"doctor: the message does not name the file: {refused[:500]}"
    return None


def other_outcome(folder: Path, destination: Path) -> str | None:
    """Convert the folder; what was converted, training accepts."""
    _, error = attempt(lambda: convert_data(folder, destination))
    if error is not None:
        return None if folder.name in error else f"the message does not name the folder or file: {error[:500]}"
    for path in destination.rglob("*.json"):
        _, refused = attempt(lambda path=path: read_coco(path, folder))
        if refused is not None:
            return f"{path.name} was converted, but training refuses it: {refused[:500]}"
    return None


def attempt(work: Callable[[], Any]) -> tuple[Any, str | None]:
    """Return (result, None), or (None, message) of one of our errors; any other exception is a failure."""
    try:
        return work(), None
    except HTCError as error:
        return None, str(error)


def changed(content: bytes, numbers: random.Random) -> bytes:
    """Change bytes, or one to three values of a JSON file."""
    if numbers.random() < 0.3 or not content.lstrip().startswith(b"{"):
        return mutated(content, numbers)
    values = json.loads(content)
    for _ in range(numbers.choice((1, 1, 2, 3))):
        change_value(values, numbers)
    return json.dumps(values).encode()


def change_value(values: Any, numbers: random.Random) -> None:
    """Replace, remove or repeat a random value inside."""
    inside = values
    while isinstance(inside, dict | list) and inside:
        key = numbers.choice(sorted(inside)) if isinstance(inside, dict) else numbers.randrange(len(inside))
        if isinstance(inside[key], dict | list) and inside[key] and numbers.random() < 0.85:
            inside = inside[key]
            continue
        if numbers.random() < 0.2:
            del inside[key]
        elif numbers.random() < 0.1 and isinstance(inside, list):
            inside.append(inside[key])
        else:
            inside[key] = numbers.choice(JUNK)
        return


STRESS = Stress(
    "annotations",
    "mutated COCO, YOLO and labelme files: doctor, training and evaluation agree, or refuse them by name",
    10_000,
    prepare,
    at_least=20,
)
