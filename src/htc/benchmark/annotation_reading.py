"""Time and memory of reading an annotation file of COCO's size: first, from the cache, in workers, in `htc doctor`.

`write_annotations` generates the file; each part is measured in a process of its own:
`python -m htc.benchmark.annotation_reading PART FILE FOLDER`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from htc.files import whole_file

SIZE = (480, 640)
CLASSES = 80
INSTANCES = 860_001
"""Instances of COCO train2017, on 118,287 images."""
PER_IMAGE = 7.27
POINTS = 22
"""Average points of a polygon: 450 MB for all instances of train2017."""
CROWDS = 0.012
"""Share of crowds, whose masks are run lengths."""
SECOND_RINGS = 0.12
"""Share of instances with two polygons."""


def write_annotations(path: Path, instances: int = INSTANCES, seed: int = 0) -> int:
    """Write a valid COCO instance file with that many instances, and return the number of images (one for 7.27)."""
    generator = np.random.default_rng(seed)
    images = max(1, round(instances / PER_IMAGE))
    owners = np.sort(generator.integers(0, images, instances))
    with whole_file(path) as writer:
        writer.write(b'{"info": {"description": "generated"}, "licenses": [{"id": 1, "name": "none"}], "images": [')
        for image in range(1, images + 1):
            writer.write(_json(_image(image)) + (b", " if image < images else b""))
        writer.write(b'], "annotations": [')
        for number, owner in enumerate(owners.tolist(), start=1):
            text = _json(_annotation(number, owner + 1, generator))
            writer.write(text + (b", " if number < instances else b""))
        categories = [{"supercategory": "thing", "id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
        writer.write(b'], "categories": ' + _json(categories) + b"}\n")
    return images


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _image(number: int) -> dict[str, Any]:
    """An image record with the fields of COCO's."""
    name = f"{number:012}.jpg"
    return {
        "license": 1,
        "file_name": name,
        "coco_url": f"http://images.example.org/train2017/{name}",
        "height": SIZE[0],
        "width": SIZE[1],
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://farm9.example.org/8186/{number:010}_d2c6ae8f1b_z.jpg",
        "id": number,
    }


def _annotation(number: int, image: int, generator: np.random.Generator) -> dict[str, Any]:
    crowd = generator.random() < CROWDS
    rings = [_ring(generator)]
    if generator.random() < SECOND_RINGS:
        rings.append(_ring(generator))
    points = np.concatenate(rings)
    low, high = points.min(0), points.max(0)
    segmentation: Any = [ring.ravel().tolist() for ring in rings]
    area = float(sum(_area(ring) for ring in rings))
    if crowd:
        left, top, right, bottom = int(low[0]), int(low[1]), *(int(value) for value in np.ceil(high))
        low, high, area = np.array([left, top]), np.array([right, bottom]), float((right - left) * (bottom - top))
        segmentation = {"counts": _filled(left, top, right, bottom), "size": list(SIZE)}
    return {
        "segmentation": segmentation,
        "area": round(area, 4),
        "iscrowd": int(crowd),
        "image_id": image,
        "bbox": [round(float(value), 2) for value in (*low, *(high - low))],
        "category_id": int(generator.integers(1, CLASSES + 1)),
        "id": number,
    }


def _ring(generator: np.random.Generator) -> Float[np.ndarray, "V 2"]:
    """A wavy ellipse with a radius of 6 to 120 pixels within the image, in hundredths of a pixel."""
    count = max(4, int(generator.poisson(POINTS)))
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = 10 ** generator.uniform(0.8, 2.08) * (1 + 0.15 * np.sin(3 * angle + generator.uniform(0, 6)))
    center = generator.uniform((20, 20), (SIZE[1] - 20, SIZE[0] - 20))
    points = center + np.stack((1.3 * radius * np.cos(angle), radius * np.sin(angle)), axis=1)
    return np.clip(points, 0, (SIZE[1], SIZE[0])).round(2)


def _area(ring: Float[np.ndarray, "V 2"]) -> float:
    x, y = ring.T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2))


def _filled(left: int, top: int, right: int, bottom: int) -> list[int]:
    """Run lengths of a filled box, down the columns."""
    height = SIZE[0]
    between = [bottom - top, height - (bottom - top)] * (right - left)
    counts = [left * height + top, *between[:-1]]
    return [*counts, SIZE[0] * SIZE[1] - sum(counts)]
